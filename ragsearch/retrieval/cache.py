"""Hits of queries that come again: a frozen encoder asks the same in every trial and epoch.

Knows nothing of encoders: a query is told by its vector, which says all that a search sees.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.vectors import depth
from ragsearch.retrieval.batcher import Request

Key = tuple[bytes, Knobs, int]


class Row(NamedTuple):
    """The hits of one query: ids, scores and vectors."""

    ids: np.ndarray
    scores: np.ndarray
    vectors: np.ndarray


class HitCache:
    """The hits used last, up to a number of bytes.

    Args:
        max_bytes: Of arrays and keys; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._rows: OrderedDict[Key, Row] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Bytes it holds."""
        return self._n_bytes

    def find(self, key: Key, n_docs: int) -> Row | None:
        """Return a query's hits if they are known, the first ones of more if need be."""
        row = self._rows.get(key)
        if row is None or len(row.ids) < n_docs:
            return None
        self._rows.move_to_end(key)
        return Row(*(array[:n_docs] for array in row))

    def keep(self, key: Key, row: Row) -> None:
        """Remember a query's hits; those not used longest go."""
        row = Row(*(array.copy() for array in row))  # not a view that keeps a batch alive
        old = self._rows.pop(key, None)
        self._n_bytes += _size(row) - (_size(old) if old else 0)
        self._rows[key] = row
        while self._n_bytes > self._max_bytes:
            self._n_bytes -= _size(self._rows.popitem(last=False)[1])


def keys_of(queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs) -> list[Key]:
    """Return what tells queries apart; searches of one depth share their hits."""
    return [
        (blake2b(query.tobytes(), digest_size=16).digest(), knobs, depth(n_docs))
        for query in queries
    ]


def stacked(rows: list[Row]) -> Hits:
    """Return rows as the hits of several queries."""
    return Hits(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))


class Filled:
    """Takes the hits that a cache did not know, keeps them and answers with all.

    Args:
        request: What is asked for.
        cache: What is known, and will be.
    """

    def __init__(self, request: Request, cache: HitCache) -> None:
        self._request, self._cache = request, cache
        self._keys: list[Key] = keys_of(request.queries, request.n_docs, request.knobs)
        self._rows = [cache.find(key, request.n_docs) for key in self._keys]
        self._missing = [number for number, row in enumerate(self._rows) if row is None]

    @property
    def n_missing(self) -> int:
        """Queries to be searched."""
        return len(self._missing)

    def missing(self) -> Request:
        """Return the request for them."""
        asked = self._request
        queries: Float32[np.ndarray, "Q D"] = asked.queries[self._missing]
        return Request(asked.client, queries, asked.n_docs, asked.knobs, self)

    def hits(self) -> Hits:
        """Return the hits of all queries."""
        return stacked([row for row in self._rows if row is not None])

    def is_waiting(self) -> bool:
        """Return whether whoever asked still wants an answer."""
        return self._request.asker.is_waiting()

    def answer(self, hits: Hits) -> None:
        """Keep the new hits and answer with all."""
        for number, *arrays in zip(self._missing, *hits, strict=True):
            row = self._rows[number] = Row(*arrays)
            self._cache.keep(self._keys[number], row)
        self._request.asker.answer(self.hits())

    def fail(self, error: Exception) -> None:
        """Tell whoever asked."""
        self._request.asker.fail(error)


def _size(row: Row) -> int:
    return sum(array.nbytes for array in row) + 300  # and what Python takes for a key and row
