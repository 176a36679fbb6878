"""Searched together, everybody gets what they would get alone, and nobody waits in vain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.vectors import create, search
from ragsearch.retrieval.batcher import Batcher, BusyError, Request, SearchCost
from ragsearch.retrieval.meter import Meter

VECTORS = np.random.default_rng(1).standard_normal((400, 16), dtype=np.float32)
QUERIES = np.random.default_rng(2).standard_normal((200, 16), dtype=np.float32)


class Graph:
    """A real index."""

    def __init__(self) -> None:
        self.index = create("IVF8_HNSW8,Flat", VECTORS)

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Search it."""
        return search(self.index, queries, n_docs, knobs)


class Notes:
    """Searches that are noted; hits tell the query."""

    def __init__(self) -> None:
        self.searches: list[list[int]] = []

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Note it; a knob of 13 fails."""
        self.searches.append(queries[:, 0].astype(int).tolist())
        if knobs.nprobe == 13:
            message = "no luck"
            raise ValueError(message)
        ids = np.repeat(queries[:, :1].astype(np.int64), n_docs, axis=1)
        return Hits(ids, ids.astype(np.float32), np.zeros((*ids.shape, 1), np.float32))


class Told:
    """What one who asked was told."""

    def __init__(self) -> None:
        self.hits: Hits | None = None
        self.error: Exception | None = None
        self.gave_up = False

    def is_waiting(self) -> bool:
        """Return whether nothing was told yet."""
        return not (self.gave_up or self.hits or self.error)

    def answer(self, hits: Hits) -> None:
        """Note it."""
        assert self.is_waiting()
        self.hits = hits

    def fail(self, error: Exception) -> None:
        """Note it."""
        assert self.is_waiting()
        self.error = error


def ask(
    batcher: Batcher, client: str, queries: np.ndarray, n_docs: int = 1, knobs: Knobs = Knobs()
) -> Told:
    told = Told()
    batcher.add(Request(client, queries, n_docs, knobs, told))
    return told


def search_all(batcher: Batcher) -> None:
    while batcher.wait_s() is not None:
        batcher.search()


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


@pytest.fixture
def notes() -> Notes:
    return Notes()


def rows(first: int, n: int) -> np.ndarray:
    """Return queries that are numbers."""
    return np.arange(first, first + n, dtype=np.float32)[:, None]


requests = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", "three"]),
        st.integers(0, 150),  # first query
        st.integers(0, 50),  # queries
        st.integers(1, 12),  # passages
        st.sampled_from([Knobs(), Knobs(nprobe=2), Knobs(ef_search=3, nprobe=7)]),
        st.booleans(),  # whether a search begins before the next one comes
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(requests=requests, max_queries=st.integers(1, 64))
def test_together_everybody_gets_what_they_would_get_alone(graph, requests, max_queries):
    batcher = Batcher(graph, Meter(), max_queries=max_queries)
    asked = []
    for client, first, n_queries, n_docs, knobs, searches in requests:
        queries = QUERIES[first : first + n_queries]
        asked.append(ask(batcher, client, queries, n_docs, knobs))
        if searches:
            batcher.search()
    search_all(batcher)

    assert batcher.n_waiting == 0
    for told, (_, first, n_queries, n_docs, knobs, _) in zip(asked, requests, strict=True):
        alone = graph.search(QUERIES[first : first + n_queries], n_docs, knobs)
        for one, same in zip(told.hits, alone, strict=True):
            np.testing.assert_array_equal(one, same)


def test_what_waits_is_searched_together(notes):
    meter = Meter()
    batcher = Batcher(notes, meter)
    asked = [ask(batcher, f"client {n}", rows(n, 2)) for n in (10, 20, 30)]
    assert batcher.n_waiting == 6
    batcher.search()

    ids = [told.hits.ids[:, 0].tolist() for told in asked]
    assert ids == [[10, 11], [20, 21], [30, 31]]
    assert notes.searches == [[10, 11, 20, 21, 30, 31]]
    assert meter.figures()["queries_per_search"] == 6
    assert batcher.wait_s() is None


def test_a_client_with_many_queries_does_not_starve_one_with_few(notes):
    batcher = Batcher(notes, Meter(), max_queries=4)
    many = ask(batcher, "many", rows(100, 16))
    batcher.search()
    few = ask(batcher, "few", rows(10, 2))
    search_all(batcher)

    order = [min(searched) for searched in notes.searches]
    assert few.hits is not None
    assert order.index(10) <= 2
    assert many.hits.ids[:, 0].tolist() == list(range(100, 116))


def test_too_much_waiting_is_refused_and_counted(notes):
    meter = Meter()
    batcher = Batcher(notes, meter, max_waiting=10)
    ask(batcher, "first", rows(0, 1))
    with pytest.raises(BusyError):
        ask(batcher, "many", rows(0, 10))
    batcher.search()
    large = ask(batcher, "many", rows(0, 512))
    search_all(batcher)

    assert len(large.hits.ids) == 512
    assert meter.figures()["n_refused"] == 1


def test_a_caller_that_gave_up_is_not_searched_for(notes):
    batcher = Batcher(notes, Meter())
    gone, _ = ask(batcher, "gone", rows(50, 2)), ask(batcher, "there", rows(60, 2))
    gone.gave_up = True
    batcher.search()

    assert notes.searches == [[60, 61]]
    assert batcher.n_waiting == 0
    assert batcher.wait_s() is None


def test_nobody_left_is_no_search(notes):
    batcher = Batcher(notes, Meter())
    ask(batcher, "gone", rows(50, 2)).gave_up = True
    batcher.search()

    assert notes.searches == []
    assert batcher.wait_s() is None


def test_a_search_that_fails_fails_only_those_who_asked_for_it(notes):
    batcher = Batcher(notes, Meter(), max_queries=4)
    bad = ask(batcher, "bad", rows(5, 9), knobs=Knobs(nprobe=13))
    good = ask(batcher, "good", rows(7, 2))
    search_all(batcher)

    assert str(bad.error) == "no luck"
    assert good.hits is not None
    assert notes.searches == [[5, 6, 7, 8], [7, 8]]  # what is left of a failed one is not
    assert batcher.n_waiting == 0


class _Clock:
    """Stands still unless told."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Slow(Notes):
    """Searches that take as long whatever their queries."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self.clock = clock

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Take a while."""
        self.clock.now += 0.03
        return super().search(queries, n_docs, knobs)


def test_a_batch_waits_for_clients_that_are_due_and_for_no_others():
    clock = _Clock()
    batcher = Batcher(Slow(clock), Meter(), clock=clock)
    for _ in range(2):  # both come again 2 ms after an answer
        for client in "ab":
            ask(batcher, client, rows(0, 1))
        batcher.search()
        clock.now += 0.002
    ask(batcher, "a", rows(0, 1))
    clock.now -= 0.001

    assert batcher.wait_s() == pytest.approx(0.015)  # half of a search, for b
    clock.now += 0.0151
    assert batcher.wait_s() == 0.0  # it did not come
    batcher.search()
    ask(batcher, "a", rows(0, 1))
    batcher.forget("b")
    assert batcher.wait_s() == 0.0  # alone, it never waits


def test_a_full_batch_waits_for_nobody():
    clock = _Clock()
    batcher = Batcher(Slow(clock), Meter(), max_queries=2, clock=clock)
    for _ in range(2):
        for client in "ab":
            ask(batcher, client, rows(0, 1))
        batcher.search()
        clock.now += 0.002
    ask(batcher, "a", rows(0, 2))
    clock.now -= 0.001

    assert batcher.wait_s() == 0.0


@pytest.mark.parametrize(
    ("fixed_s", "a_query_s", "expected_s"), [(0.02, 0.0005, 0.02), (0.0, 0.0003, 0.0)]
)
def test_a_search_is_worth_waiting_for_as_long_as_sharing_saves(
    fixed_s: float, a_query_s: float, expected_s: float
) -> None:
    cost = SearchCost()
    assert cost.shared_s() == 0.0

    for n_queries in [8, 16, 8, 32, 16] * 10:
        cost.learn(n_queries, fixed_s + a_query_s * n_queries)

    assert cost.shared_s() == pytest.approx(expected_s, abs=1e-6)


def test_searches_of_one_size_say_little_so_half_of_one_is_tried() -> None:
    cost = SearchCost()

    for _ in range(5):
        cost.learn(8, 0.016)

    assert cost.shared_s() == pytest.approx(0.008)
