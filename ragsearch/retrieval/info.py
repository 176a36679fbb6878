"""What `ragsearch pool ls` shows: every pool of the cluster, its replicas asked at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

import ray

from ragsearch.retrieval.actors import (
    UNREACHABLE,
    Handles,
    check_connected,
    control,
    find_replicas,
    list_replicas,
)
from ragsearch.retrieval.alias import list_aliases
from ragsearch.retrieval.meter import Figures
from ragsearch.retrieval.replica import Description


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """What `ragsearch pool ls` shows of a pool."""

    name: str
    aliases: tuple[str, ...]
    """Aliases that point at it now."""
    fingerprint: str
    """Empty where no replica answers, as are the figures below."""
    n_passages: int
    n_shards: int
    lifetime: str
    """`search` or `detached`."""
    replicas: int
    """Replicas there are."""
    answering: int
    """Replicas that answer now."""
    nodes: tuple[str, ...]
    """Host names, one for each replica that answers."""
    pids: tuple[int, ...]
    folder: str
    index_bytes: int
    """Size of the index folder; memory-mapped, so at most once in a node's memory."""
    pss_bytes: int
    """Memory of all replicas, pages they share counted once."""
    n_queries: int
    """Query vectors answered since the replicas started."""
    n_leases: int
    """Searches that hold it."""
    n_joined: int
    """Clients that hold it, whether they ask or not."""
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


def list_pools(*, timeout_s: float = 5.0) -> list[PoolInfo]:
    """Return every pool of the cluster by name; waits `timeout_s` for silent replicas.

    Raises:
        PoolUnavailableError: If this process is in no Ray cluster.
    """
    check_connected("pools")
    aliases = list_aliases()
    return [
        _info(
            pool,
            [alias.name for alias in aliases if alias.pool == pool],
            find_replicas(pool),
            timeout_s,
        )
        for pool in sorted(list_replicas())
    ]


def _info(pool: str, aliases: Iterable[str], handles: Handles, timeout_s: float) -> PoolInfo:
    found = descriptions(handles, timeout_s)
    asked = [one for one in found if one["shard"] == 0]  # whoever asks, asks every shard
    first = found[0] if found else None
    return PoolInfo(
        name=pool,
        aliases=tuple(aliases),
        fingerprint=first["fingerprint"] if first else "",
        n_passages=first["n_passages"] if first else 0,
        n_shards=first["n_shards"] if first else 0,
        lifetime=first["lifetime"] if first else "",
        replicas=len(handles),
        answering=len(found),
        nodes=tuple(one["node"] for one in found),
        pids=tuple(one["pid"] for one in found),
        folder=first["folder"] if first else "",
        index_bytes=first["index_bytes"] if first else 0,
        pss_bytes=sum(answers(handles, "memory", timeout_s)),
        n_queries=sum(one["n_queries"] for one in asked),
        n_leases=max((one["n_leases"] for one in found), default=0),
        n_joined=max((one["n_joined"] for one in found), default=0),
        n_restarts=sum(one["n_restarts"] for one in found),
        **_figures([one["figures"] for one in found], [one["figures"] for one in asked]),
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


def _figures(found: list[Figures], asked: list[Figures]) -> _Sums:
    n_hits = sum(one["n_cache_hits"] for one in found)
    n_fixed = n_hits + sum(one["n_cache_misses"] for one in found)
    fills = [one["queries_per_search"] for one in found if one["queries_per_search"]]
    return _Sums(
        n_clients=sum(one["n_clients"] for one in asked),
        queries_per_s=sum(one["queries_per_s"] for one in asked),
        p50_ms=1e3 * max((one["p50_s"] for one in found), default=0.0),
        p95_ms=1e3 * max((one["p95_s"] for one in found), default=0.0),
        wait_ms=1e3 * max((one["wait_s"] for one in found), default=0.0),
        queries_per_search=sum(fills) / max(len(fills), 1),
        cache_hit_rate=n_hits / max(n_fixed, 1),
    )


def descriptions(handles: Handles, timeout_s: float) -> list[Description]:
    """Return what those replicas say of themselves that answer in time."""
    return answers(handles, "describe", timeout_s)


def answers(handles: Handles, method: str, timeout_s: float) -> list[Any]:
    """Return the answers of those replicas that answer in time, in no order."""
    asked = [control(handle, method) for handle in handles.values()]
    ready = ray.wait(asked, num_returns=len(asked), timeout=timeout_s)[0] if asked else []
    found = []
    for answer in ready:
        try:
            found.append(ray.get(answer))
        except UNREACHABLE:
            continue
    return found
