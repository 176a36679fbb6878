"""Optuna's TPE as searches use it, BOHB's too: what it is shown of trials, and how it compares.

Optuna takes a trial that runs for a bad one, and one that was stopped for worse than all that
finished. Where trials are stopped early, most of what is known lies in those. So TPE is shown
each trial with results as one that finished, its place among all as its value: the share of
trials that it is ahead of at its last epoch, those behind it that were stopped before. In
`ragsearch bench sweep --searchers` TPE with ASHA then takes 0.75 to 0.95 of the epochs (medians
of 100 seeds). A share of the proposals is drawn at random, as in BOHB: of 60 searches of the
quickstart's table three had not left a poorer peak after 1,500 epochs, with it one. With ten to
forty trials of three epochs it ends neither better nor worse.

TPE models all trials anew for each proposal, which takes 9 ms at 1,000 trials and would take 75
at 10,000. From 200 on it is shown the best and the latest: it takes at most 25 for good, and
weighs the others the less the older they are. After 1,500 epochs of each problem of that bench
it was as far as when it was shown 500 (12 seeds). Looking through 10,000 for the best takes as
long as the model, so that the best of those that have ended are remembered.
"""

import heapq
import math
import random
import sys
from collections.abc import Callable, Container
from itertools import compress
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float64, Int64
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from ragsearch.search.record import STATUS_ATTR, Status

MOST = 200
"""Trials that TPE is shown, beside older ones that still run."""
_N_BEST = 100
_GOOD = 0.15  # as Falkner et al. 2018 have it; Optuna has 0.1, and as many at most
_MOST_GOOD = 25

_WITH_RESULTS = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
_BAD = {str(status) for status in Status if status.is_bad}


class Tpe(TPESampler):
    """TPE over all parameters together."""

    def __init__(
        self,
        seed: int,
        n_startup_trials: int,
        share_at_random: float = 0.0,
        shown: Callable[[Study], Study] | None = None,
    ) -> None:
        """Prepare for one proposal.

        Args:
            seed: Of all that is drawn.
            n_startup_trials: Trials that are drawn at random before results are learnt from.
            share_at_random: Of the proposals after them.
            shown: From a study to what is learnt from; `all_placed` by default.
        """
        is_random = random.Random(seed).random() < share_at_random  # noqa: S311 - no secret
        super().__init__(
            seed=seed,
            n_startup_trials=sys.maxsize if is_random else n_startup_trials,
            multivariate=True,
            group=True,  # parameters of one branch are modelled together, whatever others have
            constant_liar=True,  # concurrent trials do not crowd one place
        )
        self._show = shown or all_placed
        self._shown: tuple[int, Study] | None = None

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._of(study, trial), trial)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:  # Any: as Optuna has it
        return super().sample_relative(self._of(study, trial), trial, search_space)

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # Any: as Optuna has it
        shown = self._of(study, trial)
        return super().sample_independent(shown, trial, param_name, param_distribution)

    def _of(self, study: Study, trial: FrozenTrial) -> Study:
        """Return what a proposal is made of, the same one for all its parameters."""
        if self._shown is None or self._shown[0] != trial.number:
            self._shown = (trial.number, self._show(study))
            if len(study.directions) == 1:
                self._gamma = _n_good  # as an argument Optuna would warn of it
        return self._shown[1]


def _n_good(n_trials: int) -> int:
    """Return how many trials are taken for good, of so many."""
    return min(math.ceil(_GOOD * n_trials), _MOST_GOOD)


def all_placed(study: Study) -> Study:
    """Return a study whose trials have their place among all as their value.

    With several objectives that is the study: which trials are best depends on all others, and
    Optuna has no results of trials before their end.
    """
    if len(study.directions) > 1:
        return study
    sign = _sign(study)
    old = _old_of.setdefault(study, _Old(sign))
    trials = _few(study.get_trials(deepcopy=False), old)
    return _part(study, _placed(trials, sign))


def largest_budget(study: Study, n_enough: int) -> Study:
    """Return a study of the results at the largest budget that has enough; else without trials.

    Running trials are in it as such, so that others keep off their places.

    Args:
        study: Of one objective; its trials have a value a step.
        n_enough: Results a budget must have.
    """
    trials = study.get_trials(deepcopy=False)
    compared = [trial for trial in trials if _has_place(trial)]
    budgets = {step for trial in compared for step in trial.intermediate_values}
    for budget in sorted(budgets, reverse=True):
        done = [trial for trial in compared if budget in trial.intermediate_values]
        if len(done) >= n_enough:
            ahead = [trial for trial in trials if _is_ahead(trial, budget)]
            at_it = [_finished(trial, trial.intermediate_values[budget]) for trial in done]
            return _part(study, [*_few(at_it, _Old(_sign(study))), *ahead])
    return _part(study, [])


def _is_ahead(trial: FrozenTrial, budget: int) -> bool:
    return trial.state is TrialState.RUNNING and budget not in trial.intermediate_values


def _sign(study: Study) -> float:
    return 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0


def _part(study: Study, trials: list[FrozenTrial]) -> Study:
    """Return a study of which others are the trials; what is set is set in the study."""
    return cast("Study", _Part(study, trials))


def _few(trials: list[FrozenTrial], old: "_Old") -> list[FrozenTrial]:
    """Return the best trials and the latest, where there are very many."""
    return trials if len(trials) <= MOST else old.and_latest(trials)


class _Old:
    """What is known of the old trials of a study: the best that have ended, those that run."""

    def __init__(self, sign: float) -> None:
        self._sign, self._n = sign, 0
        self._best, self._running = list[FrozenTrial](), list[int]()

    def and_latest(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the best and the running old trials and the latest, of more than `MOST`."""
        n = len(trials) + _N_BEST - MOST
        unknown = [*self._running, *range(self._n, n)]
        ended = [trials[place] for place in unknown if trials[place].state.is_finished()]
        self._running = [place for place in unknown if not trials[place].state.is_finished()]
        self._n = n
        if ended:
            self._best = _best([*self._best, *ended], self._sign)
        running = [trials[place] for place in self._running]
        return [*sorted([*self._best, *running], key=_number), *trials[n:]]


_old_of = WeakKeyDictionary[Study, _Old]()


def _best(trials: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """Return the best by their value, then of those stopped early by how far they came."""
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    best = heapq.nlargest(_N_BEST, finished, key=lambda t: (sign * t.values[0], -t.number))
    if len(best) < _N_BEST:
        rest = [t for t in trials if t.state is TrialState.PRUNED and t.intermediate_values]
        best += heapq.nlargest(_N_BEST - len(best), rest, key=lambda t: _reached(t, sign))
    return sorted(best, key=_number)


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _reached(trial: FrozenTrial, sign: float) -> tuple[int, float, int]:
    step, value = max(trial.intermediate_values.items())
    return (step, -math.inf if math.isnan(value) else sign * value, -trial.number)


def _placed(trials: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """Return the trials, those with results as completed ones whose value is their place."""
    have_place = [_has_place(trial) for trial in trials]
    compared = list(compress(trials, have_place))
    if not compared:
        return trials
    places = iter((sign * _places(compared, sign)).tolist())
    return [
        _finished(trial, next(places)) if has_place else trial
        for trial, has_place in zip(trials, have_place, strict=True)
    ]


def _finished(trial: FrozenTrial, value: float) -> FrozenTrial:
    """Return a trial as one that finished with a value."""
    known = FrozenTrial.__new__(FrozenTrial)  # `copy.copy` takes ten times as long
    known.__dict__.update(trial.__dict__)
    known.state, known.value = TrialState.COMPLETE, value
    return known


def _has_place(trial: FrozenTrial) -> bool:
    """Tell whether a trial is compared: one that diverged or is infeasible is not."""
    is_bad = trial.user_attrs.get(STATUS_ATTR) in _BAD
    return bool(trial.intermediate_values) and not is_bad and trial.state in _WITH_RESULTS


def _places(trials: list[FrozenTrial], sign: float) -> Float64[np.ndarray, " T"]:
    """Return the share of trials that each is ahead of, 1 for the best.

    At each epoch those are compared that came to it, by their best value so far; one that
    finished has come to all. Those stopped before are behind them.
    """
    best, last, is_done = _curves(trials, sign)
    is_stopped = np.array([trial.state is TrialState.PRUNED for trial in trials])
    places = np.zeros(len(trials))
    for epoch in range(best.shape[1]):
        at_it = is_done | (last >= epoch)
        here = np.sort(best[at_it, epoch])
        n_behind = np.count_nonzero(is_stopped & (last < epoch))
        mine = last == epoch
        values = best[mine, epoch]
        n_below = np.searchsorted(here, values, "left") + np.searchsorted(here, values, "right")
        places[mine] = (n_behind + n_below / 2) / (n_behind + len(here))
    return places


def _curves(
    trials: list[FrozenTrial], sign: float
) -> tuple[Float64[np.ndarray, "T E"], Int64[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """Return the best values so far, the last epochs, and whether trials finished.

    Of the epochs that any trial was validated after; one that finished is at the last of them.
    """
    steps = sorted({step for trial in trials for step in trial.intermediate_values})
    column = {step: place for place, step in enumerate(steps)}
    values = np.full((len(trials), len(steps)), -np.inf)
    last = np.empty(len(trials), dtype=np.int64)
    for row, trial in enumerate(trials):
        for step, value in trial.intermediate_values.items():
            if not math.isnan(value):
                values[row, column[step]] = sign * value
        last[row] = column[max(trial.intermediate_values)]
    is_done = np.array([trial.state is TrialState.COMPLETE for trial in trials])
    last[is_done] = len(steps) - 1
    return np.maximum.accumulate(values, axis=1), last, is_done


class _Part:
    """A study of which only some trials are seen."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> object:
        if name == "_study":  # it is being unpickled, and there is none yet
            raise AttributeError(name)
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002, FBT001, FBT002 - as Optuna calls it
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    get_trials = _get_trials
