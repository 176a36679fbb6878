"""What a run of the sweep bench is asked for, and whether this machine can give it.

Knows nothing of torch or Ray: checking a plan costs nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ragsearch.bench.plan import out_of_range
from ragsearch.errors import BadInputError, Mistake
from ragsearch.retrieval.memory import available_bytes

_TRIAL_BYTES = 1_000_000_000  # PSS of a process that trains the quickstart's models
_SLEEPER_BYTES = 100_000_000  # PSS of a worker of Ray that runs a trial which imports nothing


class Design(StrEnum):
    """How the sweep is done, in the order it is measured and shown."""

    LOOP = "loop"
    RAY_MLFLOW = "ray_mlflow"
    RAGSEARCH = "ragsearch"


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """How much is searched, and where memory is measured."""

    space: Path
    """The quickstart's space file."""
    trials: int = 4
    epochs: int = 3
    n_train: int = 320
    """Questions to train on; the quickstart has 320, and so `n_val`."""
    n_val: int = 200
    concurrent: tuple[int, ...] = (1, 2, 4)
    """Trials at a time at which memory is measured."""
    seed: int = 17

    @property
    def cores(self) -> int:
        """Cores of this machine: trials at a time where time is measured."""
        return len(os.sched_getaffinity(0))

    def check(self) -> None:
        """Refuse what cannot be measured, or not here.

        Raises:
            BadInputError: With every reason.
        """
        ranges = {
            "--trials": (self.trials, 1, 1000),
            "--epochs": (self.epochs, 1, 100),
            "--n-train": (self.n_train, 1, 320),
            "--n-val": (self.n_val, 1, 200),
            "--seed": (self.seed, 0, 2**31),
        }
        mistakes = [*out_of_range(ranges), *self._no_room()]
        if mistakes:
            raise BadInputError(mistakes)

    def _no_room(self) -> Iterator[Mistake]:
        memory = available_bytes()
        for n in self.concurrent:
            if not 1 <= n * _TRIAL_BYTES <= memory:
                what = f"{n} trials take {n} GB, {memory / 1e9:.1f} are available"
                yield Mistake("--concurrent", "", f"{what}; choose fewer, and at least 1")


@dataclass(frozen=True, slots=True)
class BookkeepingPlan:
    """How many sleeping trials are run."""

    space: Path
    """The quickstart's space file."""
    trials: int = 10_000
    concurrent: int = 16

    def check(self) -> None:
        """Refuse what cannot be measured, or not here.

        Raises:
            BadInputError: With every reason.
        """
        ranges = {
            "--trials": (self.trials, 1, 1_000_000),
            "--concurrent": (self.concurrent, 1, 256),
        }
        mistakes = [*out_of_range(ranges), *self._no_room()]
        if mistakes:
            raise BadInputError(mistakes)

    def _no_room(self) -> Iterator[Mistake]:
        memory, needed = available_bytes(), self.concurrent * _SLEEPER_BYTES
        if needed > memory:
            what = (
                f"takes {needed / 1e9:.1f} GB for {self.concurrent} workers, "
                f"{memory / 1e9:.1f} are available"
            )
            yield Mistake("--concurrent", "", what)


@dataclass(frozen=True, slots=True)
class SearchersPlan:
    """How many searches are simulated, and how long."""

    space: Path
    """The quickstart's space file."""
    trials: int = 27
    """Of the random search that sets the value to be reached."""
    seeds: int = 10
    seed: int = 1
    """The first one."""
    concurrent: int = 4

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            BadInputError: With every reason.
        """
        ranges = {
            "--trials": (self.trials, 1, 10_000),
            "--seeds": (self.seeds, 1, 1000),
            "--seed": (self.seed, 0, 2**31),
            "--concurrent": (self.concurrent, 1, 256),
        }
        if mistakes := list(out_of_range(ranges)):
            raise BadInputError(mistakes)
