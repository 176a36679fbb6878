"""The client's side of a pool: route a request, try elsewhere, give up in time.

In: query vectors. Out: `Hits`, exactly the ones the index in this process would give.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

import os
import random
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import ray
from jaxtyping import Float32, Int64
from ray.actor import ActorHandle

from ragsearch.errors import BadInputError, PoolUnavailableError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.manifest import PASSAGES_FILE, read_manifest
from ragsearch.index.merge import merge_hits
from ragsearch.index.store import Passage, PassageStore
from ragsearch.retrieval.actors import (
    UNREACHABLE,
    Handles,
    check_identity,
    describe,
    find_replicas,
)
from ragsearch.retrieval.lease import Lease, client_holder
from ragsearch.retrieval.local import LocalConnection
from ragsearch.retrieval.replica import Description, Replica
from ragsearch.retrieval.retriever import check_ids, check_knobs, check_queries
from ragsearch.retrieval.routes import Routes
from ragsearch.retrieval.wire import Reply, pack_queries, unpack_hits

Answer = TypeVar("Answer")
Question = Callable[["ActorHandle[Replica]", float], Answer]
"""Something to ask a replica, with the seconds it may take."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0  # a killed replica is back in 2-4 s: longer pauses only lose time
_N_TIMES = 1024  # of the last requests, for the quantile
_RENEWALS_A_LEASE = 10
_REST_S = 30.0  # a replica that failed is asked last for so long


class PoolClient:
    """A `Retriever` over the replicas of a pool; get one from `start_pool` or `join_pool`.

    A client stays with one replica, on its own node if there is one, and moves when another
    has clearly fewer clients. On its node it asks by a socket, elsewhere through Ray. Reads are
    idempotent, so a replica that dies, is too busy or does not answer costs a retry on another,
    not the request.

    Args:
        pool: Name of the pool.
        fingerprint: Hash of the index every replica must have.
        timeout_s: Seconds within which a request is answered, or refused.
        who: Asker's name in error messages, such as `trial 7`.
        shard: Shard whose replicas are asked; the client of the first one asks, through
            clients of their own, those of the others too.

    Raises:
        PoolMismatchError: If the pool serves another index.
        PoolUnavailableError: If no replica answers in time.
    """

    def __init__(
        self,
        pool: str,
        fingerprint: str,
        *,
        timeout_s: float = 60.0,
        who: str = "",
        shard: int = 0,
    ) -> None:
        self.pool = pool
        self._shard = shard
        self._fingerprint = fingerprint
        self._timeout_s = timeout_s
        self._who = who
        self._id = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._took_s: deque[float] = deque(maxlen=_N_TIMES)
        self._end_lease: Callable[[], object] = lambda: None
        self._handles = self._find()
        self._known: dict[ActorHandle[Replica], Description] = {}
        self._connections: dict[ActorHandle[Replica], LocalConnection] = {}
        weakref.finalize(self, _close, self._connections)
        self._one_at_a_time = Lock()
        self._rests_until: dict[ActorHandle[Replica], float] = {}
        self._routes = Routes(self._id)
        self._description = self._ask(self._identify)

    def hold(self, search: str = "") -> None:
        """Keep the replicas there until this client is closed or nobody refers to it.

        Args:
            search: Whose trial asks, if one does: when that lets the pool go, so does this.
        """
        every_s = self._description["lease_s"] / _RENEWALS_A_LEASE
        lease = Lease(self.pool, client_holder(search), every_s=every_s)
        self._end_lease = lease.while_alive(self)

    def close(self) -> None:
        """Need the pool no longer; may be called twice."""
        self._end_lease()
        _close(self._connections)

    @property
    def fingerprint(self) -> str:
        """Hash of the index."""
        return self._fingerprint

    @property
    def n_passages(self) -> int:
        """Passages in the index."""
        return self._description["n_passages"]

    @property
    def dimension(self) -> int:
        """Width a query must have."""
        return self._description["dimension"]

    def retrieve(
        self,
        queries: Float32[np.ndarray, "Q D"],
        n_docs: int,
        knobs: Knobs = Knobs(),
        *,
        fixed: bool = False,
    ) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first.

        Args:
            queries: Finite vectors of the index's dimension.
            n_docs: Passages a query.
            knobs: How thorough the search is; as the index was built by default.
            fixed: Whether the same queries come again, from this trial or another, as those
                of a frozen question encoder do: their hits are kept by the replica.

        Raises:
            BadQueriesError: If the queries do not fit the index or are not finite, or the
                index has no use for a knob.
            PoolUnavailableError: If no replica answers in time.
        """
        check_queries(queries, self.dimension, self._who)
        check_knobs(knobs, self._description["faiss"], self._who)
        started = time.monotonic()
        asked = [
            self._threads.submit(other.retrieve, queries, n_docs, knobs, fixed=fixed)
            for other in self._others
        ]
        own = self._search(queries, n_docs, knobs, fixed=fixed)
        hits = merge_hits([own, *(answer.result() for answer in asked)], n_docs)
        self._took_s.append(time.monotonic() - started)
        return hits

    def _search(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs, *, fixed: bool
    ) -> Hits:
        """Return the hits of this client's shard."""

        def search(replica: "ActorHandle[Replica]", timeout_s: float) -> Hits:
            self._routes.refresh(replica, self._handles.values())
            connection = self._connection(replica)
            if connection is None:
                packed = pack_queries(queries)
                reply: Reply = _call(
                    replica, timeout_s, "retrieve", packed, n_docs, knobs, self._id, fixed
                )
            else:
                reply = connection.retrieve(
                    queries, n_docs, knobs, is_fixed=fixed, timeout_s=timeout_s
                )
            self._routes.note(replica, reply.load)
            if reply.hits is None:
                raise _BusyReplicaError
            return unpack_hits(reply.hits)

        with self._one_at_a_time:
            return self._ask(search)

    def _connection(self, replica: "ActorHandle[Replica]") -> LocalConnection | None:
        """Return the short way to a replica on this node, None where there is none."""
        address = self._known[replica]["address"]
        if not address or self._routes.is_far(replica):
            return None
        if replica not in self._connections:
            self._connections[replica] = LocalConnection(address, self._id)
        return self._connections[replica]

    def latency_p95_ms(self) -> float:
        """Return the time that 95 of 100 of the last requests took at most, 0 before any."""
        return 1e3 * float(np.quantile(self._took_s, 0.95)) if self._took_s else 0.0

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, from this node's index folder where it has one.

        Raises:
            BadQueriesError: If an id is out of range.
            PoolUnavailableError: If no replica answers in time.
        """
        check_ids(ids, self.n_passages, self._who)
        if self._store is not None:
            return self._store.take(ids.tolist())

        def read(replica: "ActorHandle[Replica]", timeout_s: float) -> list[Passage]:
            passages: list[Passage] = _call(replica, timeout_s, "passages", ids)
            return passages

        return self._ask(read)

    @cached_property
    def _store(self) -> PassageStore | None:
        """The passages as this node has them, if it has the same index."""
        folder = Path(self._description["folder"])
        try:
            if read_manifest(folder).fingerprint != self._fingerprint:
                return None
            return PassageStore.open(folder / PASSAGES_FILE)
        except BadInputError:
            return None

    @cached_property
    def _others(self) -> "list[PoolClient]":
        """Clients of the other shards."""
        n_shards = 1 if self._shard else self._description["n_shards"]
        return [
            PoolClient(
                self.pool,
                self._fingerprint,
                timeout_s=self._timeout_s,
                who=self._who,
                shard=shard,
            )
            for shard in range(1, n_shards)
        ]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """Threads that ask for the other shards meanwhile."""
        return ThreadPoolExecutor(len(self._others))

    def _find(self) -> Handles:
        found = find_replicas(self.pool)
        return {slot: handle for slot, handle in found.items() if slot.shard == self._shard}

    def _ask(self, question: "Question[Answer]") -> Answer:
        """Return the first answer within the deadline, asking one replica after another."""
        deadline = time.monotonic() + self._timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            last: Exception | None = None
            for replica, n_left in self._in_turn():
                share_s = max(deadline - time.monotonic(), 0.0) / n_left
                try:
                    self._identify(replica, share_s)
                    return question(replica, share_s)
                except _BusyReplicaError as error:
                    last = error
                except (*UNREACHABLE, OSError) as error:
                    last = error
                    self._lose(replica)
                    self._rests_until[replica] = time.monotonic() + _REST_S
            if time.monotonic() + pause_s >= deadline:
                raise self._unavailable() from last
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (clients part ways)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._handles = self._find()

    def _in_turn(self) -> Iterator[tuple["ActorHandle[Replica]", int]]:
        """Yield every replica once, the best first, and how many are left.

        Those that failed a moment ago come last: one that hangs costs its time only once.
        """
        now = time.monotonic()
        handles = self._routes.ranked(list(self._handles.values()))
        handles.sort(key=lambda handle: self._rests_until.get(handle, now) > now)
        yield from zip(handles, range(len(handles), 0, -1), strict=True)

    def _identify(self, replica: "ActorHandle[Replica]", timeout_s: float) -> Description:
        """Return what a replica serves, checked at first sight: it may be a later pool's."""
        if replica not in self._known:
            found = describe(replica, timeout_s)
            check_identity(self.pool, found, self._fingerprint, self._who)
            self._known[replica] = found
            self._routes.learn(replica, found)
        return self._known[replica]

    def _lose(self, replica: "ActorHandle[Replica]") -> None:
        """Expect to find another process when this replica is asked again."""
        self._routes.lose(replica)
        self._known.pop(replica, None)
        self._connections.pop(replica, None)

    def _unavailable(self) -> PoolUnavailableError:
        asker = f"{self._who}: " if self._who else ""
        return PoolUnavailableError(
            f"{asker}pool {self.pool!r}: no replica answered "
            f"within {self._timeout_s:g} s; see `ragsearch pool ls`, then start it again with "
            "`ragsearch pool start` or resume the search"
        )


def _call(replica: "ActorHandle[Replica]", timeout_s: float, method: str, *args: object) -> Any:  # noqa: ANN401 (what the method returns)
    """Return the answer of a replica."""
    return ray.get(getattr(replica, method).remote(*args), timeout=timeout_s)


def _close(connections: "dict[ActorHandle[Replica], LocalConnection]") -> None:
    while connections:
        connections.popitem()[1].close()


class _BusyReplicaError(Exception):
    """A replica has too much to do."""
