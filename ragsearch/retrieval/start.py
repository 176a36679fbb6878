"""Replicas are started until a pool is as its plan says; where some are lost, once more.

In: a `PoolPlan`. Out: what every replica says of itself. Knows Ray and the index; knows nothing
of clients, trials or MLflow.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.exceptions import RayActorError, RayError, RpcError

from ragsearch.errors import PoolUnavailableError, RagsearchError
from ragsearch.retrieval.actors import (
    UNREACHABLE,
    Handles,
    check_identity,
    control,
    create_replica,
    describe,
    find_replicas,
    list_replicas,
    note_detached,
)
from ragsearch.retrieval.lease import Beat
from ragsearch.retrieval.placement import (
    PoolPlan,
    Prober,
    Slot,
    Spot,
    alive_nodes,
    check_memory,
    missing_spots,
    probe_nodes,
)
from ragsearch.retrieval.replica import Description

log = logging.getLogger(__name__)

_START_S = 60.0  # an actor starts in 1-2 s, on a loaded machine in ten
_PAUSE_S = 0.2

Found = Mapping[Slot, Description]
"""What the replicas of a pool say of themselves."""


def bring_up(
    plan: PoolPlan, *, who: str = "", holder: str = "", prober: Prober = probe_nodes
) -> Found:
    """Start the replicas that a pool lacks, and return what all of them are.

    Those that exist are joined as they are and kept for one lease: time enough to take one.

    Args:
        plan: The pool as it shall be.
        who: Asker's name in error messages.
        holder: Who takes that lease; nobody by name where it is not known yet.
        prober: Asks the nodes what they have.

    Returns:
        What each replica says of itself.

    Raises:
        BadInputError: If the index folder is not sound, no node has it, or no memory is left.
        PoolMismatchError: If the pool or the folder has another index.
        PoolUnavailableError: If replicas do not start in time.
    """
    deadline = time.monotonic() + _START_S
    while True:
        try:
            found = _vet(plan, find_replicas(plan.pool), who, holder)
            spots, n_shards = _missing(plan, found, prober)
            created = {
                spot.slot: create_replica(plan, spot, n_shards, holder) for spot in spots
            }
            started = _vet(plan, created, who, holder)
        except UNREACHABLE as error:  # one is leaving or being restarted, or cannot start
            hopeless = isinstance(error, RayActorError) and error.actor_init_failed
            if hopeless or time.monotonic() > deadline:
                raise _not_starting(plan, error) from error
            time.sleep(_PAUSE_S)
        else:
            found |= started
            # another process may have given a name to a replica on another node
            if all(started[spot.slot]["node_id"] == spot.node for spot in spots):
                if plan.lifetime == "detached":
                    note_detached(found.values())
                return found


@contextmanager
def healing(
    plan: PoolPlan, holder: str, *, every_s: float = 5.0, prober: Prober = probe_nodes
) -> Iterator[None]:
    """Start replicas again that are lost with their node, elsewhere, while the block lasts.

    Ray itself restarts those whose process ended. A node that joins gets its replicas, where
    the plan has them per node.

    Args:
        plan: The pool as it shall be.
        holder: Who holds the lease on it.
        every_s: Seconds between two looks at the cluster.
        prober: Asks the nodes what they have.
    """
    beat = Beat(f"healing-{plan.pool}", every_s, _Healer(plan, holder, prober))
    beat.start()
    try:
        yield
    finally:
        beat.end(_START_S)


class _Healer:
    """Brings a pool up again when its replicas or the nodes have changed."""

    def __init__(self, plan: PoolPlan, holder: str, prober: Prober) -> None:
        self._plan, self._holder, self._prober = plan, holder, prober
        self._seen = self._look()

    def __call__(self) -> None:
        """Look at the cluster, and mend the pool if need be."""
        try:
            if not ray.is_initialized() or self._look() == self._seen:
                return
            bring_up(self._plan, who="healing", holder=self._holder, prober=self._prober)
            self._seen = self._look()
        except (RagsearchError, RayError, RpcError) as error:
            reason = str(error).strip().partition("\n")[0]
            log.warning("pool %r lacks replicas: %s", self._plan.pool, reason)

    def _look(self) -> tuple[object, ...]:
        return list_replicas().get(self._plan.pool), alive_nodes().keys()


def _vet(plan: PoolPlan, handles: Handles, who: str, holder: str) -> dict[Slot, Description]:
    """Return what each replica is; keep it for one lease."""
    deadline = time.monotonic() + _START_S
    found = {}
    for slot, handle in handles.items():
        found[slot] = describe(handle, max(deadline - time.monotonic(), 0.0))
        check_identity(plan.pool, found[slot], plan.fingerprint, who)
        ray.get(control(handle, "renew", holder), timeout=_START_S)
    return found


def _missing(plan: PoolPlan, found: Found, prober: Prober) -> tuple[list[Spot], int]:
    """Return where replicas are to be started, and how many shards the index has."""
    n_shards = max((one["n_shards"] for one in found.values()), default=0)
    counts = Counter(slot.shard for slot in found)
    wanted = plan.layout.replicas
    is_full = n_shards and all(counts[shard] >= wanted for shard in range(n_shards))
    if plan.layout.per_node is None and is_full:
        return [], n_shards  # the index folder need not even be there
    nodes = prober(plan.index, plan.fingerprint)
    n_shards = max(node.n_shards for node in nodes)
    there = [Spot(slot, one["node_id"]) for slot, one in found.items()]
    spots = missing_spots(plan.layout, n_shards, nodes, there)
    check_memory(plan.layout, nodes, spots)
    return spots, n_shards


def _not_starting(plan: PoolPlan, error: Exception) -> PoolUnavailableError:
    reason = str(error).strip().rpartition("\n")[2]
    return PoolUnavailableError(
        f"pool {plan.pool!r}: its replicas do not start on {plan.index} ({reason}); end them "
        f"with `ragsearch pool stop {plan.pool}` and try again"
    )
