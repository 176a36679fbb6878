"""Clients in processes of their own: told what to do, waited for, weighed, ended.

A plain process for the designs that know no Ray, an actor for those that do, as a trial is one.
Both hold a `Client` and are asked in the same two steps, so that all are busy at once.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol

from ragsearch.bench.client import Client
from ragsearch.errors import RagsearchError

if TYPE_CHECKING:
    from ray import ObjectRef

_END_S = 10.0


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
        self._child = subprocess.Popen(  # noqa: S603 (our own Python, and fixed words)
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process to handle
            env=os.environ | _environment(threads),
        )
        self.begin("__init__", queries)
        self.result()

    def begin(self, method: str, *args: object) -> None:
        """Have it start on something."""
        assert self._child.stdin is not None, "it was opened with a pipe"
        try:
            pickle.dump((method, args), self._child.stdin)
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def result(self) -> Any:  # noqa: ANN401 (what the method returns)
        """Wait for what was begun.

        Returns:
            What the method returned.

        Raises:
            BenchError: If it failed.
        """
        assert self._child.stdout is not None, "it was opened with a pipe"
        try:
            done, value = pickle.load(self._child.stdout)  # noqa: S301 (our own child)
        except EOFError:
            raise self._ended() from None
        if not done:
            raise BenchError(f"a client of the bench failed: {value}")
        return value

    def end(self) -> None:
        """End its process."""
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None, "it was opened with a pipe"
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _ended(self) -> BenchError:
        code = self._child.wait()
        return BenchError(
            f"a client of the bench ended with code {code}; -9 is the machine's memory: "
            "choose fewer --passages"
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


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the memory processes hold together, a page that several share counted once.

    Pages shared with processes that are not named count in part: the Linux kernel's
    "proportional set size".
    """
    return sum(_pss_bytes(pid) for pid in pids)


def _pss_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    (line,) = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024


def serve() -> None:
    """Be the child process: a client that does what comes in by stdin."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get in between
    asked: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
    Thread(target=_listen, args=(requests, asked), daemon=True).start()
    client: Client | None = None
    while True:
        method, args = asked.get()
        try:
            if method == "__init__":
                client = Client(*args)
                value = None
            else:
                value = getattr(client, method)(*args)
            answer = (True, value)
        except Exception as error:  # noqa: BLE001 (told to the process that asked)
            answer = (False, f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


def _listen(requests: BinaryIO, asked: "SimpleQueue[tuple[str, tuple[Any, ...]]]") -> None:
    """Take requests in; end this process when the one that asks is gone."""
    while True:
        try:
            asked.put(pickle.load(requests))  # noqa: S301 (from our own parent)
        except EOFError:
            os._exit(0)


def _environment(threads: int) -> Mapping[str, str]:
    """Return what a child's libraries read when they are imported."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",  # nothing listens on other addresses
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
    }
