"""The lease that keeps a pool of lifetime `search` alive: renewed by whoever needs the pool."""

from threading import Event, Thread
from types import TracebackType

import ray
from ray.exceptions import RaySystemError, RpcError

from ragsearch.retrieval.actors import control, find_replicas


class Lease:
    """Keeps the replicas of a pool while the `with` block lasts.

    A thread renews it. When the process ends, even by `kill -9`, nobody renews it any more and
    the replicas leave by themselves, unless another search holds a lease or the pool is
    detached.

    Args:
        pool: Name of the pool.
        holder: Who needs it: an id unique to this search.
        every_s: Seconds between renewals; well below the replicas' lease.
    """

    def __init__(self, pool: str, holder: str, *, every_s: float = 5.0) -> None:
        self._pool = pool
        self._holder = holder
        self._every_s = every_s
        self._over = Event()
        self._thread = Thread(target=self._keep, name=f"lease-{pool}", daemon=True)

    def __enter__(self) -> None:
        ray.wait(self._tell("renew"), timeout=self._every_s)
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(timeout=self._every_s)
        if ray.is_initialized():
            ray.wait(self._tell("release"), timeout=self._every_s)

    def _keep(self) -> None:
        while not self._over.wait(self._every_s):
            if ray.is_initialized():
                self._tell("renew")

    def _tell(self, method: str) -> "list[ray.ObjectRef[object]]":
        """Return the answers to come of every replica there is now, also of one replaced."""
        try:
            handles = find_replicas(self._pool)
        except (RpcError, RaySystemError):
            return []  # the cluster does not answer; the next renewal may reach it
        return [control(handle, method, self._holder) for handle in handles.values()]
