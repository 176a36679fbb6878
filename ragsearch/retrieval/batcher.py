"""Requests that wait together are searched together, and everybody gets their own rows.

In: requests of many clients, one by one. Out: to each its `Hits`, the bits it would have got
alone. Plain bookkeeping for one thread, a `Server`'s: nothing here waits or knows where a
request came from. What it saw goes to a `Meter`.

A batch is searched as soon as it can be, and waits only for clients that are *due*: who was
answered a moment ago and, by habit, asks again within the next few milliseconds. A lone client
is never due while it waits itself, so it never waits.

Axes: Q queries, K passages per query, D embedding size.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.vectors import depth
from ragsearch.retrieval.meter import Meter

_HABIT = 0.3  # weight of the last gap in a client's moving average
_NEWEST = 0.1  # weight of the last search in what searches cost
_N_HABITS = 256  # clients whose habit is remembered


class BusyError(Exception):
    """More queries wait already than is good; ask elsewhere, or again in a moment."""


class Searches(Protocol):
    """What is searched: a `PassageIndex`."""

    def search(self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs) -> Hits:
        """Return the passages with the largest inner product, best first."""


class Asker(Protocol):
    """Who is told what was found."""

    def is_waiting(self) -> bool:
        """Return whether an answer is still wanted."""

    def answer(self, hits: Hits) -> None:
        """Take the hits."""

    def fail(self, error: Exception) -> None:
        """Take the reason why there are none, `BusyError` if there is too much to do."""


@dataclass(slots=True, eq=False)
class Request:
    """Queries of one client, and who is told their hits."""

    client: str
    queries: Float32[np.ndarray, "Q D"]
    n_docs: int
    knobs: Knobs
    asker: Asker
    arrived: float = 0.0
    n_taken: int = 0
    """Queries that are searched for, or were."""
    pieces: list[Hits] = field(default_factory=list)

    @property
    def key(self) -> tuple[Knobs, int]:
        """Requests of equal keys can be searched as one."""
        return self.knobs, depth(self.n_docs)

    @property
    def n_left(self) -> int:
        """Queries that wait."""
        return len(self.queries) - self.n_taken


@dataclass(slots=True)
class _Habit:
    """When a client was answered last, and how long it then takes to ask again."""

    answered: float
    gap_s: float | None = None
    is_out: bool = False
    """Whether it has its answer and did not ask again."""

    def is_due(self, now: float, until: float) -> bool:
        """Return whether it is expected by then, and not so late that it may never come."""
        if not self.is_out or self.gap_s is None:
            return False
        return self.answered + self.gap_s <= until and now - self.answered <= 3 * self.gap_s


class SearchCost:
    """What a search takes however few its queries: that much, two searches made one save.

    A line through the last searches, the newest counting most: exact search reads every vector
    once for all queries, a graph is walked for each of them.
    """

    def __init__(self) -> None:
        self._n = self._took_s = self._n_n = self._n_took = 0.0

    def learn(self, n_queries: int, took_s: float) -> None:
        """Take in how long a search of so many queries took."""
        weight = _NEWEST if self._n else 1.0
        self._n += weight * (n_queries - self._n)
        self._took_s += weight * (took_s - self._took_s)
        self._n_n += weight * (n_queries**2 - self._n_n)
        self._n_took += weight * (n_queries * took_s - self._n_took)

    def shared_s(self) -> float:
        """Return the time that does not grow with the queries, 0 before any search."""
        variance = self._n_n - self._n**2
        if variance < 1.0:  # always as many: half is worth a try, and then one knows
            return self._took_s / 2
        a_query_s = (self._n_took - self._n * self._took_s) / variance
        return min(max(self._took_s - a_query_s * self._n, 0.0), self._took_s)


class Batcher:
    """Puts requests together. One thread adds them, asks when, and searches.

    Args:
        index: What is searched.
        meter: Who counts.
        max_queries: Queries searched at once; larger requests are cut, so nobody starves.
        max_wait_s: Longest wait for clients that are due; never longer than sharing saves.
        max_waiting: Queries that may wait before requests are refused.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        index: Searches,
        meter: Meter,
        *,
        max_queries: int = 64,
        max_wait_s: float = 0.02,
        max_waiting: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._meter = meter
        self._max_queries = max_queries
        self._max_wait_s = max_wait_s
        self._max_waiting = max_waiting
        self._clock = clock
        self._queues: OrderedDict[str, deque[Request]] = OrderedDict()  # next client first
        self._habits: OrderedDict[str, _Habit] = OrderedDict()
        self._n_waiting = 0
        self._until: float | None = None
        self._cost = SearchCost()

    @property
    def n_waiting(self) -> int:
        """Queries that wait or are being searched."""
        return self._n_waiting

    def add(self, request: Request) -> None:
        """Take a request in, to be searched with whatever waits beside it.

        Raises:
            BusyError: If too much is waiting already.
        """
        if self._n_waiting and self._n_waiting + len(request.queries) > self._max_waiting:
            self._meter.count_refusal()
            raise BusyError
        request.arrived = self._clock()
        self._queues.setdefault(request.client, deque()).append(request)
        self._n_waiting += len(request.queries)
        self._note_arrival(request.client)

    def forget(self, client: str) -> None:
        """Expect nothing more of a client."""
        self._habits.pop(client, None)

    def wait_s(self) -> float | None:
        """Return in how many seconds to search at the latest, None while nothing waits.

        More than 0 while a client is due that could share the search: ask again when it came.
        """
        if not self._queues:
            self._until = None
            return None
        now = self._clock()
        if self._until is None:
            self._until = now + min(self._max_wait_s, self._cost.shared_s())
        is_full = self._n_waiting >= self._max_queries
        if is_full or now >= self._until or not self._any_due(now, self._until):
            return 0.0
        return self._until - now

    def search(self) -> None:
        """Search what waits, or as much of it as goes into one search, and tell the askers."""
        self._until = None
        batch = list(self._form())
        if not batch:
            return
        queries = np.concatenate([
            request.queries[start:stop] for request, start, stop in batch
        ])
        n_docs = max(request.n_docs for request, _, _ in batch)
        started = self._clock()
        try:
            hits = self._index.search(queries, n_docs, batch[0][0].knobs)
        except Exception as error:  # noqa: BLE001 (it belongs to those who asked)
            for request, _, _ in batch:
                request.asker.fail(error)
            return
        finally:
            self._n_waiting -= len(queries)
        took_s = self._clock() - started
        self._cost.learn(len(queries), took_s)
        self._meter.count_search(len(queries), took_s)
        self._hand_out(batch, hits, started)

    def _any_due(self, now: float, until: float) -> bool:
        return any(habit.is_due(now, until) for habit in self._habits.values())

    def _form(self) -> Iterator[tuple[Request, int, int]]:
        """Yield what is searched next: rows of requests of one key, one client after another.

        Begins with the client that was served longest ago; only requests too large for any
        batch are cut.
        """
        room, key = self._max_queries, None
        for client in list(self._queues):
            queue = self._queues[client]
            while queue and room:
                request = queue[0]
                if not request.asker.is_waiting():
                    self._n_waiting -= request.n_left
                    queue.popleft()
                    continue
                key = key or request.key
                is_cut = len(request.queries) > self._max_queries
                if request.key != key or (request.n_left > room and not is_cut):
                    break
                start = request.n_taken
                request.n_taken += min(room, request.n_left)
                room -= request.n_taken - start
                yield request, start, request.n_taken
                self._queues.move_to_end(client)
                if request.n_left:
                    break
                queue.popleft()
            if not queue:
                del self._queues[client]

    def _hand_out(
        self, batch: list[tuple[Request, int, int]], hits: Hits, started: float
    ) -> None:
        """Give every request its rows, and its answer when it has all of them."""
        first = 0
        for request, start, stop in batch:
            rows = slice(first, first + stop - start)
            first += stop - start
            request.pieces.append(Hits(*(array[rows, : request.n_docs] for array in hits)))
            if not request.n_left:
                now = self._clock()
                self._meter.count_answer(started - request.arrived, now - request.arrived)
                self._note_answer(request.client)
                request.asker.answer(_joined(request.pieces))

    def _note_arrival(self, client: str) -> None:
        habit = self._habits.get(client)
        if habit is not None and habit.is_out:
            gap_s = self._clock() - habit.answered
            old_s = gap_s if habit.gap_s is None else habit.gap_s
            habit.gap_s = (1 - _HABIT) * old_s + _HABIT * gap_s
            habit.is_out = False

    def _note_answer(self, client: str) -> None:
        habit = self._habits.setdefault(client, _Habit(0.0))
        habit.answered, habit.is_out = self._clock(), True
        self._habits.move_to_end(client)
        if len(self._habits) > _N_HABITS:
            self._habits.popitem(last=False)


def _joined(pieces: list[Hits]) -> Hits:
    if len(pieces) == 1:
        return pieces[0]
    return Hits(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
