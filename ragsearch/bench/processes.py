"""What is measured in processes of its own: told what to do, waited for, weighed, ended.

A plain process for the designs that know no Ray, an actor for those that do, as a trial is one.
Both hold one object, such as a `Client`, and are asked for its methods in the same two steps,
so that all are busy at once.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ragsearch.errors import RagsearchError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ray import ObjectRef


_LEAVING_S = 10.0  # Python takes about one to end that has imported torch


class BenchError(RagsearchError):
    """A design did not do what is measured: it failed, or found or computed something else."""

    exit_code: ClassVar[int] = 1


class Process(Protocol):
    """An object elsewhere."""

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
    """An object in a child process; it ends with this one, however this one ends.

    Args:
        make: Returns the object, called there.
        arguments: What it is called with.
        threads: Threads it computes with.
    """

    def __init__(self, make: Callable[..., object], *arguments: object, threads: int) -> None:
        spawned = get_context("spawn")
        self._pipe, theirs = spawned.Pipe()
        self._child = spawned.Process(target=serve, args=(theirs, make, arguments), daemon=True)
        with _inherited(threads):
            self._child.start()
        theirs.close()
        self._is_busy = True
        self.result()

    def begin(self, method: str, *args: object) -> None:
        """Have it start on something."""
        self._is_busy = True
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
        self._is_busy = False
        if not done:
            raise BenchError(f"a process of the bench failed: {value}")
        return value

    def end(self) -> None:
        """End its process."""
        self._pipe.close()
        if not self._is_busy:
            self._child.join(_LEAVING_S)  # it gives back what its libraries took
        self._child.kill()  # it may be waiting for others
        self._child.join()

    def _ended(self) -> BenchError:
        self._child.join()
        return BenchError(
            f"a process of the bench ended with code {self._child.exitcode}; -9 is the "
            "machine's memory: measure something smaller"
        )


class RayProcess:
    """An object in an actor; ends with the cluster if not before.

    Args:
        kind: Class of the object.
        arguments: What it is made of.
    """

    def __init__(self, kind: type, *arguments: object) -> None:
        import ray

        actor: Any = ray.remote(kind)  # Ray types no methods of an actor
        self._actor = actor.options(num_cpus=0).remote(*arguments)
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
            raise BenchError(f"a process of the bench failed: {reason}") from error

    def end(self) -> None:
        """End its process."""
        import ray

        ray.kill(self._actor, no_restart=True)


def ask(processes: Iterable[Process], method: str, *args: object) -> list[Any]:
    """Return what each answers; all work at once."""
    asked = list(processes)
    for process in asked:
        process.begin(method, *args)
    return [process.result() for process in asked]


def serve(
    pipe: "Connection[Any, Any]", make: Callable[..., object], arguments: Sequence[object]
) -> None:
    """Be the child process: an object that does what comes in by the pipe."""
    os.dup2(2, 1)  # what libraries print must not get among the results
    Thread(target=_end_with_parent, daemon=True).start()
    done, served = _tried(make, *arguments)
    pipe.send((done, None if done else served))
    while done:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        pipe.send(_tried(getattr(served, method), *args))


def _tried(call: Callable[..., object], *arguments: object) -> tuple[bool, object]:
    """Return whether a call came back, and with what; else what it failed of."""
    try:
        return True, call(*arguments)
    except Exception as error:  # noqa: BLE001 (told to the process that asked)
        return False, f"{type(error).__name__}: {error}"


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
    # for this process to handle: the child keeps it waiting, here it comes after the start
    mask = pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
