"""Queries and hits as they travel: plain bytes, which Ray sends 0.4 ms faster than arrays.

Vectors in half precision where they fit: 8 queries x 5 passages x 768 dimensions then stay
within the 100 KiB that Ray sends without detour. Ids and scores travel exactly.

Axes: Q queries, K passages per query, D embedding size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ragsearch.index.hits import Hits
from ragsearch.retrieval.retriever import in_half


class PackedQueries(NamedTuple):
    """Queries on their way to a replica."""

    numbers: bytes
    width: int


class PackedHits(NamedTuple):
    """Hits on their way to a client."""

    ids: bytes
    scores: bytes
    vectors: bytes
    shape: tuple[int, int, int]
    """Q, K and D."""
    precision: str
    """Type of the numbers in vectors, as NumPy names it."""


def pack_queries(queries: Float32[np.ndarray, "Q D"]) -> PackedQueries:
    """Return queries to be sent."""
    return PackedQueries(queries.astype(np.float32, copy=False).tobytes(), queries.shape[1])


def unpack_queries(packed: PackedQueries) -> Float32[np.ndarray, "Q D"]:
    """Return queries that came."""
    return np.frombuffer(packed.numbers, np.float32).reshape(-1, packed.width)


def pack_hits(hits: Hits) -> PackedHits:
    """Return hits to be sent."""
    n_queries, n_docs, width = hits.vectors.shape
    vectors = in_half(hits.vectors)
    return PackedHits(
        hits.ids.tobytes(),
        hits.scores.tobytes(),
        vectors.tobytes(),
        (n_queries, n_docs, width),
        vectors.dtype.name,
    )


def unpack_hits(packed: PackedHits) -> Hits:
    """Return hits that came, in arrays of their own that may be written to."""
    vectors = np.frombuffer(packed.vectors, packed.precision).reshape(packed.shape)
    return Hits(
        np.frombuffer(packed.ids, np.int64).reshape(packed.shape[:2]).copy(),
        np.frombuffer(packed.scores, np.float32).reshape(packed.shape[:2]).copy(),
        vectors.astype(np.float32),
    )
