"""How a search stands while it runs: what a live view shows of it.

In: a spec, its record and its budget, which others keep up to date. Out: rungs and running
trials as plain rows. Reading never changes anything, so another thread may do it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

from ragsearch.search.budget import Budget
from ragsearch.search.plan import rungs
from ragsearch.search.record import SearchRecord, Status, TrialRecord, compared
from ragsearch.spec import Spec


class RungRow(NamedTuple):
    """What happened at one rung."""

    epoch: int
    reached: int
    """Trials that were compared there."""
    went_on: int
    """Of these, trials with a later epoch, or still running."""
    best: float | None
    """Best first objective of a validation after that epoch."""


class RunningRow(NamedTuple):
    """A trial that runs now."""

    trial: int
    epoch: int
    """Epochs done."""
    n_epochs: int
    """Epochs it takes if it is not stopped."""
    last: float | None
    """First objective of its last validation."""
    best: float | None
    epoch_s: float | None
    """Seconds of its last epoch."""
    params: Mapping[str, object]


@dataclass(frozen=True)
class Standing:
    """A search to look at while it runs."""

    spec: Spec
    record: SearchRecord
    budget: Budget
    pools: tuple[str, ...] = ()
    """Names of the pools its trials ask."""
    _n_epochs: dict[int, int] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int, float] | None:
        """The best trial so far and its first objective; None before the first validation."""
        leader = next(iter(self.record.ranked()), None)
        value = None if leader is None else self._best_of(leader)
        return None if leader is None or value is None else (leader.trial, value)

    def rungs(self) -> list[RungRow]:
        """Return every rung, and the last epoch, which all would like to reach."""
        ends = [*rungs(self.spec), self.spec.file.trial.train.max_epochs]
        return [self._rung(epoch) for epoch in ends]

    def _rung(self, epoch: int) -> RungRow:
        metric, goal = self.record.metric, max if self.record.goal == "max" else min
        trials = list(self.record.trials.values())
        there = [t for t in trials if len(t.epochs) >= max(1, epoch)]
        went_on = [t for t in there if len(t.epochs) > epoch or t.status is Status.RUNNING]
        values = [compared(t.epochs[max(1, epoch) - 1], metric) for t in there]
        return RungRow(epoch, len(there), len(went_on), goal(values, default=None))

    def running(self) -> list[RunningRow]:
        """Return the trials that run, by number."""
        trials = sorted(list(self.record.trials.items()))  # noqa: C414 (others add to it)
        return [self._row(trial) for _, trial in trials if trial.status is Status.RUNNING]

    def _row(self, trial: TrialRecord) -> RunningRow:
        last = trial.epochs[-1] if trial.epochs else None
        return RunningRow(
            trial=trial.trial,
            epoch=trial.n_epochs,
            n_epochs=self._epochs_of(trial),
            last=None if last is None else last[self.record.metric],
            best=self._best_of(trial),
            epoch_s=None if last is None else last.get("time/epoch_s"),
            params=trial.params,
        )

    def _best_of(self, trial: TrialRecord) -> float | None:
        epoch = self.record.best_epoch(trial)
        return None if epoch is None else epoch[self.record.metric]

    def _epochs_of(self, trial: TrialRecord) -> int:
        if trial.trial not in self._n_epochs:
            found = self.spec.trial_with(trial.params).train.max_epochs
            self._n_epochs[trial.trial] = found
        return self._n_epochs[trial.trial]


Watch = Callable[[Standing], AbstractContextManager[None]]
"""Shows how a search stands while the block lasts."""
