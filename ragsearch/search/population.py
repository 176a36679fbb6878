"""PBT and PB2 over a population that Optuna drew: the worst trials go on from the best.

Jaderberg et al. 2017 (arXiv 1711.09846), Parker-Holder et al. 2020 (arXiv 2002.02518). A trial
that goes on from another takes over its weights, its optimiser and its values, and those of
`search.scheduler.mutable` changed; it keeps its number. Trials wait for each other before they
are compared. The baseline is gone on from like any other, and never changed itself. What is
drawn at random for a trial follows from the seed, its number and its epoch: equal results give
equal changes.
"""

import copy
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from typing_extensions import override

from ragsearch.search.samplers import seed_of
from ragsearch.search.space import LAST_KEY, TRIAL_KEY, VERDICT_KEY
from ragsearch.spec import Domain, Log, Spec, Uniform

log = logging.getLogger(__name__)

Config = dict[str, Any]  # Any: as Tune has it


def make_population(spec: Spec, name: str) -> TrialScheduler:
    """Make the scheduler `pbt` or `pb2`."""
    settings, objective = spec.file.search.scheduler, spec.file.objectives[0]
    domains = {path: spec.domains[path] for path in settings.mutable}
    shared: Config = {
        "time_attr": "epoch",
        "metric": objective.metric,
        "mode": objective.goal,
        "perturbation_interval": settings.interval,
        "log_config": False,  # the record has it
        "synch": True,  # with few trials at a time, the best would be compared far ahead
    }
    population: _Population
    if name == "pb2":
        population = _Pb2(domains, shared)
    else:
        explored = partial(kept_within, domains)
        mutations = _mutations(domains)
        population = _Pbt(hyperparam_mutations=mutations, custom_explore_fn=explored, **shared)
    population.seed_of = partial(seed_of, spec)
    return population


def kept_within(domains: Mapping[str, Domain], config: Config) -> Config:
    """Return a trial's configuration with changed values moved into their domains."""
    inside = {
        path: min(max(config[path], domain.low), domain.high)
        for path, domain in domains.items()
        if isinstance(domain, Log | Uniform) and domain.values() is None
    }
    return config | inside


def _mutations(domains: Mapping[str, Domain]) -> Config:
    """Return what PBT may change values to: neighbours in a list, or a multiple."""
    found: Config = {}
    for path, domain in domains.items():
        if (values := domain.values()) is not None:
            found[path] = list(values)
        elif isinstance(domain, Log):
            found[path] = tune.loguniform(domain.low, domain.high)
        else:
            assert isinstance(domain, Uniform), "no other domain is endless"
            found[path] = tune.uniform(domain.low, domain.high)
    return found


class _Population(PopulationBasedTraining):
    """What both are to do otherwise than Ray has it."""

    seed_of: Callable[[int, int], int]
    """Gives the seed of what is drawn for a trial after an epoch, by its number."""

    @property
    def _mutable(self) -> Iterable[str]:
        return self._hyperparam_mutations

    @override
    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        # Ray refuses a searcher here, since it would be told scores of values it did not
        # propose; ours only draws the population
        without = cast("TuneController", SimpleNamespace(search_alg=None))
        super().on_trial_add(without, trial)

    @override
    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: Config
    ) -> str:
        if VERDICT_KEY in result or result.get(LAST_KEY):
            return TrialScheduler.CONTINUE  # one that is over goes on from nobody
        return super().on_trial_result(tune_controller, trial, result)

    @override
    def _checkpoint_or_exploit(
        self,
        trial: Trial,
        tune_controller: TuneController,
        upper_quantile: list[Trial],
        lower_quantile: list[Trial],
    ) -> None:
        # from one that is behind, epochs would come again, in the place of those recorded
        so_far = self._trial_state[trial].last_train_time
        ahead = [
            one for one in upper_quantile if self._trial_state[one].last_train_time >= so_far
        ]
        worst = lower_quantile if ahead else []
        best = ahead if trial in worst else upper_quantile
        with _drawn_from(self.seed_of(trial.config[TRIAL_KEY], so_far)):
            super()._checkpoint_or_exploit(trial, tune_controller, best, worst)

    @override
    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        chosen = super().choose_trial_to_run(tune_controller)
        trials: list[Trial] = tune_controller.get_trials()  # type: ignore[no-untyped-call]
        waiting = {trial.status for trial in trials} - {Trial.TERMINATED, Trial.ERROR}
        if chosen is None and waiting == {Trial.PAUSED}:  # the one they waited for has ended
            self._next_perturbation_sync += self._perturbation_interval
            return super().choose_trial_to_run(tune_controller)
        return chosen

    @override
    def _exploit(
        self, tune_controller: TuneController, trial: Trial, trial_to_clone: Trial
    ) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)
        log.info(
            "trial %d goes on from trial %d with %s",
            trial.config[TRIAL_KEY], trial_to_clone.config[TRIAL_KEY],
            ", ".join(f"{path}={trial.config[path]:.3g}" for path in self._mutable),
        )  # fmt: skip

    @override
    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        """Return the worst trials and the best ones, the baseline never among the worst."""
        everyone = self._trial_state
        _, best = super()._quantiles()
        self._trial_state = {
            trial: state for trial, state in everyone.items() if trial.config[TRIAL_KEY] != 0
        }
        worst, _ = super()._quantiles()
        self._trial_state = everyone
        return [trial for trial in worst if trial not in best], best

    @override
    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[Config, Config]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return config | {TRIAL_KEY: trial.config[TRIAL_KEY]}, operations


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Have what Ray draws from the generators of the process come of a seed."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (Ray draws from it)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (likewise)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002 (likewise)


class _Pbt(_Population):
    """Population based training."""


class _Pb2(_Population, PB2):
    """Population based bandits; numbers of a `log` domain are modelled by their logarithm."""

    def __init__(self, domains: Mapping[str, Domain], shared: Config) -> None:
        self._domains = domains
        bounds: Config = {path: _ends(domain) for path, domain in domains.items()}
        super().__init__(hyperparam_bounds=bounds, **shared)

    @override
    def _save_trial_state(self, state: Any, time: int, result: Config, trial: Trial) -> Any:
        return super()._save_trial_state(state, time, result, self._mapped(trial, math.log))

    @override
    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[Config, Config]:
        self._sort_by_trial()
        clone = self._mapped(trial_to_clone, math.log)
        with warnings.catch_warnings():  # that few points tell little; what SciPy 1.18 drops
            warnings.simplefilter("ignore")
            config, operations = super()._get_new_config(trial, clone)
        return kept_within(self._domains, self._with(config, math.exp)), operations

    def _sort_by_trial(self) -> None:
        """Order what the model is fitted to; Ray keeps it in the order it was reported in."""
        number = {str(trial): trial.config[TRIAL_KEY] for trial in self._trial_state}
        data = self.data.sort_values("Trial", key=lambda who: who.map(number), kind="stable")
        self.data = data.sort_values("Time", kind="stable", ignore_index=True)

    def _mapped(self, trial: Trial, function: Callable[[float], float]) -> Trial:
        mapped = copy.copy(trial)
        mapped.config = self._with(trial.config, function)
        return mapped

    def _with(self, config: Config, function: Callable[[float], float]) -> Config:
        logs = (path for path, domain in self._domains.items() if isinstance(domain, Log))
        return config | {path: function(config[path]) for path in logs}


def _ends(domain: Domain) -> list[float]:
    assert isinstance(domain, Log | Uniform), "others are refused when the file is read"
    if isinstance(domain, Log):
        return [math.log(domain.low), math.log(domain.high)]
    return [domain.low, domain.high]
