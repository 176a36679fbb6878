"""What a search may be told, and what it returns: three arrays that belong together.

Axes: Q queries, K passages per query, D embedding size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64


class Knobs(NamedTuple):
    """How thorough a search is, call by call; None is as the index was built."""

    ef_search: int | None = None
    """Candidates a graph (HNSW) keeps while searching."""
    nprobe: int | None = None
    """Cells of an IVF that are searched."""


class Hits(NamedTuple):
    """The passages nearest to each query, best first.

    Where a query has fewer than K hits, the id is -1, the score -inf and the vector 0.
    """

    ids: Int64[np.ndarray, "Q K"]
    """Numbers of passages in the store."""
    scores: Float32[np.ndarray, "Q K"]
    """Inner products of query and vector."""
    vectors: Float32[np.ndarray, "Q K D"]
    """The passages' vectors as the index scores them: lossy codes decoded."""
