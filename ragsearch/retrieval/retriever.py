"""The seam between a model and its passages: query vectors in, hits out, whoever answers.

Knows what an index can do; knows nothing of Ray, models or trials. A pool of actors, an index
in this process and a fake in a test all fulfil `Retriever`, and a trial cannot tell them apart.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from ragsearch.errors import RagsearchError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import PassageIndex
from ragsearch.index.store import Passage
from ragsearch.spec.knobs import why_useless


class BadQueriesError(RagsearchError):
    """A retriever was asked something no index can answer: wrong width, NaN, unknown ids."""

    exit_code: ClassVar[int] = 2


@runtime_checkable
class Retriever(Protocol):
    """Whoever finds the passages nearest to a query."""

    @property
    def fingerprint(self) -> str:
        """Hash of the index behind it."""

    @property
    def n_passages(self) -> int:
        """Passages in the index; ids run from 0 to one less."""

    @property
    def dimension(self) -> int:
        """Width a query must have."""

    def retrieve(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs = Knobs()
    ) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first.

        The same query finds the same, to the last bit, alone and among others.
        """

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, in the order asked."""


class InProcessRetriever:
    """An index opened in this process; its vectors are as exact as those of a pool.

    Args:
        index: The open index.
        who: Asker's name in error messages, such as `trial 7`.
    """

    def __init__(self, index: PassageIndex, *, who: str = "") -> None:
        self._index = index
        self._who = who

    @property
    def fingerprint(self) -> str:
        """Hash of the index."""
        return self._index.manifest.fingerprint

    @property
    def n_passages(self) -> int:
        """Passages in the index."""
        return self._index.manifest.n_passages

    @property
    def dimension(self) -> int:
        """Width a query must have."""
        return self._index.manifest.dimension

    def retrieve(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs = Knobs()
    ) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first."""
        check_queries(queries, self.dimension, self._who)
        check_knobs(knobs, self._index.manifest.faiss, self._who)
        hits = self._index.search(queries, n_docs, knobs)
        return hits._replace(vectors=in_half(hits.vectors).astype(np.float32))

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, in the order asked."""
        check_ids(ids, self.n_passages, self._who)
        return self._index.store.take(ids.tolist())


def in_half(vectors: np.ndarray) -> np.ndarray:
    """Return vectors in half precision, or as they are where a number is too large for it.

    Enough for gradients, and half to send: 8 queries x 5 passages x 768 dimensions stay within
    the 100 KiB that Ray sends without detour. Scores are never computed from these.
    """
    if vectors.size and not np.abs(vectors).max() <= np.finfo(np.float16).max:
        return vectors
    return vectors.astype(np.float16)


def check_queries(queries: np.ndarray, dimension: int, who: str) -> None:
    """Refuse queries that would give nonsense or end the process that searches.

    Raises:
        BadQueriesError: If they are not vectors of `dimension` finite numbers.
    """
    asker = f"{who}: " if who else ""
    if queries.ndim != 2 or queries.shape[1] != dimension:  # noqa: PLR2004
        raise BadQueriesError(
            f"{asker}queries of shape {queries.shape} do not fit an index of {dimension} "
            "dimensions; use the question encoder that belongs to the index' context encoder"
        )
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise BadQueriesError(
            f"{asker}{np.count_nonzero(~finite)} of {len(queries)} query vectors are NaN or "
            "infinite; the question encoder has diverged: lower its learning rate"
        )


def check_knobs(knobs: Knobs, factory: str, who: str) -> None:
    """Refuse knobs that an index has no use for, or that no search can be set to.

    Args:
        knobs: What a search shall be set to.
        factory: FAISS factory string of the index.
        who: Asker's name in the message.

    Raises:
        BadQueriesError: With the knob and the kind of the index.
    """
    asker = f"{who}: " if who else ""
    for name, value in knobs._asdict().items():
        if value is None:
            continue
        if value < 1:
            raise BadQueriesError(f"{asker}{name} is {value}; give at least 1, or leave it out")
        if why := why_useless(factory, name, value):
            raise BadQueriesError(f"{asker}{name} is {value} but the index {why}")


def check_ids(ids: np.ndarray, n_passages: int, who: str) -> None:
    """Refuse ids that no passage has; -1 marks a hit that is missing, not the last passage.

    Raises:
        BadQueriesError: If an id is out of range.
    """
    strange = ids[(ids < 0) | (ids >= n_passages)]
    if strange.size:
        asker = f"{who}: " if who else ""
        raise BadQueriesError(
            f"{asker}no passage has id {strange.flat[0]}; ids run from 0 to {n_passages - 1}, "
            "and -1 marks a hit that is missing"
        )
