"""What Ray and a process cost before anything is retrieved, to read the figures by.

Knows Ray; needs a process that is connected to a cluster.
"""

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ragsearch.bench.client import Client
from ragsearch.bench.processes import RayProcess, ask
from ragsearch.retrieval.memory import pss_bytes

_N_TRIPS = 300


@dataclass(frozen=True, slots=True)
class Costs:
    """The floor under every Ray design."""

    round_trip_s: float
    """Median of a call of an actor that does nothing."""
    process_bytes: int
    """Memory (PSS) of an actor that has imported what a client of the pool imports."""


def measure_costs(queries: Path, n_processes: int) -> Costs:
    """Return them, of so many processes at once: the more there are, the more they share."""
    with ExitStack() as stack:
        processes = [RayProcess(Client, queries) for _ in range(n_processes)]
        for process in processes:
            stack.callback(process.end)
        ask(processes, "load", "ragsearch.retrieval.pool")
        memory = pss_bytes(ask(processes, "pid")) // n_processes
        first = processes[0]
        seconds = []
        for _ in range(_N_TRIPS):
            start = time.perf_counter()
            ask([first], "pid")
            seconds.append(time.perf_counter() - start)
    return Costs(statistics.median(seconds), memory)
