"""One shared index behind named Ray actors: start, join, list, stop.

Knows Ray and the index; knows nothing of models, trials or MLflow. A pool is named after its
index, so two searches over one index share it without having to agree on anything.

Life of a pool: with lifetime `search` it leaves by itself when the last `Lease` on it ended or
was not renewed, which also covers a driver that was killed; with `detached` it stays until
`stop_pool` or the end of the cluster. Asking for `detached` turns an existing `search` pool
into a detached one.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import ray
from ray.exceptions import RayActorError

from ragsearch.errors import PoolUnavailableError
from ragsearch.retrieval.actors import (
    NAMESPACE,
    UNREACHABLE,
    Handles,
    check_connected,
    check_identity,
    control,
    create_replica,
    describe,
    end_replicas,
    find_replicas,
    list_replicas,
    note_detached,
)
from ragsearch.retrieval.client import PoolClient
from ragsearch.retrieval.lease import Lease
from ragsearch.retrieval.meter import Figures
from ragsearch.retrieval.placement import check_index, pool_name
from ragsearch.retrieval.replica import PROTOCOL, Description

__all__ = [
    "NAMESPACE",
    "PROTOCOL",
    "Lease",
    "PoolClient",
    "PoolInfo",
    "join_pool",
    "list_pools",
    "pool_name",
    "start_pool",
    "stop_pool",
]

_START_S = 60.0  # an actor starts in 1-2 s, on a loaded machine in ten
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """What `ragsearch pool ls` shows of a pool."""

    name: str
    fingerprint: str
    """Empty where no replica answers, as are the figures below."""
    n_passages: int
    lifetime: str
    """`search` or `detached`."""
    replicas: int
    """Replicas there are."""
    answering: int
    """Replicas that answer now."""
    nodes: tuple[str, ...]
    pids: tuple[int, ...]
    folder: str
    index_bytes: int
    """Size of the index folder; memory-mapped, so at most once in a node's memory."""
    n_queries: int
    """Query vectors answered since the replicas started."""
    n_leases: int
    """Searches that hold it."""
    n_restarts: int
    """How often replicas were killed and came back."""
    n_clients: int
    """Clients that asked within the last seconds."""
    queries_per_s: float
    """Over the last minute, all replicas together."""
    p50_ms: float
    """From a request's arrival to its answer, in the slowest replica; so is the next."""
    p95_ms: float
    wait_ms: float
    """Mean wait of requests before their search, in the slowest replica."""
    queries_per_search: float
    """Mean over replicas that searched: how well requests are put together."""
    cache_hit_rate: float
    """Share of fixed queries that needed no search."""


def start_pool(  # noqa: PLR0913 (the keys of `pool:` in a space file, and two for tests)
    index: Path,
    fingerprint: str,
    *,
    replicas: int = 1,
    threads: int = 1,
    lifetime: Literal["search", "detached"] = "search",
    name: str | None = None,
    lease_s: float = 60.0,
    who: str = "",
) -> PoolClient:
    """Return a client of the pool of an index; start the replicas that are missing.

    Replicas that exist are joined as they are: nothing is loaded, and their threads and lease
    stay. For a pool that should last longer than a lease, hold a `Lease` on it.

    Args:
        index: Index folder, on this node.
        fingerprint: Hash the index must have.
        replicas: Replicas there should be at least.
        threads: Threads a replica started now searches with.
        lifetime: `search` or `detached`.
        name: Name of the pool; by default it follows from the fingerprint.
        lease_s: Seconds a lease on a replica started now is good for.
        who: Asker's name in error messages.

    Raises:
        BadInputError: If replicas must be started and the folder is not a sound index.
        PoolMismatchError: If the pool or the folder has another index.
        PoolUnavailableError: If a replica cannot be started.
    """
    pool = name or pool_name(fingerprint)
    check_connected(f"pool {pool!r}")
    deadline = time.monotonic() + _START_S
    while True:
        try:
            found = _vet(pool, find_replicas(pool), fingerprint, who)
            missing = sorted(set(range(replicas)) - set(found))
            if missing:
                check_index(index, fingerprint)
            started = {
                number: create_replica(
                    pool,
                    number,
                    index.absolute(),
                    fingerprint,
                    threads=threads,
                    lease_s=lease_s,
                )
                for number in missing
            }
            found |= _vet(pool, started, fingerprint, who)
        except UNREACHABLE as error:  # one is leaving or being restarted, or cannot start
            hopeless = isinstance(error, RayActorError) and error.actor_init_failed
            if hopeless or time.monotonic() > deadline:
                reason = str(error).strip().rpartition("\n")[2]
                raise PoolUnavailableError(
                    f"pool {pool!r}: its replicas do not start on {index} ({reason}); end them "
                    f"with `ragsearch pool stop {pool}` and try again"
                ) from error
            time.sleep(_PAUSE_S)
        else:
            if lifetime == "detached":
                note_detached(found.values())
            return PoolClient(pool, fingerprint, who=who)


def join_pool(
    name: str, fingerprint: str, *, timeout_s: float = 60.0, who: str = ""
) -> PoolClient:
    """Return a client of a pool that is there already, in milliseconds; nothing is loaded.

    Args:
        name: Pool name, unique in the cluster.
        fingerprint: Hash the index must have.
        timeout_s: Seconds within which this, and later each request, is answered or refused.
        who: Asker's name in error messages, such as `trial 7`.

    Raises:
        PoolMismatchError: If the pool serves another index.
        PoolUnavailableError: If there is no such pool, or no replica answers in time.
    """
    check_connected(f"pool {name!r}")
    if name not in list_replicas():
        raise PoolUnavailableError(
            f"there is no pool {name!r} in this cluster; see `ragsearch pool ls`, or start it "
            "with `ragsearch pool start`"
        )
    return PoolClient(name, fingerprint, timeout_s=timeout_s, who=who)


def stop_pool(name: str) -> int:
    """End every replica of a pool, whoever uses it.

    Returns:
        How many replicas there were.

    Raises:
        PoolUnavailableError: If one does not end.
    """
    check_connected(f"pool {name!r}")
    return end_replicas(name)


def list_pools(*, timeout_s: float = 5.0) -> list[PoolInfo]:
    """Return every pool of the cluster by name; waits `timeout_s` for silent replicas."""
    check_connected("pools")
    return [_info(pool, find_replicas(pool), timeout_s) for pool in sorted(list_replicas())]


def _vet(pool: str, handles: Handles, fingerprint: str, who: str) -> dict[int, Description]:
    """Return what each replica is; keep it for one lease: time enough to take one."""
    deadline = time.monotonic() + _START_S
    found = {}
    for number, handle in handles.items():
        found[number] = describe(handle, max(deadline - time.monotonic(), 0.0))
        check_identity(pool, found[number], fingerprint, who)
        ray.get(control(handle, "renew", ""), timeout=_START_S)
    return found


def _info(pool: str, handles: Handles, timeout_s: float) -> PoolInfo:
    found = _descriptions(handles, timeout_s)
    first = found[0] if found else None
    return PoolInfo(
        name=pool,
        fingerprint=first["fingerprint"] if first else "",
        n_passages=first["n_passages"] if first else 0,
        lifetime=first["lifetime"] if first else "",
        replicas=len(handles),
        answering=len(found),
        nodes=tuple(one["node"] for one in found),
        pids=tuple(one["pid"] for one in found),
        folder=first["folder"] if first else "",
        index_bytes=first["index_bytes"] if first else 0,
        n_queries=sum(one["n_queries"] for one in found),
        n_leases=max((one["n_leases"] for one in found), default=0),
        n_restarts=sum(one["n_restarts"] for one in found),
        **_figures([one["figures"] for one in found]),
    )


class _Sums(TypedDict):
    """The figures of all replicas as `PoolInfo` has them."""

    n_clients: int
    queries_per_s: float
    p50_ms: float
    p95_ms: float
    wait_ms: float
    queries_per_search: float
    cache_hit_rate: float


def _figures(found: list[Figures]) -> _Sums:
    n_hits = sum(one["n_cache_hits"] for one in found)
    n_fixed = n_hits + sum(one["n_cache_misses"] for one in found)
    fills = [one["queries_per_search"] for one in found if one["queries_per_search"]]
    return _Sums(
        n_clients=sum(one["n_clients"] for one in found),
        queries_per_s=sum(one["queries_per_s"] for one in found),
        p50_ms=1e3 * max((one["p50_s"] for one in found), default=0.0),
        p95_ms=1e3 * max((one["p95_s"] for one in found), default=0.0),
        wait_ms=1e3 * max((one["wait_s"] for one in found), default=0.0),
        queries_per_search=sum(fills) / max(len(fills), 1),
        cache_hit_rate=n_hits / max(n_fixed, 1),
    )


def _descriptions(handles: Handles, timeout_s: float) -> list[Description]:
    """Return what those replicas say of themselves that answer in time."""
    asked = [control(handle, "describe") for handle in handles.values()]
    found = []
    for answer in ray.wait(asked, num_returns=len(asked), timeout=timeout_s)[0]:
        try:
            found.append(ray.get(answer))
        except UNREACHABLE:
            continue
    return found
