"""Early stopping: ASHA over epochs, with the baseline let through.

Li et al. 2020 (arXiv 1810.05934). Trial 0 is what every other trial is measured against, so
it always runs to its end; its scores still count at the rungs. Those of a trial that diverged
or is infeasible do not.
"""

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from typing_extensions import override

from ragsearch.search.space import TRIAL_KEY, VERDICT_KEY
from ragsearch.spec import Spec


def make_scheduler(spec: Spec) -> TrialScheduler:
    """Make the scheduler a space file asks for."""
    settings, objective = spec.file.search.scheduler, spec.file.objectives[0]
    if settings.name == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call] # Ray leaves it so
    return _BaselineKeeper(
        time_attr="epoch",
        metric=objective.metric,
        mode=objective.goal,
        grace_period=settings.min,
        max_t=spec.file.trial.train.max_epochs,
        reduction_factor=settings.eta,
    )


class _BaselineKeeper(AsyncHyperBandScheduler):
    @override
    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, object]
    ) -> str:
        if VERDICT_KEY in result:  # of the baseline: others are ended before
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        if trial.config[TRIAL_KEY] == 0:
            return TrialScheduler.CONTINUE
        return decision

    @override
    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, object]
    ) -> None:
        if VERDICT_KEY in result:
            self.on_trial_remove(tune_controller, trial)
        else:
            super().on_trial_complete(tune_controller, trial, result)
