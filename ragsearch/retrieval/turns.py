"""Which pools fit into the memory of a cluster together, and which have to be served in turn.

In: pools as they shall be. Out: their names, divided. Asks the nodes; starts nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from ragsearch.retrieval.actors import find_replicas
from ragsearch.retrieval.info import descriptions
from ragsearch.retrieval.memory import first_fit
from ragsearch.retrieval.placement import (
    NodeProbe,
    PoolPlan,
    Prober,
    Slot,
    Spot,
    check_memory,
    glance_at_nodes,
    missing_spots,
    needed_bytes,
)

_ASK_S = 60.0


class Turns(NamedTuple):
    """Pools by name, divided into those that are served at the same time."""

    turns: tuple[tuple[str, ...], ...]
    """One turn where all fit together."""
    pool_bytes: Mapping[str, int]
    """What the replicas of each take, on all nodes."""
    free_bytes: int
    """What the nodes have for them; not asked where there is one pool only."""


def divide(plans: Mapping[str, PoolPlan], prober: Prober = glance_at_nodes) -> Turns:
    """Divide pools into as few turns as a first fit finds, in their order.

    Args:
        plans: Pools by any name.
        prober: Asks the nodes what they have.

    Returns:
        The turns, what the pools take, and what there is.

    Raises:
        BadInputError: If one of several does not fit even alone, or no node has its index.
    """
    if len(plans) < 2:  # noqa: PLR2004 (which costs no question to any node)
        return Turns((tuple(plans),), {}, 0)
    return turns_of({name: _look_at(plan, prober) for name, plan in plans.items()})


def turns_of(pools: Mapping[str, "WantedPool"]) -> Turns:
    """Divide pools of which is known what there is.

    What those that run now take counts as free, but for detached ones, which stay.

    Args:
        pools: Pools by any name.

    Returns:
        The turns, what the pools take, and what there is.

    Raises:
        BadInputError: If one does not fit even alone.
    """
    room = _room(pools.values())
    for pool in pools.values():
        nodes = pool.with_room(room)
        if not pool.is_mapped:
            check_memory(pool.plan.layout, nodes, pool.spots(nodes))

    def fit(names: Sequence[str]) -> bool:
        left = dict(room)
        for pool in _distinct(pools[name] for name in names):
            for node, n_bytes in pool.needs(left).items():
                left[node] -= n_bytes
        return min(left.values()) >= 0

    sizes = {name: sum(pool.needs(room).values()) for name, pool in pools.items()}
    return Turns(first_fit(list(pools), fit), sizes, sum(room.values()))


@dataclass(frozen=True)
class WantedPool:
    """A pool as it shall be, what the nodes have for it, and what is there of it."""

    plan: PoolPlan
    nodes: Sequence[NodeProbe]
    running: Sequence[Spot] = ()
    stays: bool = False
    """Whether its replicas are detached, so that closing it would give nothing back."""

    @property
    def is_mapped(self) -> bool:
        """Whether replicas take memory that the kernel counts as available."""
        return self.plan.layout.memory == "mapped"

    @property
    def gives_back(self) -> Counter[str]:
        """What each node has more of when it is closed."""
        if self.is_mapped or self.stays:
            return Counter()
        sizes = {node.node: node.shard_bytes for node in self.nodes}
        given = Counter[str]()
        for slot, node in self.running:
            given[node] += sizes.get(node, {}).get(slot.shard, 0)
        return given

    def with_room(self, room: Mapping[str, int]) -> list[NodeProbe]:
        """Return its nodes with so much memory free."""
        return [replace(node, available_bytes=room[node.node]) for node in self.nodes]

    def spots(self, nodes: Sequence[NodeProbe]) -> list[Spot]:
        """Return the replicas that starting it would start."""
        is_there = self.stays and not self.is_mapped
        n_shards = max(node.n_shards for node in nodes)
        there = self.running if is_there else []
        return missing_spots(self.plan.layout, n_shards, nodes, there)

    def needs(self, room: Mapping[str, int]) -> dict[str, int]:
        """Return what it takes of each node if so much memory is free there."""
        nodes = self.with_room(room)
        spots = self.spots(nodes)
        return {node.node: needed_bytes(self.plan.layout, node, spots) for node in nodes}


def _room(pools: Iterable[WantedPool]) -> dict[str, int]:
    """Return what each node would have free if none of the pools were there."""
    distinct = _distinct(pools)
    room: dict[str, int] = {}
    for node in chain.from_iterable(pool.nodes for pool in distinct):
        room.setdefault(node.node, node.available_bytes)
    given = sum((pool.gives_back for pool in distinct), Counter[str]())
    return {node: n_bytes + given[node] for node, n_bytes in room.items()}


def _distinct(pools: Iterable[WantedPool]) -> list[WantedPool]:
    """Return each pool once, though two names may stand for one index."""
    return list({pool.plan.pool: pool for pool in pools}.values())


def _look_at(plan: PoolPlan, prober: Prober) -> WantedPool:
    nodes = prober(plan.index, plan.fingerprint)
    found = descriptions(find_replicas(plan.pool), _ASK_S)
    there = [Spot(Slot(one["shard"], n), one["node_id"]) for n, one in enumerate(found)]
    stays = any(one["lifetime"] == "detached" for one in found)
    return WantedPool(plan, nodes, there, stays)
