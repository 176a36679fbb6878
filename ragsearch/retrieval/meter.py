"""What a replica did lately: how long things took, how full its searches were.

Plain counting; costs a call about two microseconds.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TypedDict

import numpy as np

_N_KEPT = 1024  # of the last answers, for quantiles
_LATELY_S = 60.0
_ACTIVE_S = 5.0


class Figures(TypedDict):
    """What a replica measured; seconds are those of the replica, without the way to it."""

    queries_per_s: float
    """Over the last minute."""
    p50_s: float
    """From arrival to answer, of the last thousand requests; 0 before the first."""
    p95_s: float
    wait_s: float
    """Mean wait of those requests before their search began."""
    search_s: float
    """Mean time of a search."""
    queries_per_search: float
    """How well requests are put together."""
    n_refused: int
    """Requests refused because too many queries waited."""
    n_cache_hits: int
    """Queries answered without a search."""
    n_cache_misses: int
    n_clients: int
    """Clients that asked within the last seconds."""


class Meter:
    """Counts what a replica does.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._searches: deque[tuple[float, float]] = deque(maxlen=_N_KEPT)
        self._answers: deque[tuple[float, float]] = deque(maxlen=_N_KEPT)
        self._by_second: deque[tuple[int, int]] = deque(maxlen=int(_LATELY_S) + 1)
        self._clients: dict[str, float] = {}
        self._started = clock()
        self._n_refused = self._n_cache_hits = self._n_cache_misses = 0
        self.n_queries = 0
        """Queries asked since the start."""

    def count_request(self, client: str, n_queries: int) -> None:
        """Note that a client asks."""
        now = self._clock()
        self._clients[client] = now
        self.n_queries += n_queries
        second = int(now)
        if self._by_second and self._by_second[-1][0] == second:
            n_queries += self._by_second.pop()[1]
        self._by_second.append((second, n_queries))

    def count_search(self, n_queries: int, search_s: float) -> None:
        """Note a search."""
        self._searches.append((n_queries, search_s))

    def count_answer(self, wait_s: float, total_s: float) -> None:
        """Note how long a request waited, and how long it took in all."""
        self._answers.append((wait_s, total_s))

    def count_cached(self, n_hits: int, n_misses: int) -> None:
        """Note how many queries needed no search."""
        self._n_cache_hits += n_hits
        self._n_cache_misses += n_misses

    def count_refusal(self) -> None:
        """Note a request that was refused."""
        self._n_refused += 1

    def forget(self, client: str) -> None:
        """Count a client as gone."""
        self._clients.pop(client, None)

    def n_clients(self) -> int:
        """Return how many clients asked within the last seconds."""
        since = self._clock() - _ACTIVE_S
        active = {client: last for client, last in list(self._clients.items()) if last > since}
        self._clients = active
        return len(active)

    def figures(self) -> Figures:
        """Return what was measured."""
        now = self._clock()
        answers = np.array(list(self._answers) or [(0.0, 0.0)])
        searches = np.array(list(self._searches) or [(0.0, 0.0)])
        lately = sum(n for second, n in list(self._by_second) if second > now - _LATELY_S)
        p50_s, p95_s = np.quantile(answers[:, 1], [0.5, 0.95])
        return Figures(
            queries_per_s=lately / max(min(now - self._started, _LATELY_S), 1.0),
            p50_s=float(p50_s),
            p95_s=float(p95_s),
            wait_s=float(answers[:, 0].mean()),
            search_s=float(searches[:, 1].mean()),
            queries_per_search=float(searches[:, 0].mean()),
            n_refused=self._n_refused,
            n_cache_hits=self._n_cache_hits,
            n_cache_misses=self._n_cache_misses,
            n_clients=self.n_clients(),
        )
