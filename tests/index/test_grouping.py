"""A query finds the same, to the last bit, alone and among others, however thorough."""

from functools import cache

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.vectors import create, depth, search

KNOBS = {
    "Flat": Knobs(),
    "HNSW16": Knobs(ef_search=9),
    "HNSW16,SQ8": Knobs(ef_search=30),
    "IVF8,Flat": Knobs(nprobe=3),
    "IVF8_HNSW8,Flat": Knobs(ef_search=12, nprobe=2),
    "IVF4,Flat,RFlat": Knobs(nprobe=1),
    "SQ8": Knobs(),
    "PQ4x4": Knobs(),
    "PQ4x4fs": Knobs(),
    "OPQ4,IVF4,PQ4x4": Knobs(nprobe=2),
}
QUERIES = np.random.default_rng(2).standard_normal((24, 32), dtype=np.float32)


@cache
def index_of(factory: str) -> faiss.Index:
    """Return an index of 600 passages, some of them there up to forty times."""
    vectors = np.random.default_rng(1).standard_normal((560, 32), dtype=np.float32)
    vectors[100:120] = vectors[7]
    return create(factory, np.concatenate([vectors, np.repeat(vectors[9:10], 40, axis=0)]))


@cache
def alone(factory: str, knobs: Knobs, n_docs: int) -> Hits:
    """Return the hits of each query searched by itself."""
    hits = [search(index_of(factory), QUERIES[n : n + 1], n_docs, knobs) for n in range(24)]
    return Hits(*(np.concatenate(arrays) for arrays in zip(*hits, strict=True)))


def assert_same(hits: Hits, expected: Hits) -> None:
    for one, same in zip(hits, expected, strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("factory", KNOBS)
@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.integers(0, 23), min_size=1, max_size=24),
    n_docs=st.sampled_from([1, 5, 13]),
    is_set=st.booleans(),
)
def test_a_query_finds_the_same_in_any_company(factory, rows, n_docs, is_set) -> None:
    knobs = KNOBS[factory] if is_set else Knobs()

    hits = search(index_of(factory), QUERIES[rows], n_docs, knobs)

    assert_same(hits, Hits(*(array[rows] for array in alone(factory, knobs, n_docs))))


@pytest.mark.parametrize("factory", KNOBS)
def test_fewer_hits_are_the_first_of_more_of_the_same_depth(factory) -> None:
    assert depth(1) == depth(5) != depth(6)
    more = search(index_of(factory), QUERIES, 5, KNOBS[factory])

    for n_docs in range(1, 5):
        hits = search(index_of(factory), QUERIES, n_docs, KNOBS[factory])
        assert_same(hits, Hits(*(array[:, :n_docs] for array in more)))


@pytest.mark.parametrize("together", [False, True])
def test_passages_that_score_alike_come_in_the_order_of_their_ids(together) -> None:
    same_text = index_of("Flat").reconstruct(9)
    queries = np.repeat(same_text[None], 8 if together else 1, axis=0)

    hits = search(index_of("Flat"), queries, 12)

    assert hits.ids[0].tolist() == [9, *range(560, 571)]


def test_exact_hits_are_those_of_double_precision() -> None:
    vectors = index_of("Flat").reconstruct_n(0, 600).astype(np.float64)
    scores = (QUERIES.astype(np.float64) @ vectors.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :30]

    hits = search(index_of("Flat"), QUERIES, 30)

    np.testing.assert_array_equal(hits.ids, order)
    np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize(
    ("factory", "few", "many"),
    [
        ("HNSW16", Knobs(ef_search=8), Knobs(ef_search=600)),
        ("IVF8,Flat", Knobs(nprobe=1), Knobs(nprobe=8)),
        ("IVF8_HNSW8,Flat", Knobs(nprobe=1, ef_search=1), Knobs(nprobe=8, ef_search=50)),
        ("IVF4,Flat,RFlat", Knobs(nprobe=1), Knobs(nprobe=4)),
    ],
)
def test_a_knob_makes_one_search_more_thorough_and_leaves_the_next(factory, few, many) -> None:
    index = index_of(factory)
    exact = search(index_of("Flat"), QUERIES, 5).scores
    before = search(index, QUERIES, 5).ids

    found = {
        knobs: (search(index, QUERIES, 5, knobs).scores == exact).mean()
        for knobs in (few, many)
    }

    assert found[few] < found[many]
    assert found[many] > 0.9  # copies of one passage cut a graph in pieces
    np.testing.assert_array_equal(search(index, QUERIES, 5).ids, before)


@pytest.mark.parametrize(
    ("factory", "knobs"), [("Flat", Knobs(nprobe=1)), ("IVF8,Flat", Knobs(ef_search=9))]
)
def test_a_knob_that_was_not_checked_before_is_our_fault(factory, knobs) -> None:
    with pytest.raises(AssertionError, match="has no use for"):
        search(index_of(factory), QUERIES, 5, knobs)
