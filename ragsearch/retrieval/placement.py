"""Where the replicas of a pool go: what each node has, who goes where, whether it fits.

In: an index folder, and a `Layout`. Out: `Spot`s. A node takes part if it has the folder, so
files that lie on some nodes only decide themselves where replicas go. Asking the nodes is the
only thing here that knows Ray.
"""

import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ragsearch.errors import BadInputError, PoolMismatchError
from ragsearch.index.manifest import (
    MANIFEST_FILE,
    check_files,
    read_manifest,
    sketch_file,
)
from ragsearch.index.open import open_index
from ragsearch.retrieval.memory import available_bytes, readable

log = logging.getLogger(__name__)

Memory = Literal["mapped", "in_memory"]
Lifetime = Literal["search", "detached"]
_PROBE_S = 60.0  # a worker starts in 1-2 s, on a loaded machine in ten


@dataclass(frozen=True, slots=True)
class Layout:
    """How many replicas there shall be, and how each holds the index."""

    replicas: int = 1
    """Replicas of each shard in the cluster."""
    per_node: int | None = None
    """Replicas of each shard on every node that has its file, whatever `replicas` says."""
    memory: Memory = "mapped"
    """`mapped`: the replicas of a node share one copy; `in_memory`: each has its own."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool as it is asked for: what it serves, from where, and for how long."""

    index: Path
    """Index folder, the same path on every node."""
    fingerprint: str
    """Hash the index must have."""
    layout: Layout = Layout()
    threads: int = 1
    """Threads a replica searches with."""
    lifetime: Lifetime = "search"
    name: str = ""
    """Name of the pool; by default it follows from the fingerprint."""
    lease_s: float = 60.0
    """Seconds a lease on a replica is good for."""

    @property
    def pool(self) -> str:
        """Name of the pool."""
        return self.name or pool_name(self.fingerprint)


def pool_name(fingerprint: str) -> str:
    """Return the name a pool gets from its index."""
    return f"index-{fingerprint[:16]}"


class Slot(NamedTuple):
    """Which replica of a pool."""

    shard: int
    number: int
    """Among those of its shard, counted from 0."""


class Spot(NamedTuple):
    """A place for a replica."""

    slot: Slot
    node: str
    """Ray's id of the node."""


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """What a node has for the replicas of an index."""

    node: str
    """Ray's id of the node."""
    name: str
    """Its host name."""
    n_shards: int
    """Shards of the index, 0 where the node has another index or none."""
    shard_bytes: Mapping[int, int]
    """Size of the vectors of each shard that is there, with their sketch."""
    available_bytes: int
    is_here: bool = False
    """Whether this process runs on it."""


Prober = Callable[[Path, str], Sequence[NodeProbe]]
"""Asks every node what it has for an index: folder and fingerprint."""


def probe_nodes(folder: Path, fingerprint: str) -> list[NodeProbe]:
    """Return what the nodes alive have for an index; one that does not answer is left out.

    Of the files on this node the contents are checked, of those elsewhere the sizes.

    Args:
        folder: Index folder, the same path on every node.
        fingerprint: Hash the index must have.

    Raises:
        BadInputError: If the folder on this node is damaged, or no node has the index.
        PoolMismatchError: If the folder on this node has another index.
    """
    if (folder / MANIFEST_FILE).is_file():
        check_index(folder, fingerprint)
    return glance_at_nodes(folder, fingerprint)


def glance_at_nodes(folder: Path, fingerprint: str) -> list[NodeProbe]:
    """Return the same, the contents of no file being checked.

    Args:
        folder: Index folder, the same path on every node.
        fingerprint: Hash the index must have.

    Raises:
        BadInputError: If no node has the index.
    """
    here = ray.get_runtime_context().get_node_id()
    elsewhere = {node: name for node, name in alive_nodes().items() if node != here}
    found = [probe(folder, fingerprint, here, is_here=True)]
    found += _answers(folder, fingerprint, elsewhere)
    if not any(node.shard_bytes for node in found):
        what = (
            f"no node of the cluster has index {fingerprint[:16]} there; build it with "
            "`ragsearch index build`, or copy its folder to a node, at the same path"
        )
        raise BadInputError.single(folder, what)
    return found


def check_index(folder: Path, fingerprint: str) -> None:
    """Refuse an index folder before an actor fails on it.

    Raises:
        BadInputError: If the folder is not a sound index.
        PoolMismatchError: If it holds another index.
    """
    found = open_index(folder).manifest.fingerprint
    if found != fingerprint:
        raise PoolMismatchError(
            f"{folder} holds index {found[:16]} but the pool is to serve {fingerprint[:16]}; "
            "build the index again with `ragsearch index build`"
        )


def _answers(folder: Path, fingerprint: str, nodes: Mapping[str, str]) -> list[NodeProbe]:
    """Return what other nodes say of themselves, in the order of their ids."""
    asked = {
        ray
        .remote(probe)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(folder, fingerprint, node): name
        for node, name in sorted(nodes.items())
    }
    if asked:
        ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    found = []
    for answer, name in asked.items():
        try:
            found.append(ray.get(answer, timeout=0.1))
        except RayError as error:  # it went away, or is too slow, or has no ragsearch
            ray.cancel(answer)
            reason = str(error).strip().rpartition("\n")[2]
            log.warning("node %s gets no replica: %s", name, reason)
    return found


def alive_nodes() -> dict[str, str]:
    """Return the host names of the nodes alive, by Ray's id."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerHostname"] for node in nodes if node["Alive"]}


def probe(folder: Path, fingerprint: str, node: str, *, is_here: bool = False) -> NodeProbe:
    """Return what the node of this process has for an index.

    Args:
        folder: Index folder; sizes of files are compared, not their contents.
        fingerprint: Hash the index must have.
        node: Ray's id of this node.
        is_here: Whether the asker runs on it.
    """
    n_shards, sizes = 0, {}
    try:
        manifest = read_manifest(folder)
    except BadInputError:
        manifest = None
    if manifest is not None and manifest.fingerprint == fingerprint:
        n_shards = len(manifest.shards)
        for number, shard in enumerate(manifest.shards):
            try:
                check_files(folder, manifest, contents=False, shard=number)
            except BadInputError:
                continue
            names = {shard.file, sketch_file(shard.file)} & manifest.files.keys()
            sizes[number] = sum(manifest.files[name].bytes for name in names)
    return NodeProbe(node, platform.node(), n_shards, sizes, available_bytes(), is_here)


def missing_spots(
    layout: Layout, n_shards: int, nodes: Sequence[NodeProbe], there: Iterable[Spot]
) -> list[Spot]:
    """Return the replicas to start so that a pool is as its layout says.

    Of `replicas`, each goes where fewest of its shard are, if there is memory for it, then
    where the smallest share of the memory is taken, then to the node of this process.

    Args:
        layout: What there shall be.
        n_shards: Shards of the index.
        nodes: What each node has.
        there: Replicas that are running or being restarted.

    Raises:
        BadInputError: If no node has the file of a shard that is to be started.
    """
    board = _Board(layout, nodes, list(there))
    if layout.per_node is None:
        for wanted in range(1, layout.replicas + 1):
            for shard in range(n_shards):
                if board.count(shard) < wanted:
                    board.add(shard, board.best(shard))
        return board.new
    for shard in range(n_shards):
        for node in board.able(shard):
            for _ in range(layout.per_node - board.count(shard, node.node)):
                board.add(shard, node)
    return board.new


def check_memory(layout: Layout, nodes: Sequence[NodeProbe], new: Sequence[Spot]) -> None:
    """Refuse replicas that would be killed for want of memory; warn of those that will be slow.

    Args:
        layout: Says how replicas hold the index.
        nodes: What each node has.
        new: Replicas to be started.

    Raises:
        BadInputError: If copies of the index are larger than the memory of their node.
    """
    for node in nodes:
        n_bytes = needed_bytes(layout, node, new)
        if n_bytes <= node.available_bytes:
            continue
        free = readable(node.available_bytes)
        smaller = "divide the index into shards, choose a smaller factory such as SQ8"
        if layout.memory == "mapped":
            log.warning(
                "the index on node %s has %s and %s are free there: searches will read from "
                "disk; %s, or add memory",
                node.name, readable(n_bytes), free, smaller,
            )  # fmt: skip
        else:
            shards = [spot.slot.shard for spot in new if spot.node == node.node]
            each = readable(max(node.shard_bytes[shard] for shard in shards))
            what = (
                f"{len(shards)} x {each} of index on node {node.name}, where {free} are free; "
                f"{smaller}, ask for fewer replicas, or set it to mapped"
            )
            raise BadInputError.single("pool.memory", what)


def needed_bytes(layout: Layout, node: NodeProbe, new: Sequence[Spot]) -> int:
    """Return what new replicas take of a node's memory."""
    shards = [spot.slot.shard for spot in new if spot.node == node.node]
    copies = set(shards) if layout.memory == "mapped" else shards
    return sum(node.shard_bytes[shard] for shard in copies)


class _Board:
    """Replicas that are there and those placed so far."""

    def __init__(self, layout: Layout, nodes: Sequence[NodeProbe], there: list[Spot]) -> None:
        self._is_mapped = layout.memory == "mapped"
        self._nodes = nodes
        self._there = there
        self.new: list[Spot] = []

    def count(self, shard: int, node: str | None = None) -> int:
        """Return how many replicas of a shard there are, on one node or on all."""
        return sum(
            spot.slot.shard == shard and node in {None, spot.node}
            for spot in (*self._there, *self.new)
        )

    def able(self, shard: int) -> list[NodeProbe]:
        """Return the nodes that have a shard's file, at least one."""
        able = [node for node in self._nodes if shard in node.shard_bytes]
        if not able:
            n_shards = max((node.n_shards for node in self._nodes), default=0)
            which = "its index" if n_shards < 2 else f"shard {shard} of {n_shards} of its index"  # noqa: PLR2004
            what = "copy the index folder to a node, at the same path, or build it there"
            raise BadInputError.single("pool", f"no node of the cluster has {which}; {what}")
        return able

    def add(self, shard: int, node: NodeProbe) -> None:
        """Place a replica under the first number that is free."""
        taken = {
            spot.slot.number for spot in (*self._there, *self.new) if spot.slot.shard == shard
        }
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        self.new.append(Spot(Slot(shard, number), node.node))

    def best(self, shard: int) -> NodeProbe:
        """Return the node for one more replica of a shard."""

        def cost(node: NodeProbe) -> tuple[object, ...]:
            taken = self._taken(node)
            needs = self._needs(shard, node)
            return (
                taken + needs > node.available_bytes,
                self.count(shard, node.node),
                taken / max(node.available_bytes, 1),
                not node.is_here,
                node.node,
            )

        return min(self.able(shard), key=cost)

    def _needs(self, shard: int, node: NodeProbe) -> int:
        shared = self._is_mapped and self.count(shard, node.node) > 0
        return 0 if shared else node.shard_bytes[shard]

    def _taken(self, node: NodeProbe) -> int:
        """Return the bytes that replicas take which the kernel does not yet count as taken."""
        new = [spot.slot.shard for spot in self.new if spot.node == node.node]
        if self._is_mapped:  # their pages count as available, also of those that run
            running = {spot.slot.shard for spot in self._there if spot.node == node.node}
            return sum(node.shard_bytes.get(shard, 0) for shard in running.union(new))
        return sum(node.shard_bytes[shard] for shard in new)
