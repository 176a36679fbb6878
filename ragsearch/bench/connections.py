"""How a client of each design reaches what answers it.

Each is a few words that travel to the client's process and are opened there; what they need is
imported then, so that a process holds only what its design needs.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragsearch.bench.client import Answer, Call
from ragsearch.index.hits import Hits
from ragsearch.index.manifest import read_manifest

if TYPE_CHECKING:
    from ragsearch.retrieval.retriever import Retriever
    from ragsearch.retrieval.stock import StockRetriever

Found = tuple[np.ndarray, np.ndarray]
"""Scores and ids, as FAISS gives them."""
Search = Callable[[np.ndarray, int], Found]

_N_TRIES = 5
_WAIT_S = 600.0  # a rank reads its index while the others wait: 3 GB from a slow disk


@dataclass(frozen=True, slots=True)
class ToFaiss:
    """Nothing but FAISS, in this process: the limit.

    It may use all threads in one search, or divide the queries among searches of one thread.
    On a machine with other work the threads of one search wait for each other hundreds of
    times, so the first call tries both and the quicker one stays.
    """

    file: Path
    threads: int

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Yield the call; it gives neither vectors nor texts."""
        import faiss

        faiss.cvar.distance_compute_blas_threshold = 1  # all batches here are worth BLAS
        index = faiss.read_index(str(self.file), faiss.IO_FLAG_MMAP_IFC)

        def one_search(queries: np.ndarray, n_docs: int) -> Found:
            faiss.omp_set_num_threads(self.threads)
            return index.search(queries, n_docs)

        def one_thread(queries: np.ndarray, n_docs: int) -> Found:
            faiss.omp_set_num_threads(1)  # OpenMP keeps it for each thread
            return index.search(queries, n_docs)

        with ThreadPoolExecutor(self.threads) as pool:

            def divided(queries: np.ndarray, n_docs: int) -> Found:
                parts = np.array_split(queries, min(self.threads, len(queries)))
                found = list(pool.map(one_thread, parts, [n_docs] * len(parts)))
                scores, ids = zip(*found, strict=True)
                return np.concatenate(scores), np.concatenate(ids)

            search: list[Search] = []

            def call(queries: np.ndarray, n_docs: int) -> Answer:
                if not search:
                    ways = (one_search, divided) if self.threads > 1 else (one_search,)
                    search.append(min(ways, key=lambda way: _seconds(way, queries, n_docs)))
                scores, ids = search[0](queries, n_docs)
                return Answer(Hits(ids, scores, np.empty((*ids.shape, 0), np.float32)), ())

            yield call


@dataclass(frozen=True, slots=True)
class ToIndex:
    """Our index in this process: what every design must find."""

    folder: Path

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Yield the call."""
        from ragsearch.index.open import open_index
        from ragsearch.retrieval.retriever import InProcessRetriever

        yield _ours(InProcessRetriever(open_index(self.folder, verify=False)))


@dataclass(frozen=True, slots=True)
class ToPool:
    """Our pool."""

    pool: str
    fingerprint: str

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Yield the call."""
        from ragsearch.retrieval.pool import join_pool

        yield _ours(join_pool(self.pool, self.fingerprint, who="bench"))


@dataclass(frozen=True, slots=True)
class ToGroup:
    """The `torch.distributed` design: rank 0 searches with stock code for all."""

    folder: Path
    export: Path
    place: str
    rank: int
    n_ranks: int

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Yield the call."""
        from ragsearch.retrieval.distributed import DistributedRetriever, gloo_group

        stock = _stock(self.export, self.folder)
        with gloo_group(self.place, self.rank, self.n_ranks, timeout_s=_WAIT_S) as group:
            yield _theirs(stock, DistributedRetriever(stock, group, who="bench").retrieve)


@dataclass(frozen=True, slots=True)
class ToActors:
    """The original Ray design: a random actor a call; texts from this process' own dataset."""

    folder: Path
    export: Path
    actors: Sequence[Any]  # handles of `StockActor`: Ray types no methods of an actor
    seed: int

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Yield the call."""
        import ray

        chance = random.Random(self.seed)  # noqa: S311 (a choice of actors is no secret)

        def search(queries: np.ndarray, n_docs: int) -> Hits:
            begun: ray.ObjectRef[Hits] = chance.choice(self.actors).retrieve.remote(
                queries, n_docs
            )
            return ray.get(begun)

        yield _theirs(_stock(self.export, self.folder), search)


class StockActor:
    """An actor of the original Ray design: a copy of the index, one call at a time."""

    def __init__(self, export: Path, folder: Path) -> None:
        self._stock = _stock(export, folder)

    def retrieve(self, queries: np.ndarray, n_docs: int) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first."""
        return self._stock.retrieve(queries, n_docs)

    def pid(self) -> int:
        """Return the process this actor lives in."""
        return os.getpid()


def _seconds(search: Search, queries: np.ndarray, n_docs: int) -> float:
    """Return the median time of a search."""
    seconds = []
    for _ in range(_N_TRIES):
        start = time.monotonic()
        search(queries, n_docs)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def _stock(export: Path, folder: Path) -> "StockRetriever":
    from ragsearch.retrieval.stock import StockRetriever

    return StockRetriever(export, read_manifest(folder))


def _ours(retriever: "Retriever") -> Call:
    """Return the call a trial makes: the hits, then all their passages at once."""

    def call(queries: np.ndarray, n_docs: int) -> Answer:
        hits = retriever.retrieve(queries, n_docs)
        return Answer(hits, retriever.passages(hits.ids[hits.ids >= 0]))

    return call


def _theirs(stock: "StockRetriever", search: Callable[[np.ndarray, int], Hits]) -> Call:
    """Return the call the original makes: the hits, then the passages query by query."""

    def call(queries: np.ndarray, n_docs: int) -> Answer:
        hits = search(queries, n_docs)
        rows = [stock.passages(ids[ids >= 0]) for ids in hits.ids]
        return Answer(hits, [passage for row in rows for passage in row])

    return call
