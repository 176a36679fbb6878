"""Replicas as named Ray actors: find, create, ask, keep, end.

Knows Ray and `Replica`; knows nothing of routing, trials or MLflow. The replicas of pool
`wiki` are the actors `wiki/0`, `wiki/1`, … in Ray's namespace `ragsearch`; those of shard 2 of
an index in shards are `wiki/2.0`, `wiki/2.1`, ….
"""

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RpcError
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_exists,
    _internal_kv_get,
    _internal_kv_put,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ragsearch.errors import PoolMismatchError, PoolUnavailableError
from ragsearch.retrieval.gauges import Gauges
from ragsearch.retrieval.meter import Figures
from ragsearch.retrieval.placement import PoolPlan, Slot, Spot
from ragsearch.retrieval.replica import PROTOCOL, Description, Replica

NAMESPACE = "ragsearch"
UNREACHABLE = (RayActorError, ActorUnschedulableError, GetTimeoutError)
"""What Ray raises when a replica is dead, being restarted, out of reach or too slow."""

Handles = Mapping[Slot, "ActorHandle[Replica]"]
"""Replicas of one pool."""

_CONTROL = "control"  # concurrency group that answers while a search runs
_NAME = re.compile(r"(?P<pool>.+)/(?:(?P<shard>\d+)\.)?(?P<number>\d+)")


@dataclass(frozen=True, slots=True)
class RayKeeper:
    """Keeps a replica in its actor; notes what must outlast restarts in the cluster."""

    birth: str
    """Unique to this replica, the same after restarts."""

    @property
    def node_id(self) -> str:
        """Ray's id of this node."""
        return ray.get_runtime_context().get_node_id()

    def count_start(self) -> int:
        """Note that the replica starts, and return how often it did before."""
        key = f"starts/{self.birth}"
        n_before = int(_internal_kv_get(key, namespace=NAMESPACE) or 0)
        _internal_kv_put(key, str(n_before + 1).encode(), namespace=NAMESPACE)
        return n_before

    def is_detached(self) -> bool:
        """Return whether the replica stays without leases."""
        try:
            return bool(_internal_kv_exists(_note(self.birth), namespace=NAMESPACE))
        except RpcError:
            return True  # the cluster does not answer: no moment to leave, ask again

    def show(self, fingerprint: str, figures: Figures, n_restarts: int) -> None:
        """Set Ray's metrics."""
        _gauges(fingerprint, self.birth).show(figures, n_restarts)

    def leave(self) -> None:
        """End this actor, so that Ray does not restart it."""
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


@cache
def _gauges(fingerprint: str, birth: str) -> Gauges:
    """Return the metrics of a replica, made once in its process."""
    return Gauges(fingerprint, birth)


def find_replicas(pool: str) -> Handles:
    """Return the replicas of a pool, the ones being restarted included."""
    handles = {}
    for slot, name in list_replicas().get(pool, {}).items():
        try:
            handles[slot] = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:  # it left since it was listed
            continue
    return handles


def list_replicas() -> Mapping[str, Mapping[Slot, str]]:
    """Return the actors' names of the replicas of every pool of the cluster."""
    pools: dict[str, dict[Slot, str]] = defaultdict(dict)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        match = _NAME.fullmatch(actor["name"])
        if match and actor["namespace"] == NAMESPACE:
            slot = Slot(int(match["shard"] or 0), int(match["number"]))
            pools[match["pool"]][slot] = actor["name"]
    return {pool: dict(sorted(names.items())) for pool, names in pools.items()}


def create_replica(
    plan: PoolPlan, spot: Spot, n_shards: int, holder: str = ""
) -> "ActorHandle[Replica]":
    """Return a new replica on a node, or the one that has its name already."""
    slot = spot.slot
    number = str(slot.number) if n_shards == 1 else f"{slot.shard}.{slot.number}"
    grouped = ray.remote(concurrency_groups={_CONTROL: 1})  # type: ignore[call-overload]
    named = grouped(Replica).options(
        name=f"{plan.pool}/{number}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",  # whether it outlives its driver is for the leases to say
        num_cpus=0,  # a replica that held a CPU could keep trials waiting without a word
        max_restarts=-1,
        max_task_retries=0,  # with retries a call waits for this one to come back
        # not the driver's or a trial's placement group: the actor would die with it
        scheduling_strategy=NodeAffinitySchedulingStrategy(spot.node, soft=False),
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(plan.threads)}},
    )
    keeper = RayKeeper(uuid.uuid4().hex)
    handle: ActorHandle[Replica] = named.remote(
        plan.index,
        plan.fingerprint,
        keeper,
        lease_s=plan.lease_s,
        holder=holder,
        shard=slot.shard,
        in_memory=plan.layout.memory == "in_memory",
    )
    return handle


def describe(handle: "ActorHandle[Replica]", timeout_s: float) -> Description:
    """Return what a replica says of itself.

    Raises one of `UNREACHABLE` if it does not answer in time.
    """
    answer: Description = ray.get(control(handle, "describe"), timeout=timeout_s)
    return answer


def control(handle: "ActorHandle[Replica]", method: str, *args: str) -> "ray.ObjectRef[Any]":
    """Return the answer to come of a method that must not wait behind searches."""
    reference: ray.ObjectRef[Any] = (
        getattr(handle, method).options(concurrency_group=_CONTROL).remote(*args)
    )
    return reference


def check_identity(pool: str, found: Description, fingerprint: str, who: str) -> None:
    """Refuse a replica that speaks another protocol or serves another index.

    Raises:
        PoolMismatchError: If it does.
    """
    if found["protocol"] != PROTOCOL:
        raise PoolMismatchError(
            f"pool {pool!r} speaks protocol {found['protocol']} but this ragsearch speaks "
            f"{PROTOCOL}; stop it with `ragsearch pool stop {pool}` or install the version "
            "that started it"
        )
    if found["fingerprint"] != fingerprint:
        raise PoolMismatchError(
            f"pool {pool!r} serves index {found['fingerprint'][:16]} "
            f"({found['n_passages']} passages) but {who or 'this search'} wants "
            f"{fingerprint[:16]}; stop it with `ragsearch pool stop {pool}` or choose "
            "another pool name"
        )


def note_detached(replicas: Iterable[Description]) -> None:
    """Let replicas stay without leases, from now on and after restarts."""
    for found in replicas:
        _internal_kv_put(_note(found["birth"]), b"", namespace=NAMESPACE)


def forget_detached(replicas: Iterable[Description]) -> None:
    """Let replicas leave when their last lease has ended, as those of a search do."""
    for found in replicas:
        _internal_kv_del(_note(found["birth"]), namespace=NAMESPACE)


def end_replicas(pool: str, *, timeout_s: float = 10.0) -> int:
    """End the replicas of a pool and wait until their names are free.

    Returns:
        How many there were.

    Raises:
        PoolUnavailableError: If one is still there after `timeout_s`.
    """
    handles = find_replicas(pool)
    for handle in handles.values():
        ray.kill(handle, no_restart=True)
    if not wait_until_gone(pool, timeout_s):
        raise PoolUnavailableError(
            f"pool {pool!r}: a replica is still there {timeout_s:g} s after it was ended; "
            f"see `ragsearch pool ls` and try again"
        )
    return len(handles)


def wait_until_gone(pool: str, timeout_s: float) -> bool:
    """Wait until the names of a pool's replicas are free; tell whether they are."""
    deadline = time.monotonic() + timeout_s
    while find_replicas(pool):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def check_connected(what: str) -> None:
    """Refuse to go on in a process without a cluster, where Ray would silently start one.

    Raises:
        PoolUnavailableError: If this process is in no Ray cluster.
    """
    if not ray.is_initialized():
        raise PoolUnavailableError(
            f"{what}: this process is connected to no Ray cluster; join one with "
            "`ragsearch.search.cluster.cluster('auto')` first"
        )


def _note(birth: str) -> str:
    return f"detached/{birth}"
