"""Which replica a client asks: one on its node, with few clients, and mostly the same.

A client stays where it is: the replica learns its habits, and puts it together with others.
Loads come with every answer; those of the other near replicas are asked for now and then
without waiting for them.
"""

import random
import time
from collections.abc import Iterable

import ray
from ray.actor import ActorHandle

from ragsearch.retrieval.actors import UNREACHABLE, control
from ragsearch.retrieval.replica import Description, Replica
from ragsearch.retrieval.wire import Load

_REFRESH_S = 0.5
_MOVE_CHANCE = 0.3  # of all clients that see the same: 4 on one of 2 replicas end 2 and 2

Handle = "ActorHandle[Replica]"


class Routes:
    """What a client knows of the replicas' loads.

    Args:
        client: Its id.
    """

    def __init__(self, client: str) -> None:
        self._client = client
        self._here = ray.get_runtime_context().get_node_id()
        self._far: dict[ActorHandle[Replica], bool] = {}
        self._loads: dict[ActorHandle[Replica], Load] = {}
        self._asked: dict[ray.ObjectRef[Load], ActorHandle[Replica]] = {}
        self._refreshed = 0.0
        self._home: ActorHandle[Replica] | None = None
        self._chance = random.Random(client)  # noqa: S311 (no secret)

    def learn(self, replica: "ActorHandle[Replica]", found: Description) -> None:
        """Take in what a replica says of itself at first sight."""
        self._far[replica] = found["node_id"] != self._here

    def is_far(self, replica: "ActorHandle[Replica]") -> bool:
        """Return whether a replica that is known runs on another node."""
        return self._far[replica]

    def note(self, replica: "ActorHandle[Replica]", load: Load) -> None:
        """Take in the load that came with an answer."""
        self._loads[replica] = load
        self._home = replica

    def lose(self, replica: "ActorHandle[Replica]") -> None:
        """Forget the load of a replica that failed."""
        self._loads.pop(replica, None)
        if self._home == replica:
            self._home = None

    def ranked(self, replicas: list["ActorHandle[Replica]"]) -> list["ActorHandle[Replica]"]:
        """Return replicas in the order to ask them: near ones first, then by clients."""
        self._harvest()
        self._chance.shuffle(replicas)
        replicas.sort(key=lambda one: (self._far.get(one, False), self._n_clients(one)))
        if self._home in replicas and not self._should_move(replicas[0]):
            replicas.remove(self._home)
            replicas.insert(0, self._home)
        return replicas

    def refresh(
        self, asked: "ActorHandle[Replica]", replicas: Iterable["ActorHandle[Replica]"]
    ) -> None:
        """Ask now and then for the loads of the others; their answers are read later.

        Args:
            asked: Replica that is asked now, and tells its load anyway.
            replicas: All of the pool.
        """
        if self._home is not None and self._home != asked:
            control(self._home, "forget", self._client)
        now = time.monotonic()
        if now < self._refreshed + _REFRESH_S or self._asked:
            return
        self._refreshed = now
        for replica in replicas:
            if replica != asked and not self._far.get(replica, False):
                self._asked[control(replica, "load")] = replica

    def _should_move(self, best: "ActorHandle[Replica]") -> bool:
        home = self._home
        if home is None or best == home or home not in self._loads:
            return False
        if self._far.get(home, False) and not self._far.get(best, False):
            return True
        fewer = self._n_clients(home) - self._n_clients(best)
        return fewer > 1 and self._chance.random() < _MOVE_CHANCE

    def _n_clients(self, replica: "ActorHandle[Replica]") -> int:
        load = self._loads.get(replica)
        return 0 if load is None else load.n_clients

    def _harvest(self) -> None:
        """Read the loads that have come."""
        if not self._asked:
            return
        pending = list(self._asked)
        for answer in ray.wait(pending, num_returns=len(pending), timeout=0)[0]:
            replica = self._asked.pop(answer)
            try:
                self._loads[replica] = ray.get(answer)
            except UNREACHABLE:
                self._loads.pop(replica, None)
