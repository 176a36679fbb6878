"""The four designs: each starts its processes, grows client by client, and ends them.

A design has exactly the processes that so many clients need, so that memory can be read off;
it grows, because starting a process that imports Transformers takes seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from ragsearch.bench.client import Client, Connection
from ragsearch.bench.connections import StockActor, ToActors, ToFaiss, ToGroup, ToPool
from ragsearch.bench.indexes import BenchIndex
from ragsearch.bench.processes import PlainProcess, Process, RayProcess, ask


class Name(StrEnum):
    """The designs, in the order they are measured and shown."""

    FAISS = "faiss"
    TORCH_DISTRIBUTED = "torch_distributed"
    RAY_ORIGINAL = "ray_original"
    POOL = "pool"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all designs are given alike."""

    index: BenchIndex
    queries: Path
    replicas: int
    threads: int
    """Of a replica."""

    @property
    def all_threads(self) -> int:
        """Threads that search at once, in a design that searches in one process."""
        return self.replicas * self.threads


class Design(Protocol):
    """Processes that answer clients, and the clients."""

    @property
    def processes(self) -> Sequence[Process]:
        """The clients there are now."""

    def grow(self, n_clients: int) -> None:
        """Have so many clients, connected; never fewer than before."""

    def server_pids(self) -> Sequence[int]:
        """Return the processes that are no clients."""


@dataclass
class Faiss:
    """One process that searches for all clients at once."""

    setting: Setting
    stack: ExitStack
    processes: list[Process] = field(default_factory=list, init=False)

    def grow(self, n_clients: int) -> None:
        """Have the one process ask for so many clients."""
        threads = self.setting.all_threads
        if not self.processes:
            self.processes.append(_child(self.setting, self.stack, threads))
        connection = ToFaiss(self.setting.index.faiss, threads)
        ask(self.processes, "connect", connection, range(n_clients))

    def server_pids(self) -> Sequence[int]:
        """Return none: it searches in the client."""
        return ()


@dataclass
class TorchDistributed:
    """As many ranks as clients; rank 0 holds the index, and all cores when it searches."""

    setting: Setting
    stack: ExitStack
    processes: list[Process] = field(default_factory=list, init=False)

    def grow(self, n_clients: int) -> None:
        """Have so many ranks, met in a group of their size."""
        while len(self.processes) < n_clients:
            threads = 1 if self.processes else self.setting.all_threads
            self.processes.append(_child(self.setting, self.stack, threads))
        index = self.setting.index
        place = f"file://{self.setting.queries.with_name(f'group-of-{n_clients}')}"
        for rank, process in enumerate(self.processes):
            connection = ToGroup(index.folder, index.export, place, rank, n_clients)
            process.begin("connect", connection, [rank])
        for process in self.processes:
            process.result()

    def server_pids(self) -> Sequence[int]:
        """Return none: rank 0 is a client too."""
        return ()


@dataclass
class RayOriginal:
    """As many actors as the pool has replicas, each with a copy of the index."""

    setting: Setting
    stack: ExitStack
    processes: list[Process] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        import ray

        index = self.setting.index
        options = {
            "num_cpus": 0,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(self.setting.threads)}},
        }
        actor: Any = ray.remote(StockActor)  # Ray types no methods of an actor
        self._actors = [
            actor.options(**options).remote(index.export, index.folder)
            for _ in range(self.setting.replicas)
        ]
        for actor in self._actors:
            self.stack.callback(ray.kill, actor, no_restart=True)
        self._pids: list[int] = ray.get([actor.pid.remote() for actor in self._actors])

    def grow(self, n_clients: int) -> None:
        """Have so many clients."""
        index = self.setting.index
        _grow(
            self,
            n_clients,
            lambda number: ToActors(index.folder, index.export, self._actors, seed=number),
        )

    def server_pids(self) -> Sequence[int]:
        """Return the actors."""
        return self._pids


@dataclass
class Pool:
    """Our pool."""

    setting: Setting
    stack: ExitStack
    processes: list[Process] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        from ragsearch.retrieval.pool import Lease, pool_name, start_pool, stop_pool

        setting, fingerprint = self.setting, self.setting.index.manifest.fingerprint
        self._pool = pool_name(fingerprint)
        self.stack.callback(stop_pool, self._pool)
        start_pool(
            setting.index.folder,
            fingerprint,
            replicas=setting.replicas,
            threads=setting.threads,
        )
        self.stack.enter_context(Lease(self._pool, "bench"))

    def grow(self, n_clients: int) -> None:
        """Have so many clients."""
        connection = ToPool(self._pool, self.setting.index.manifest.fingerprint)
        _grow(self, n_clients, lambda _: connection)

    def server_pids(self) -> Sequence[int]:
        """Return the replicas."""
        from ragsearch.retrieval.pool import list_pools

        (pool,) = [found for found in list_pools() if found.name == self._pool]
        return pool.pids


_DESIGNS: Mapping[Name, Callable[[Setting, ExitStack], Design]] = {
    Name.FAISS: Faiss,
    Name.TORCH_DISTRIBUTED: TorchDistributed,
    Name.RAY_ORIGINAL: RayOriginal,
    Name.POOL: Pool,
}


@contextmanager
def started(name: Name, setting: Setting) -> Iterator[Design]:
    """Give a design without clients yet; its processes end with the block."""
    with ExitStack() as stack:
        yield _DESIGNS[name](setting, stack)


def _child(setting: Setting, stack: ExitStack, threads: int) -> PlainProcess:
    """Return a client in a child process."""
    process = PlainProcess(Client, setting.queries, threads=threads)
    stack.callback(process.end)
    return process


def _grow(
    design: RayOriginal | Pool, n_clients: int, connection_of: Callable[[int], Connection]
) -> None:
    """Add clients in actors, connected; they start at once, for each takes seconds."""
    there = len(design.processes)
    for number in range(there, n_clients):
        process = RayProcess(Client, design.setting.queries)
        design.stack.callback(process.end)
        design.processes.append(process)
        process.begin("connect", connection_of(number), [number])
    for begun in design.processes[there:]:
        begun.result()
