"""One shared index behind named Ray actors: start, join, keep, point an alias at, stop.

Knows Ray and the index; knows nothing of models, trials or MLflow. A pool is named after its
index, so two searches over one index share it without having to agree on anything.

Life of a pool: with lifetime `search` it leaves by itself when the last lease on it, of a
search or of a client, has ended or was not renewed, which also covers a driver that was killed;
with `detached` it stays until `stop_pool`, until its alias moves on, or the end of the cluster.
Asking for `detached` turns an existing `search` pool into a detached one.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ragsearch.errors import BadInputError, PoolUnavailableError
from ragsearch.retrieval.actors import (
    NAMESPACE,
    check_connected,
    end_replicas,
    find_replicas,
    forget_detached,
    list_replicas,
)
from ragsearch.retrieval.alias import Alias, drop_aliases, find_alias, list_aliases, put_alias
from ragsearch.retrieval.client import PoolClient
from ragsearch.retrieval.info import PoolInfo, descriptions, list_pools
from ragsearch.retrieval.lease import Lease
from ragsearch.retrieval.placement import (
    Layout,
    Memory,
    PoolPlan,
    Prober,
    pool_name,
    probe_nodes,
)
from ragsearch.retrieval.replica import PROTOCOL
from ragsearch.retrieval.start import bring_up, healing

__all__ = [
    "NAMESPACE",
    "PROTOCOL",
    "Layout",
    "Lease",
    "PoolClient",
    "PoolInfo",
    "PoolPlan",
    "join_pool",
    "list_pools",
    "move_alias",
    "pool_name",
    "serving",
    "start_pool",
    "stop_pool",
]

log = logging.getLogger(__name__)

_ASK_S = 60.0
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def start_pool(  # noqa: PLR0913 (the keys of `pool:` in a space file, and a few for tests)
    index: Path,
    fingerprint: str,
    *,
    replicas: int = 1,
    per_node: int | None = None,
    memory: Memory = "mapped",
    threads: int = 1,
    lifetime: Literal["search", "detached"] = "search",
    name: str = "",
    lease_s: float = 60.0,
    who: str = "",
    prober: Prober = probe_nodes,
) -> PoolClient:
    """Return a client of the pool of an index; start the replicas that are missing.

    Replicas that exist are joined as they are: nothing is loaded, and their threads, memory
    and lease stay. The pool lasts as long as the client, or longer with a `Lease` on it.

    Args:
        index: Index folder, the same path on every node that has it.
        fingerprint: Hash the index must have.
        replicas: Replicas of each shard there should be at least.
        per_node: Replicas of each shard there should be on every node that has the folder,
            instead of `replicas`.
        memory: `mapped`, one copy of the index a node; `in_memory`, one a replica.
        threads: Threads a replica started now searches with.
        lifetime: `search` or `detached`.
        name: Name of the pool; by default it follows from the fingerprint.
        lease_s: Seconds a lease on a replica started now is good for.
        who: Asker's name in error messages.
        prober: Asks the nodes what they have.

    Raises:
        BadInputError: If replicas must be started and the folder is not a sound index, no
            node has it, or there is no memory for it.
        PoolMismatchError: If the pool or the folder has another index.
        PoolUnavailableError: If replicas do not start in time.
    """
    layout = Layout(replicas, per_node, memory)
    plan = PoolPlan(index.absolute(), fingerprint, layout, threads, lifetime, name, lease_s)
    check_connected(f"pool {plan.pool!r}")
    bring_up(plan, who=who, prober=prober)
    return _client(plan.pool, fingerprint, who=who)


@contextmanager
def serving(
    plan: PoolPlan, holder: str, *, heal_every_s: float = 5.0, prober: Prober = probe_nodes
) -> Iterator[PoolClient]:
    """Have a pool that is as its plan says while the block lasts, whatever nodes are lost.

    Args:
        plan: The pool.
        holder: Who needs it: an id unique to this search. When the block ends it and the
            clients of its trials need the pool no longer.
        heal_every_s: Seconds between two looks at whether replicas were lost with their node.
        prober: Asks the nodes what they have.

    Yields:
        A client, held by the search.

    Raises:
        BadInputError: As `start_pool`.
        PoolMismatchError: As `start_pool`.
        PoolUnavailableError: As `start_pool`.
    """
    check_connected(f"pool {plan.pool!r}")
    bring_up(plan, holder=holder, prober=prober)
    mended = healing(plan, holder, every_s=heal_every_s, prober=prober)
    with Lease(plan.pool, holder), mended:
        yield PoolClient(plan.pool, plan.fingerprint)


def join_pool(
    name: str,
    fingerprint: str | None = None,
    *,
    timeout_s: float = 60.0,
    who: str = "",
    search: str = "",
) -> PoolClient:
    """Return a client of a pool that is there already, in milliseconds; nothing is loaded.

    The client holds a lease: the replicas stay while somebody refers to it. Of an alias it
    keeps to the index that the alias points at now.

    Args:
        name: Name of a pool, unique in the cluster, or an alias.
        fingerprint: Hash the index must have; may be left out for an alias.
        timeout_s: Seconds within which this, and later each request, is answered or refused.
        who: Asker's name in error messages, such as `trial 7`.
        search: The search that a trial asks for: when that has let the pool go, so has this.

    Raises:
        PoolMismatchError: If the pool serves another index.
        PoolUnavailableError: If there is no such pool, or no replica answers in time.
    """
    check_connected(f"pool {name!r}")
    alias = find_alias(name)
    pool = alias.pool if alias else name
    if fingerprint is None and alias:
        fingerprint = alias.fingerprint
    if pool not in list_replicas():
        points_at = f", which {name!r} points at," if alias else ""
        raise PoolUnavailableError(
            f"there is no pool {pool!r}{points_at} in this cluster; see `ragsearch pool ls`, "
            "or start it with `ragsearch pool start`"
        )
    if fingerprint is None:
        raise PoolUnavailableError(
            f"there is no alias {name!r} in this cluster; give the fingerprint that pool "
            f"{name!r} must have, or make an alias with `ragsearch pool alias`"
        )
    return _client(pool, fingerprint, timeout_s=timeout_s, who=who, search=search)


def move_alias(alias: str, plan: PoolPlan) -> None:
    """Point an alias at an index, its pool started detached where it is not there yet.

    Clients that joined by the alias stay with the index they have. The pool that the alias
    leaves is detached no longer, unless another alias points at it: its replicas go when the
    last lease of a search or a client has ended.

    Args:
        alias: Its name.
        plan: The pool it shall point at.

    Raises:
        BadInputError: If the alias has the name of a pool, or as `start_pool`.
        PoolMismatchError: As `start_pool`.
        PoolUnavailableError: As `start_pool`.
    """
    check_connected(f"alias {alias!r}")
    if not _ALIAS.fullmatch(alias):
        what = "an alias has up to 64 letters, digits, _ . and -, nothing else"
        raise BadInputError.single(f"alias {alias!r}", what)
    if alias in list_replicas():
        what = "is the name of a pool; choose another, or stop that pool first"
        raise BadInputError.single(f"alias {alias!r}", what)
    bring_up(replace(plan, lifetime="detached"))
    before = find_alias(alias)
    put_alias(Alias(alias, plan.pool, plan.fingerprint))
    if before and before.pool not in {other.pool for other in list_aliases()}:
        _let_go(before.pool)


def stop_pool(name: str) -> int:
    """End every replica of a pool, whoever uses it, and forget the aliases that point at it.

    Returns:
        How many replicas there were.

    Raises:
        PoolUnavailableError: If one does not end.
    """
    check_connected(f"pool {name!r}")
    drop_aliases(name)
    return end_replicas(name)


def _client(
    pool: str, fingerprint: str, *, who: str, timeout_s: float = _ASK_S, search: str = ""
) -> PoolClient:
    client = PoolClient(pool, fingerprint, timeout_s=timeout_s, who=who)
    client.hold(search)
    return client


def _let_go(pool: str) -> None:
    """Have the replicas of a pool leave when nobody holds a lease on them any more."""
    handles = find_replicas(pool)
    found = descriptions(handles, _ASK_S)
    forget_detached(found)
    if len(found) < len(handles):
        log.warning(
            "pool %r: %d replicas do not answer and may stay; end them with `ragsearch pool "
            "stop %s` when no client needs them", pool, len(handles) - len(found), pool,
        )  # fmt: skip
