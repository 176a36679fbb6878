"""One client of a design: waits for the others, then calls in a closed loop.

Runs in a process of its own, plain or a Ray actor's; is told what to do by `ClientProcess`.

Axes: C clients, S steps, Q queries a step, D embedding size, K passages per query.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32

from ragsearch.index.hits import Hits
from ragsearch.index.store import Passage

N_DOCS = 5


class Answer(NamedTuple):
    """What a call gives, as the original's `retrieve` did: hits, and the passages' texts."""

    hits: Hits
    passages: Sequence[Passage]
    """Those of the first query, then those of the second; none from bare FAISS."""


Call = Callable[[np.ndarray, int], Answer]
"""One retrieval: queries and `n_docs` in, hits and passages out."""


class Connection(Protocol):
    """How a client reaches what answers it; travels to the client's process."""

    def open(self) -> AbstractContextManager[Call]:
        """Return the call, good while the block lasts."""


class Laps(NamedTuple):
    """When each call of a client began and ended, on the machine's monotonic clock."""

    starts: list[float]
    ends: list[float]


class Client:
    """A client of the bench.

    Args:
        queries: File of an array `C S Q D`.
    """

    def __init__(self, queries: Path) -> None:
        self._queries = np.load(queries, mmap_mode="r")
        self._opened = ExitStack()
        self._asks: list[int] = []
        self._call: Call | None = None

    def pid(self) -> int:
        """Return the process this client lives in."""
        return os.getpid()

    def load(self, module: str) -> None:
        """Import a module."""
        import_module(module)

    def connect(self, connection: Connection, clients: Sequence[int]) -> None:
        """Leave what was connected before and reach what answers.

        Args:
            connection: How.
            clients: Whose queries this client asks, in one call; usually its own only.
        """
        self._call = None
        self._opened.close()
        self._asks = list(clients)
        self._call = self._opened.enter_context(connection.open())

    def answer(self, step: int) -> Hits:
        """Return the hits of one call."""
        assert self._call is not None, "connect first"
        return self._call(self._block(step), N_DOCS).hits

    def run(self, steps: range, begin_at: float) -> Laps:
        """Wait until the moment that was agreed, then call once a step without a pause."""
        assert self._call is not None, "connect first"
        laps = Laps([], [])
        blocks = [self._block(step) for step in steps]
        time.sleep(max(0.0, begin_at - time.monotonic()))
        for block in blocks:
            laps.starts.append(time.monotonic())
            self._call(block, N_DOCS)
            laps.ends.append(time.monotonic())
        return laps

    def _block(self, step: int) -> Float32[np.ndarray, "Q D"]:
        width = self._queries.shape[-1]
        return np.array(self._queries[self._asks, step]).reshape(-1, width)
