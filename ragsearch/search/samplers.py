"""Optuna's samplers as a space file asks for them: who proposes the next trial.

A sampler is made anew for each trial. What it proposes depends on the seed, the number of the
trial and the trials of the study before it, and on nothing that a process keeps; so a search
that is resumed proposes what an uninterrupted one would. Knows Optuna; knows no Ray.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from typing_extensions import override

from ragsearch.search.automatic import population, searcher_of, startup_trials
from ragsearch.search.space import encoded
from ragsearch.search.tpe import Tpe, largest_budget
from ragsearch.spec import Domain, Parameter, Spec

if TYPE_CHECKING:
    from optuna._transform import _SearchSpaceTransform
    from optuna.samplers._cmaes import CmaClass

Params = Mapping[str, object]
"""Values of a trial in Optuna's words."""

_TPE_AT_RANDOM = 0.15  # of TPE's proposals; more cost the other searches more than it saved
_BOHB_AT_RANDOM = 1 / 3  # of BOHB's proposals, as Falkner et al. 2018 have it, section 4.1


def make_sampler(spec: Spec, trial_number: int) -> BaseSampler:
    """Return the sampler for one trial of a search.

    Args:
        spec: The search.
        trial_number: Our number of the trial, from 0.
    """
    seed = seed_of(spec, trial_number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group` of TPE, QMC
        return _MAKERS[searcher_of(spec).name](spec, seed)


def seed_of(spec: Spec, trial_number: int, *more: int) -> int:
    """Return the seed of what is drawn for a trial, after an epoch if one is given."""
    sequence = np.random.SeedSequence([spec.file.seed, trial_number, *more])
    return int(sequence.generate_state(1)[0])


def is_used_up(spec: Spec, study: Study) -> bool:
    """Tell whether there is nothing left to propose, as each point of a grid was tried."""
    if searcher_of(spec).name != "grid":
        return False
    return _untried(_grid_of(spec), study) is None


def _random(_: Spec, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(spec: Spec, seed: int) -> BaseSampler:
    return Tpe(seed, startup_trials(spec), _TPE_AT_RANDOM)


def _gp(spec: Spec, seed: int) -> BaseSampler:
    return GPSampler(
        seed=seed, n_startup_trials=startup_trials(spec), warn_independent_sampling=False
    )


def _qmc(spec: Spec, seed: int) -> BaseSampler:
    return QMCSampler(
        scramble=True,
        seed=spec.file.seed,  # one sequence, of which the study counts the points
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


def _nsga2(spec: Spec, seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=population(spec))


def _nsga3(spec: Spec, seed: int) -> BaseSampler:
    return NSGAIIISampler(seed=seed, population_size=population(spec))


def _cma_es(spec: Spec, seed: int) -> BaseSampler:
    return _CmaEs(
        seed=seed,
        n_startup_trials=max(1, startup_trials(spec)),
        popsize=spec.file.search.population,
        consider_pruned_trials=True,  # by their last score: most are stopped early
        warn_independent_sampling=False,
    )


class _CmaEs(CmaEsSampler):
    """CMA-ES whose state is worked out again from the trials, generation by generation.

    Optuna keeps it pickled in the study, and whoever opens a study then runs what it says.
    """

    @override
    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> None:
        # by the time they ended: one that was late must not change generations before it
        self._completed = sorted(completed_trials, key=_end_of)

    @override
    def _init_optimizer(
        self, trans: "_SearchSpaceTransform", direction: StudyDirection
    ) -> "CmaClass":
        optimizer = super()._init_optimizer(trans, direction)
        sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
        while True:
            told = self._get_solution_trials(self._completed, optimizer.generation)
            told = told[: optimizer.population_size]
            if len(told) < optimizer.population_size:
                return optimizer
            optimizer.tell([(trans.transform(t.params), sign * _value(t)) for t in told])


def _end_of(trial: FrozenTrial) -> datetime:
    assert trial.datetime_complete is not None, "only trials that ended are told"
    return trial.datetime_complete


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None, "only trials with a value are told"
    return trial.value


def _bohb(spec: Spec, seed: int) -> BaseSampler:
    """Return the model of BOHB (Falkner et al. 2018, section 4), made of Optuna's TPE.

    It is fitted to the results at the largest budget that has enough of them: one more than
    there are parameters, which the paper calls N_min, and the two densities one each. A third
    of the trials are drawn at random. Unlike the paper's, the estimator is Optuna's.
    """
    n_enough = max(startup_trials(spec), len(spec.domains) + 3)
    shown = partial(largest_budget, n_enough=n_enough)
    return Tpe(seed, n_enough, _BOHB_AT_RANDOM, shown)


class _Grid(BaseSampler):
    """Proposes a point of the grid that no trial of the study has, in an order by the seed."""

    def __init__(self, points: Sequence[Params]) -> None:
        self._points = points
        self._point: Params = {}

    @override
    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # none is left where the trial was not to be drawn, as the first ones are not
        self._point = _untried(self._points, study) or {}

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:  # Any: as Optuna has it
        return {}

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # Any: as Optuna has it
        return self._point[param_name]


def _grid_sampler(spec: Spec, _: int) -> BaseSampler:
    return _Grid(_grid_of(spec))


def _grid_of(spec: Spec) -> Sequence[Params]:
    return _points(_Searched(spec.digest, spec))


@dataclass(frozen=True)
class _Searched:
    """A search, equal to another one of the same file."""

    digest: str
    spec: Spec = field(compare=False)


def _untried(points: Sequence[Params], study: Study) -> Params | None:
    tried = {_key(trial.params) for trial in study.get_trials(deepcopy=False)}
    return next((point for point in points if _key(point) not in tried), None)


@cache  # a search asks for it with each trial
def _points(searched: _Searched) -> tuple[Params, ...]:
    """Return every trial that can be, in Optuna's words and in an order by the seed."""
    spec = searched.spec
    names, points = list(spec.domains), dict[frozenset[tuple[str, object]], Params]()
    for values in product(*map(_listed, spec.domains.values())):
        point = _point(spec, dict(zip(names, values, strict=True)))
        if point is not None:  # several come to the same where conditions leave keys out
            points.setdefault(_key(point), point)
    shuffled = list(points.values())
    random.Random(spec.file.seed).shuffle(shuffled)  # noqa: S311 - no secret
    return tuple(shuffled)


def _point(spec: Spec, values: Mapping[str, object]) -> Params | None:
    """Return what varies of a combination of values; None where a constraint rejects it."""
    asked: dict[str, object] = {}

    def choose(parameter: Parameter) -> object:
        value = values[parameter.name]
        asked[parameter.name] = encoded(parameter.domain, value)
        return value

    is_fit = spec.rejects(spec.space.resolve(spec.look_up, choose)) is None
    return asked if is_fit else None


def _listed(domain: Domain) -> Sequence[object]:
    values = domain.values()
    assert values is not None, "a grid of endless domains is refused when the file is read"
    return values


def _key(params: Params) -> frozenset[tuple[str, object]]:
    return frozenset(params.items())


_MAKERS: Mapping[str, Callable[[Spec, int], BaseSampler]] = {
    "random": _random,
    "grid": _grid_sampler,
    "qmc": _qmc,
    "tpe": _tpe,
    "gp": _gp,
    "cma_es": _cma_es,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "bohb": _bohb,
}
