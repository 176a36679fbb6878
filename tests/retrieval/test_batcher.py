"""Searched together, everybody gets what they would get alone, and nobody waits in vain."""

import asyncio
import time
from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.vectors import create, search
from ragsearch.retrieval.batcher import Batcher, BusyError, SearchCost
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


class Gate:
    """Searches that are noted, and last until they are let through; hits tell the query."""

    def __init__(self) -> None:
        self.open = Event()
        self.open.set()
        self.searches: list[list[int]] = []

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Note it; a knob of 13 fails."""
        self.searches.append(queries[:, 0].astype(int).tolist())
        assert self.open.wait(10)
        if knobs.nprobe == 13:
            message = "no luck"
            raise ValueError(message)
        ids = np.repeat(queries[:, :1].astype(np.int64), n_docs, axis=1)
        return Hits(ids, ids.astype(np.float32), np.zeros((*ids.shape, 1), np.float32))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


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
        st.integers(0, 3),  # milliseconds before it comes
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(requests=requests, max_queries=st.integers(1, 64))
def test_together_everybody_gets_what_they_would_get_alone(graph, requests, max_queries):
    async def ask(batcher: Batcher, request: tuple) -> Hits:
        client, first, n_queries, n_docs, knobs, after_ms = request
        await asyncio.sleep(after_ms / 1e3)
        queries = QUERIES[first : first + n_queries]
        return await batcher.submit(client, queries, n_docs, knobs)

    async def everybody() -> list[Hits]:
        batcher = Batcher(graph, Meter(), max_queries=max_queries)
        try:
            return await asyncio.gather(*(ask(batcher, request) for request in requests))
        finally:
            assert batcher.n_waiting == 0
            batcher.close()

    for hits, (_, first, n_queries, n_docs, knobs, _) in zip(
        asyncio.run(everybody()), requests, strict=True
    ):
        alone = graph.search(QUERIES[first : first + n_queries], n_docs, knobs)
        for one, same in zip(hits, alone, strict=True):
            np.testing.assert_array_equal(one, same)


async def _gated(gate: Gate, **settings: int) -> tuple[Batcher, Meter, asyncio.Task[Hits]]:
    """Return a batcher that searches query 0 until the gate opens."""
    meter = Meter()
    batcher = Batcher(gate, meter, **settings)
    gate.open.clear()
    first = asyncio.create_task(batcher.submit("zero", rows(0, 1), 1, Knobs()))
    while not gate.searches:  # noqa: ASYNC110 (the search is on another thread)
        await asyncio.sleep(0.001)
    return batcher, meter, first


def test_what_waits_while_a_search_runs_is_searched_together(gate):
    async def play() -> None:
        batcher, meter, first = await _gated(gate)
        others = [
            asyncio.create_task(batcher.submit(f"client {n}", rows(n, 2), 1, Knobs()))
            for n in (10, 20, 30)
        ]
        await asyncio.sleep(0)
        assert batcher.n_waiting == 7
        gate.open.set()
        hits = await asyncio.gather(first, *others)

        assert [one.ids[:, 0].tolist() for one in hits] == [[0], [10, 11], [20, 21], [30, 31]]
        assert gate.searches == [[0], [10, 11, 20, 21, 30, 31]]
        assert meter.figures()["queries_per_search"] == 3.5

    asyncio.run(play())


def test_a_client_with_many_queries_does_not_starve_one_with_few(gate):
    async def play() -> None:
        batcher, _, first = await _gated(gate, max_queries=4)
        many = asyncio.create_task(batcher.submit("many", rows(100, 16), 1, Knobs()))
        await asyncio.sleep(0)
        few = asyncio.create_task(batcher.submit("few", rows(10, 2), 1, Knobs()))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, few, many)

        order = [min(searched) for searched in gate.searches]
        assert order.index(10) <= 2
        assert many.result().ids[:, 0].tolist() == list(range(100, 116))

    asyncio.run(play())


def test_too_much_waiting_is_refused_and_counted(gate):
    async def play() -> None:
        batcher, meter, first = await _gated(gate, max_waiting=10)
        with pytest.raises(BusyError):
            await batcher.submit("many", rows(0, 10), 1, Knobs())
        gate.open.set()
        await first
        assert len((await batcher.submit("many", rows(0, 512), 1, Knobs())).ids) == 512
        assert meter.figures()["n_refused"] == 1

    asyncio.run(play())


def test_a_caller_that_gave_up_is_not_searched_for(gate):
    async def play() -> None:
        batcher, _, first = await _gated(gate)
        gone = asyncio.create_task(batcher.submit("gone", rows(50, 2), 1, Knobs()))
        there = asyncio.create_task(batcher.submit("there", rows(60, 2), 1, Knobs()))
        await asyncio.sleep(0)
        gone.cancel()
        gate.open.set()
        await asyncio.gather(first, there)

        assert gate.searches == [[0], [60, 61]]
        assert batcher.n_waiting == 0

    asyncio.run(play())


def test_a_search_that_fails_fails_only_those_who_asked_for_it(gate):
    async def play() -> None:
        batcher, _, first = await _gated(gate)
        bad = asyncio.create_task(batcher.submit("bad", rows(5, 2), 1, Knobs(nprobe=13)))
        good = asyncio.create_task(batcher.submit("good", rows(7, 2), 1, Knobs()))
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(ValueError, match="no luck"):
            await bad
        await asyncio.gather(first, good)

        assert batcher.n_waiting == 0

    asyncio.run(play())


class _Clock:
    """Stands still unless told."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_batch_waits_for_clients_that_are_due_and_for_no_others(gate):
    async def play() -> None:
        clock = _Clock()
        batcher = Batcher(gate, Meter(), clock=clock)
        for _ in range(2):  # both come again 2 ms after an answer
            await asyncio.gather(*(batcher.submit(c, rows(0, 1), 1, Knobs()) for c in "ab"))
            clock.now += 0.002

        assert not batcher._habits["a"].is_due(clock.now + 1, clock.now + 2)
        assert batcher._habits["a"].is_due(clock.now, clock.now + 0.001)
        assert not batcher._habits["a"].is_due(clock.now - 0.002, clock.now - 0.001)
        batcher._note_arrival("a")
        assert batcher._any_due(clock.now, clock.now + 0.001)  # b
        batcher.forget("b")
        assert not batcher._any_due(clock.now, clock.now + 0.001)  # alone, it never waits

    asyncio.run(play())


class Slow(Gate):
    """Searches that take as long whatever their queries."""

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Take a while."""
        time.sleep(0.03)
        return super().search(queries, n_docs, knobs)


def test_two_clients_that_ask_in_turn_come_to_be_searched_together():
    async def play() -> list[list[int]]:
        slow = Slow()
        batcher = Batcher(slow, Meter())

        async def ask(client: str, number: int) -> None:
            for _ in range(12):
                await batcher.submit(client, rows(number, 1), 1, Knobs())

        one = asyncio.create_task(ask("one", 1))
        await asyncio.sleep(0.01)  # the second comes while the first is searched for
        await asyncio.gather(one, ask("two", 2))
        return slow.searches

    searches = asyncio.run(play())

    assert sum(len(queries) == 2 for queries in searches) >= 8


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
