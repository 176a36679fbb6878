"""Clients in processes of their own: told what to do, waited for, weighed, ended.

A plain process for the designs that know no Ray, an actor for those that do, as a trial is one.
Both hold a `Client` and are asked in the same two steps, so that all are busy at once.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ragsearch.bench.client import Client
from ragsearch.errors import RagsearchError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ray import ObjectRef


class BenchError(RagsearchError):
    """A design did not do what is measured: a client failed, or found other passages."""

    exit_code: ClassVar[int] = 1


class ClientProcess(Protocol):
    """A `Client` elsewhere."""

    def begin(self, method: str, *args: object) -> None:
        """Have it start on something."""

    def result(self) -> Any:  # noqa: ANN401 (what the method returns)
        """Wait for what was begun.

        Returns:
            What the method returned.

        Raises:
            BenchError: If it failed.
        """

    def end(self) -> None:
        """End its process."""


class PlainProcess:
    """A client in a child process; it ends with this one, however this one ends.

    Args:
        queries: File of the queries.
        threads: Threads it computes with.
    """

    def __init__(self, queries: Path, threads: int) -> None:
        spawned = get_context("spawn")
        self._pipe, theirs = spawned.Pipe()
        self._child = spawned.Process(target=serve, args=(queries, theirs), daemon=True)
        with _inherited(threads):
            self._child.start()
        theirs.close()
        self.result()

    def begin(self, method: str, *args: object) -> None:
        """Have it start on something."""
        try:
            self._pipe.send((method, args))
        except BrokenPipeError:
            raise self._ended() from None

    def result(self) -> Any:  # noqa: ANN401 (what the method returns)
        """Wait for what was begun.

        Returns:
            What the method returned.

        Raises:
            BenchError: If it failed.
        """
        try:
            done, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if not done:
            raise BenchError(f"a client of the bench failed: {value}")
        return value

    def end(self) -> None:
        """End its process."""
        self._child.kill()  # it has nothing to put in order, and may be waiting for others
        self._child.join()
        self._pipe.close()

    def _ended(self) -> BenchError:
        self._child.join()
        return BenchError(
            f"a client of the bench ended with code {self._child.exitcode}; -9 is the "
            "machine's memory: choose fewer --passages"
        )


class RayProcess:
    """A client in an actor; ends with the cluster if not before.

    Args:
        queries: File of the queries.
    """

    def __init__(self, queries: Path) -> None:
        import ray

        actor: Any = ray.remote(Client)  # Ray types no methods of an actor
        self._actor = actor.options(num_cpus=0).remote(queries)
        self._begun: list[ObjectRef[Any]] = []

    def begin(self, method: str, *args: object) -> None:
        """Have it start on something."""
        self._begun.append(getattr(self._actor, method).remote(*args))

    def result(self) -> Any:  # noqa: ANN401 (what the method returns)
        """Wait for what was begun.

        Returns:
            What the method returned.

        Raises:
            BenchError: If it failed.
        """
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(self._begun.pop())
        except RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise BenchError(f"a client of the bench failed: {reason}") from error

    def end(self) -> None:
        """End its process."""
        import ray

        ray.kill(self._actor, no_restart=True)


def ask(processes: Iterable[ClientProcess], method: str, *args: object) -> list[Any]:
    """Return what each answers; all work at once."""
    asked = list(processes)
    for process in asked:
        process.begin(method, *args)
    return [process.result() for process in asked]


def serve(queries: Path, pipe: "Connection[Any, Any]") -> None:
    """Be the child process: a client that does what comes in by the pipe."""
    os.dup2(2, 1)  # what libraries print must not get among the results
    Thread(target=_end_with_parent, daemon=True).start()
    client = Client(queries)
    pipe.send((True, None))
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(client, method)(*args))
        except Exception as error:  # noqa: BLE001 (told to the process that asked)
            answer = (False, f"{type(error).__name__}: {error}")
        pipe.send(answer)


def _end_with_parent() -> None:
    """End this process, whatever it waits for, when the one that asks is gone."""
    parent = parent_process()
    assert parent is not None, "only a child serves"
    parent.join()
    os._exit(0)


@contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """Have what a child started here inherits: what its libraries read at import, no Ctrl-C."""
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",  # nothing listens on other addresses
        "HF_HUB_OFFLINE": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    handler = signal(SIGINT, SIG_IGN)  # it is for this process to handle
    try:
        yield
    finally:
        signal(SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
