"""Earlier epochs for a new scheduler: what trials scored before a search went on.

A scheduler compares trials at rungs; one that is made anew for a search that goes on must know
who reached which rung with what score. It is told every recorded epoch again, as if it came
from Tune: those of trials that ended at once, those of one that goes on when it starts.
"""

from dataclasses import dataclass
from typing import cast

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from typing_extensions import override

from ragsearch.search.record import SearchRecord, TrialRecord
from ragsearch.search.space import TRIAL_KEY, VERDICT_KEY

_NOBODY = cast("TuneController", None)  # schedulers that can be replayed do not ask Tune back


@dataclass(frozen=True, eq=False)  # schedulers keep what they know of a trial by itself
class _Ended:
    """What schedulers read of a trial of Tune."""

    trial_id: str
    config: dict[str, object]
    status: str = Trial.TERMINATED


class Replay(tune.Callback):
    """Tells a scheduler what trials scored before."""

    def __init__(self, scheduler: TrialScheduler, record: SearchRecord) -> None:
        """Tell it of trials that have ended.

        Args:
            scheduler: A new one.
            record: What was recorded before.
        """
        self._scheduler = scheduler
        self._before: dict[int, TrialRecord] = {}
        for number, known in record.trials.items():
            if known.status.has_ended:
                trial = cast("Trial", _Ended(f"before-{number}", {TRIAL_KEY: number}))
                self._scheduler.on_trial_add(_NOBODY, trial)
                self._replay(trial, known)
            else:
                self._before[number] = TrialRecord(number, {}, epochs=list(known.epochs))

    @override
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Tell it of the epochs of a trial that goes on."""
        if known := self._before.pop(trial.config[TRIAL_KEY], None):
            self._replay(trial, known)

    def _replay(self, trial: Trial, known: TrialRecord) -> None:
        is_bad = known.status.is_bad
        verdict = {VERDICT_KEY: str(known.status)} if is_bad else {}
        for epoch in known.epochs:
            result = {**epoch, **verdict, "training_iteration": int(epoch["epoch"])}
            self._scheduler.on_trial_result(_NOBODY, trial, result)
