"""One replica of a pool: an index opened in an actor, and the leases that keep it there.

A plain class, usable without Ray: what it needs from its host stands in `Keeper`. It imports
torch only for an index with a sketch, so that others start in about a second.

Axes: Q queries, K passages per query, D embedding size.
"""

import asyncio
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int64

from ragsearch.errors import PoolMismatchError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import open_index
from ragsearch.index.store import Passage
from ragsearch.retrieval.batcher import BusyError, Request
from ragsearch.retrieval.memory import pss_bytes
from ragsearch.retrieval.meter import Figures, Meter
from ragsearch.retrieval.server import Server
from ragsearch.retrieval.wire import Load, PackedQueries, Reply, pack_hits, unpack_queries

PROTOCOL = 3
"""Number of the conversation between client and replica; both sides must have the same."""

CLIENT = "client:"
"""What the name of a lease's holder begins with that is a client and not a search."""

CACHE_BYTES = 256 * 2**20  # hits of 15,000 questions at 5 passages of 768 dimensions


@runtime_checkable
class Keeper(Protocol):
    """Who runs a replica: says whether it outlives its leases, and ends it."""

    @property
    def birth(self) -> str:
        """Unique to this replica, the same after restarts."""

    @property
    def node_id(self) -> str:
        """Node of the cluster it runs on."""

    def count_start(self) -> int:
        """Note that the replica starts, and return how often it did before."""

    def is_detached(self) -> bool:
        """Return whether the replica stays without leases."""

    def show(self, fingerprint: str, figures: Figures, n_restarts: int) -> None:
        """Make known what the replica measured; called once in a while."""

    def leave(self) -> None:
        """End the replica for good."""


class Description(TypedDict):
    """What a replica says of itself; `protocol` keeps its name in every version."""

    protocol: int
    birth: str
    fingerprint: str
    n_passages: int
    dimension: int
    faiss: str
    folder: str
    index_bytes: int
    lifetime: str
    shard: int
    n_shards: int
    node: str
    node_id: str
    address: str
    """Where clients on its node connect, empty where they ask through Ray."""
    pid: int
    started: float
    n_restarts: int
    n_queries: int
    lease_s: float
    n_leases: int
    """Searches that hold one."""
    n_joined: int
    """Clients that hold one."""
    figures: Figures


def client_of(holder: str) -> str:
    """Return what the names of clients begin with that a holder's trials have."""
    return f"{CLIENT}{holder}/"


class Leases:
    """Who still needs a replica: holders that renewed within the last `length_s`.

    The holder without a name stands for whoever is only about to take a lease. The clients of a
    search's trials are named after it (`client_of`), and go with it.

    Args:
        length_s: Seconds a lease is good for.
        clock: Seconds that never go back.
    """

    def __init__(self, length_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.length_s = length_s
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._lock = Lock()

    def renew(self, holder: str) -> None:
        """Count `holder` in for another `length_s`."""
        with self._lock:
            self._ends[holder] = self._clock() + self.length_s

    def release(self, holder: str) -> None:
        """Count `holder` out and, where it is a search, the clients of its trials."""
        with self._lock:
            self._ends.pop(holder, None)
            for client in [one for one in self._ends if one.startswith(client_of(holder))]:
                del self._ends[client]

    def holders(self) -> tuple[str, ...]:
        """Return who holds a lease now."""
        now = self._clock()
        with self._lock:
            self._ends = {holder: end for holder, end in self._ends.items() if end > now}
            return tuple(self._ends)


class Replica:
    """An index that answers until nobody needs it.

    Args:
        folder: Index folder; opened memory-mapped, not verified: whoever starts a pool did.
        fingerprint: Hash the index must have.
        keeper: Who runs this replica.
        lease_s: Seconds a lease is good for; the first one begins now, for `holder`.
        holder: Who starts it; nobody by name, where that is only about to take a lease.
        cache_bytes: Memory for hits of queries that come again.
        shard: The shard of the index it serves.
        in_memory: Hold a copy of the vectors instead of mapping their file.

    Raises:
        PoolMismatchError: If the folder holds another index by now.
    """

    def __init__(  # noqa: PLR0913 (what a replica is, and how it holds it)
        self,
        folder: Path,
        fingerprint: str,
        keeper: Keeper,
        *,
        lease_s: float = 60.0,
        holder: str = "",
        cache_bytes: int = CACHE_BYTES,
        shard: int = 0,
        in_memory: bool = False,
    ) -> None:
        self._index = open_index(folder, verify=False, shard=shard, in_memory=in_memory)
        self._shard = shard
        found = self._index.manifest.fingerprint
        if found != fingerprint:
            raise PoolMismatchError(
                f"{folder} holds index {found[:16]} but the pool serves {fingerprint[:16]}; "
                "stop the pool and start it again"
            )
        self._folder = folder
        self._keeper = keeper
        self._started = time.time()
        self._n_restarts = keeper.count_start()
        self._meter = Meter()
        width = self._index.manifest.dimension
        self._server = Server(self._index, width, self._meter, cache_bytes=cache_bytes)
        self._leases = Leases(lease_s)
        self._leases.renew(holder)
        self._released = Event()
        # often enough to leave soon after the last lease, seldom enough to cost nothing
        for task in (self._watch, self._show):  # the one goes on where the other fails
            Thread(target=task, args=(lease_s / 10,), daemon=True).start()

    async def retrieve(
        self,
        packed: PackedQueries,
        n_docs: int,
        knobs: Knobs = Knobs(),
        client: str = "",
        fixed: bool = False,  # noqa: FBT001, FBT002 (called by position)
    ) -> Reply:
        """Return the `n_docs` passages with the largest inner product, best first.

        Args:
            packed: Finite vectors of the index's dimension.
            n_docs: Passages a query.
            knobs: How thorough; the index must have a use for those that are set.
            client: Who asks: each client gets its turn.
            fixed: Whether the same queries come again, so that their hits are worth keeping.
        """
        queries = unpack_queries(packed)
        assert queries.shape[1:] == (self._index.manifest.dimension,), f"{queries.shape}"
        caller = _Caller()
        self._server.submit(Request(client, queries, n_docs, knobs, caller), is_fixed=fixed)
        try:
            hits = await caller.hits
        except BusyError:
            return Reply(None, self.load())
        return Reply(pack_hits(hits), self.load())

    def load(self) -> Load:
        """Return how much there is to do."""
        return self._server.load()

    def forget(self, client: str) -> None:
        """Expect nothing more of a client: it asks another replica from now on."""
        self._server.forget(client)

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, in the order asked."""
        return self._index.store.take(ids.tolist())

    def describe(self) -> Description:
        """Return which index this is, where it runs and what it did."""
        manifest, holders = self._index.manifest, self._leases.holders()
        return Description(
            protocol=PROTOCOL,
            birth=self._keeper.birth,
            fingerprint=manifest.fingerprint,
            n_passages=manifest.n_passages,
            dimension=manifest.dimension,
            faiss=manifest.faiss,
            folder=str(self._folder),
            index_bytes=sum(file.bytes for file in manifest.files.values()),
            lifetime="detached" if self._keeper.is_detached() else "search",
            shard=self._shard,
            n_shards=len(manifest.shards),
            node=platform.node(),
            node_id=self._keeper.node_id,
            address=self._server.address,
            pid=os.getpid(),
            started=self._started,
            n_restarts=self._n_restarts,
            n_queries=self._meter.n_queries,
            lease_s=self._leases.length_s,
            n_leases=sum(bool(one) and not one.startswith(CLIENT) for one in holders),
            n_joined=sum(one.startswith(CLIENT) for one in holders),
            figures=self._meter.figures(),
        )

    def memory(self) -> int:
        """Return the bytes this process takes; seconds, where a large index is mapped."""
        return pss_bytes([os.getpid()])

    def renew(self, holder: str) -> None:
        """Stay at least one lease longer for `holder`."""
        self._leases.renew(holder)

    def release(self, holder: str) -> None:
        """Stop staying for `holder`: leave at once where it was the last one."""
        self._leases.release(holder)
        self._released.set()

    def _watch(self, every_s: float) -> None:
        while self._leases.holders() or self._keeper.is_detached():
            self._released.wait(every_s)
            self._released.clear()
        self._keeper.leave()

    def _show(self, every_s: float) -> None:
        fingerprint = self._index.manifest.fingerprint
        while True:
            self._keeper.show(fingerprint, self._meter.figures(), self._n_restarts)
            time.sleep(every_s)


class _Caller:
    """Waits, on the event loop it is made on, for what the server's thread finds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.hits: asyncio.Future[Hits] = self._loop.create_future()

    def is_waiting(self) -> bool:
        """Return whether the call was not given up."""
        return not self.hits.done()

    def answer(self, hits: Hits) -> None:
        """Hand the hits over."""
        self._settle(lambda: self.hits.set_result(hits))

    def fail(self, error: Exception) -> None:
        """Hand the reason over."""
        self._settle(lambda: self.hits.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        def unless_given_up() -> None:
            if not self.hits.done():
                settle()

        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(unless_given_up)
