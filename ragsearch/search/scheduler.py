"""Who stops trials early, with the baseline let through and bad trials' scores left out.

Trial 0 is what every other trial is measured against, so it always runs to its end; its scores
still count at the rungs of ASHA and for the median. Those of a trial that diverged or is
infeasible do not.
"""

import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from typing_extensions import override

from ragsearch.search.automatic import longest, scheduler_of
from ragsearch.search.hyperband import HyperBand, is_baseline
from ragsearch.search.population import make_population
from ragsearch.search.samplers import seed_of
from ragsearch.search.space import TRIAL_KEY, VERDICT_KEY
from ragsearch.spec import Spec

_EPOCH = "epoch"


def make_scheduler(spec: Spec) -> TrialScheduler:
    """Make the scheduler of a search; the first objective drives it."""
    name, objective = scheduler_of(spec).name, spec.file.objectives[0]
    settings = spec.file.search.scheduler
    metric, goal = objective.metric, objective.goal
    match name:
        case "asha":
            return _Asha(spec)
        case "hyperband":
            return HyperBand(spec)
        case "median":
            return _Median(
                _EPOCH,
                metric,
                goal,
                grace_period=settings.min,
            )
        case "pbt" | "pb2":
            return make_population(spec, name)
        case _:
            return _NoStopping()  # type: ignore[no-untyped-call] # Ray leaves it so


class _InTurn(TrialScheduler):
    """Trials that start in turn, each on a worker that is free or else on one of its own.

    Ray would have the first trial whose worker is starting take over one that is free, and
    throw away the one that is starting: where trials are shorter than the start of a worker, it
    never ends starting some.
    """

    @override
    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        return None  # what is pending is started without


class _NoStopping(_InTurn, FIFOScheduler):
    """Every trial runs to its end."""


class _BaselineKeeper(_InTurn):
    """What ASHA and the median rule are to do otherwise than Ray has it."""

    @override
    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, object]
    ) -> str:
        if VERDICT_KEY in result:  # of the baseline: others are ended before
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if is_baseline(trial) else decision

    @override
    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, object]
    ) -> None:
        if VERDICT_KEY in result:
            self.on_trial_remove(tune_controller, trial)
        else:
            super().on_trial_complete(tune_controller, trial, result)


class _Asha(_BaselineKeeper, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934).

    The bracket of a trial depends on the seed and its number alone.
    """

    def __init__(self, spec: Spec) -> None:
        settings, objective = spec.file.search.scheduler, spec.file.objectives[0]
        self._spec = spec
        super().__init__(
            _EPOCH,
            objective.metric,
            objective.goal,
            max_t=longest(spec),
            grace_period=settings.min,
            reduction_factor=settings.eta,
            brackets=settings.brackets,
        )

    @override
    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])  # noqa: SLF001
        shares = np.exp(sizes - sizes.max())  # as Ray weighs them, but not by a global seed
        number = int(trial.config[TRIAL_KEY])
        draw = np.random.default_rng(seed_of(self._spec, number))
        place = draw.choice(len(sizes), p=shares / shares.sum())
        self._trial_info[trial.trial_id] = self._brackets[place]


class _Median(_BaselineKeeper, MedianStoppingRule):
    """The median stopping rule (Golovin et al. 2017, "Google Vizier", section 3.2.1).

    A trial is stopped whose best score so far is below the median of the running means that at
    least three others had by then.
    """

    @override
    def _on_insufficient_samples(
        self, tune_controller: TuneController, trial: Trial, time: float
    ) -> str:
        return TrialScheduler.CONTINUE  # Ray may pause trials here, to start others
