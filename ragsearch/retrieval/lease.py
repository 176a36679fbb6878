"""The lease that keeps a pool of lifetime `search` alive: renewed by whoever needs the pool.

A search holds one while it runs, a client while it lives. When the holder's process ends, even
by `kill -9`, nobody renews any more and the replicas leave by themselves, unless somebody else
holds a lease or the pool is detached.
"""

import uuid
import weakref
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

import ray
from ray.exceptions import RaySystemError, RpcError

from ragsearch.retrieval.actors import control, find_replicas
from ragsearch.retrieval.replica import client_of


class Beat:
    """Something done every so often on a thread of its own, until it is ended.

    Args:
        name: Name of the thread.
        every_s: Seconds between.
        act: What is done; it must not raise.
        last: What is done at the end, on the same thread.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        act: Callable[[], object],
        last: Callable[[], object] = lambda: None,
    ) -> None:
        self._every_s = every_s
        self._act = act
        self._last = last
        self._over = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first time is `every_s` from now."""
        self._thread.start()

    def end(self, wait_s: float = 0.0) -> None:
        """Ask it to end, and wait at most so long until it has; any thread may ask."""
        self._over.set()
        self._thread.join(wait_s)

    def ask_to_end(self) -> None:
        """Ask it to end without waiting: safe wherever the garbage collector may run."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._act()
        self._last()


class Lease:
    """Keeps the replicas of a pool while the `with` block lasts.

    Args:
        pool: Name of the pool.
        holder: Who needs it: an id unique to this search.
        every_s: Seconds between renewals; well below the replicas' lease.
    """

    def __init__(self, pool: str, holder: str, *, every_s: float = 5.0) -> None:
        self._pool = pool
        self._holder = holder
        self._every_s = every_s
        self._beat = Beat(
            f"lease-{pool}", every_s, lambda: self._tell("renew"), lambda: self._wait("release")
        )

    def __enter__(self) -> None:
        self._wait("renew")
        self._beat.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._beat.end(self._every_s)

    def while_alive(self, owner: object) -> Callable[[], None]:
        """Hold the lease until an object is closed or nobody refers to it any more.

        Args:
            owner: Who needs the pool; it is not kept alive by this.

        Returns:
            What ends the lease earlier; may be called twice.
        """
        self._tell("renew")
        self._beat.start()
        # the collector may run inside Ray: it only asks, the thread tells the replicas
        finalizer = weakref.finalize(owner, self._beat.ask_to_end)
        finalizer.atexit = False  # woken at exit, the thread would meet a Ray that shuts down
        return finalizer

    def _wait(self, method: str) -> None:
        if told := self._tell(method):
            ray.wait(told, num_returns=len(told), timeout=self._every_s)

    def _tell(self, method: str) -> "list[ray.ObjectRef[object]]":
        """Return the answers to come of every replica there is now, also of one replaced."""
        if not ray.is_initialized():
            return []
        try:
            handles = find_replicas(self._pool)
            return [control(handle, method, self._holder) for handle in handles.values()]
        except (RpcError, RaySystemError):
            return []  # the cluster does not answer; the next renewal may reach it


def client_holder(search: str = "") -> str:
    """Return a name for a client that holds a lease, of a search's trial or its own."""
    return f"{client_of(search)}{uuid.uuid4().hex}"
