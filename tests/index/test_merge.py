"""Hits of shards, merged, are the hits of the whole index: bit for bit."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsearch.index.hits import Hits
from ragsearch.index.merge import merge_hits, shifted

DIMENSION = 3


def best(vectors: np.ndarray, queries: np.ndarray, n_docs: int) -> Hits:
    """Return exact hits the slow way, with ids of the rows, ties by id."""
    scores = (queries.astype(np.float64) @ vectors.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :n_docs]
    n_missing = n_docs - order.shape[1]
    ids = np.pad(order, ((0, 0), (0, n_missing)), constant_values=-1)
    found = np.take_along_axis(scores, order, axis=1)
    padded = np.pad(found, ((0, 0), (0, n_missing)), constant_values=-np.inf)
    rows = np.concatenate([vectors, np.zeros((1, DIMENSION), np.float32)])
    return Hits(ids, padded, rows[ids])


@st.composite
def cuts(draw):
    """Draw vectors with many ties, queries, and where to cut the vectors into shards."""
    coordinate = st.sampled_from([-1.0, 0.0, 1.0])
    row = st.lists(coordinate, min_size=DIMENSION, max_size=DIMENSION)
    vectors = np.array(draw(st.lists(row, min_size=1, max_size=12)), np.float32)
    queries = np.array(draw(st.lists(row, min_size=1, max_size=3)), np.float32)
    inner = draw(st.sets(st.integers(1, len(vectors)), max_size=4)) - {len(vectors)}
    return vectors, queries, [0, *sorted(inner), len(vectors)]


@settings(deadline=None)
@given(cuts(), st.integers(1, 15))
def test_merged_hits_of_shards_equal_those_of_the_whole(cut, n_docs) -> None:
    vectors, queries, ends = cut
    parts = [
        shifted(best(vectors[start:stop], queries, n_docs), start)
        for start, stop in pairwise(ends)
    ]

    merged = merge_hits(parts, n_docs)

    for one, same in zip(merged, best(vectors, queries, n_docs), strict=True):
        np.testing.assert_array_equal(one, same)


def test_shifting_leaves_missing_hits_missing() -> None:
    hits = best(np.ones((2, DIMENSION), np.float32), np.ones((1, DIMENSION), np.float32), 3)

    assert shifted(hits, 10).ids.tolist() == [[10, 11, -1]]


def test_a_hit_that_scores_minus_infinity_comes_before_one_that_is_missing() -> None:
    lost = Hits(
        np.array([[4, -1]]),
        np.full((1, 2), -np.inf, np.float32),
        np.zeros((1, 2, DIMENSION), np.float32),
    )

    assert merge_hits([shifted(lost, 5), lost], 3).ids.tolist() == [[4, 9, -1]]
