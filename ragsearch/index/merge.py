"""The hits of several shards become those of the whole index.

The same function merges shards opened in one process and shards answered by a pool.

Axes: Q queries, K passages per query, D embedding size.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from ragsearch.index.hits import Hits


def shifted(hits: Hits, start: int) -> Hits:
    """Return hits of a shard under the ids of the whole index.

    Args:
        hits: Ids count from the shard's first passage.
        start: Number of that passage in the whole index.
    """
    return hits._replace(ids=np.where(hits.ids < 0, hits.ids, hits.ids + start))


def merge_hits(parts: Sequence[Hits], n_docs: int) -> Hits:
    """Return the best `n_docs` of all parts: largest score first, of equals the smallest id.

    With the `n_docs` best of every shard this is exact: what a shard leaves out has `n_docs`
    before it in that shard alone.

    Args:
        parts: At least one; each best first and with missing hits at the end.
        n_docs: Hits a query; no part may have fewer columns.
    """
    if len(parts) == 1 and parts[0].ids.shape[1] == n_docs:
        return parts[0]
    ids, scores, vectors = (
        np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)
    )
    order = best_first(ids, scores)[:, :n_docs]
    rows = np.arange(len(order))[:, None]
    return Hits(ids[rows, order], scores[rows, order], vectors[rows, order])


def best_first(
    ids: Int64[np.ndarray, "Q K"], scores: Float32[np.ndarray, "Q K"]
) -> Int64[np.ndarray, "Q K"]:
    """Return the order of hits: largest score first, of equals the smallest id."""
    # a missing hit scores -inf, but so may none: the id that says so must come last
    last_if_missing = np.where(ids < 0, np.iinfo(ids.dtype).max, ids)
    order: np.ndarray = np.lexsort((last_if_missing, -scores), axis=1)
    return order
