"""What a search may use, what it has used, and by what it ends: whichever limit comes first.

In: the `budget` of a space file, and what happens to trials. Out: a reason to end the search,
in words, once there is one. Knows nothing of Ray.
"""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

from ragsearch.search.record import SearchRecord, Status, TrialRecord, compared
from ragsearch.spec.schema import BudgetSection

_HOUR_S = 3600.0


class Use(NamedTuple):
    """How much of a limit is used."""

    what: str
    """Key of `budget`."""
    used: float
    limit: float
    """In the unit of `used`: trials, seconds, GPU-hours or bytes."""


class Budget:
    """Counts what trials use, those of earlier runs of the search included."""

    def __init__(self, limits: BudgetSection, record: SearchRecord, gpus: float = 0.0) -> None:
        """Take up what was used before.

        Args:
            limits: What the search may use.
            record: What it did before.
            gpus: GPUs of a running trial, all its workers together.
        """
        self._limits, self._record, self._gpus = limits, record, gpus
        self._sign = 1.0 if record.goal == "max" else -1.0
        self._used_s, self._gpu_s = record.wall_s, record.gpu_s
        self._now = self._started = time.monotonic()
        self._running: set[int] = set()
        self._best, self._best_trial = -math.inf, -1
        self._n_ended = self._n_failed = self._n_in_vain = 0
        self._over: str | None = None
        self.disk_bytes = 0
        """Size of the search's folder, as far as it was looked at."""
        self.is_failed = False
        """Whether too many trials crashed."""
        for trial in sorted(record.trials.values(), key=_last_report):
            self._take_up(trial)

    def _take_up(self, trial: TrialRecord) -> None:
        for epoch in trial.epochs:
            self.validated(trial.trial, compared(epoch, self._record.metric))
        if trial.status.has_ended:
            self.ended(trial.trial, trial.status)

    @property
    def used_s(self) -> float:
        """Seconds the search has run, those before an interruption included."""
        return self._used_s + time.monotonic() - self._started

    @property
    def gpu_s(self) -> float:
        """GPUs of trials times the seconds they have run."""
        now = time.monotonic()
        self._gpu_s += self._gpus * len(self._running) * (now - self._now)
        self._now = now
        return self._gpu_s

    def started(self, trial: int) -> None:
        """Count a trial that occupies its GPUs from now on."""
        _ = self.gpu_s
        self._running.add(trial)

    def validated(self, trial: int, value: float) -> None:
        """Take the first objective of a validation."""
        if self._sign * value > self._best:
            self._best, self._best_trial, self._n_in_vain = self._sign * value, trial, 0

    def ended(self, trial: int, status: Status) -> None:
        """Count a trial that will not go on."""
        _ = self.gpu_s
        self._running.discard(trial)
        self._n_ended += status.has_ended
        self._n_failed += status is Status.FAILED
        self._n_in_vain += status.has_ended and trial != self._best_trial

    @property
    def is_patient(self) -> bool:
        """Whether more trials may be started."""
        patience = self._limits.patience
        return patience is None or self._n_in_vain < patience

    @property
    def over(self) -> str | None:
        """By what the search ends, running trials included; None while it goes on."""
        if self._over is None:
            self._over = next(self._reasons(), None)
        return self._over

    def full(self, n_bytes: int) -> str:
        """Take that the models that must be kept need more than `budget.disk`, and say so."""
        what = f"the models to keep take {n_bytes / 1e9:.3g} GB"
        said = f"{what}, above budget.disk ({self._limits.disk})"
        self._over = self._over or said
        return said

    def _reasons(self) -> Iterator[str]:
        limits = self._limits
        if limits.wall_s is not None and self.used_s > limits.wall_s:
            yield f"budget.wall ({limits.wall}) is over"
        if limits.gpu_hours is not None and self.gpu_s > limits.gpu_hours * _HOUR_S:
            yield f"budget.gpu_hours ({limits.gpu_hours:g}) is over"
        if limits.target is not None and self._best >= self._sign * limits.target:
            value = self._sign * self._best
            what = f"trial {self._best_trial} reached {self._record.metric} {value:.4g}"
            yield f"{what}, and budget.target is {limits.target:g}"
        if limits.max_failed_trials is not None and self._n_failed >= limits.max_failed_trials:
            self.is_failed = True
            n = "1 trial" if self._n_failed == 1 else f"{self._n_failed} trials"
            yield f"{n} crashed, and budget.max_failed_trials is {limits.max_failed_trials}"

    @property
    def ended_by(self) -> str:
        """By what the search has ended, when no trial runs any more."""
        if self.over:
            return self.over
        if not self.is_patient:
            return f"{self._n_in_vain} trials in a row were no better (budget.patience)"
        return f"all trials have ended (budget.trials: {self._limits.trials})"

    def uses(self) -> list[Use]:
        """Return how much of each limit is used, trials first."""
        limits = self._limits
        found = [
            Use("trials", self._n_ended, limits.trials),
            Use("wall", self.used_s, limits.wall_s or 0.0),
            Use("gpu_hours", self.gpu_s / _HOUR_S, limits.gpu_hours or 0.0),
            Use("disk", self.disk_bytes, limits.disk_bytes or 0),
            Use("patience", self._n_in_vain, limits.patience or 0),
        ]
        return [use for use in found if use.limit]

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the rate of trials so far; None before the first has ended."""
        if not self._n_ended:
            return None
        rate = self.used_s / self._n_ended
        left = rate * max(0, self._limits.trials - self._n_ended)
        wall_s = self._limits.wall_s
        return left if wall_s is None else max(0.0, min(left, wall_s - self.used_s))


def _last_report(trial: TrialRecord) -> float:
    return trial.reported[-1] if trial.reported else 0.0
