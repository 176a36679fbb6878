"""Domains of a space file in Optuna's words.

Ordered values are proposed by their place in the list, so that the searcher learns from their
order. Trial 0 is the baseline: its values are enqueued where they lie in their domain, and
stand as they are where they do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch
from typing_extensions import override

from ragsearch.spec import Choice, Domain, Int, Log, Ordinal, Spec, Uniform

TRIAL_KEY = "trial"
"""Where a Tune config carries the number of its trial."""

LAST_KEY = "is_last"
"""Where a result of Tune says that the trial ends with it by itself."""

COMPARED_KEY = "compared"
"""Where a result of Tune has the objective on the questions that all epochs were asked."""

VERDICT_KEY, REASON_KEY = "verdict", "reason"
"""Where a result of Tune says that the trial diverged or is infeasible, and why."""


def make_searcher(spec: Spec, storage: str, study_name: str) -> OptunaSearch:
    """Make the searcher that proposes the trials of a search, the baseline first.

    Args:
        spec: The search.
        storage: Optuna storage URL; the study can be opened from it at any time.
        study_name: Name of the study in it.

    Returns:
        A searcher for Ray Tune.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective = spec.file.objectives[0]
    baseline = {path: baseline_value(spec, path) for path in spec.domains}
    enqueued = {
        path: _encode(domain, baseline[path])
        for path, domain in spec.domains.items()
        if domain.contains(baseline[path])
    }
    return _Searcher(
        space=_Proposal(dict(spec.domains), baseline),
        metric=objective.metric,
        mode=objective.goal,
        points_to_evaluate=[enqueued],
        sampler=_sampler(spec),
        storage=optuna.storages.RDBStorage(storage),
        study_name=study_name,
    )


class _Searcher(OptunaSearch):
    """Tells Optuna of trials that diverged or are infeasible that they were pruned.

    To TPE a pruned trial without a value is worse than all that have one, so that it avoids the
    like; a failed one, as a crash is told to it, it leaves out of account.
    """

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        is_bad = result is not None and VERDICT_KEY in result
        super().on_trial_complete(trial_id, None if is_bad else result, error)


def baseline_value(spec: Spec, path: str) -> object:
    """Look up a dotted path in the baseline configuration."""
    value: object = spec.file.trial
    for key in path.split("."):
        value = getattr(value, key)
    return value


def _sampler(spec: Spec) -> optuna.samplers.BaseSampler:
    if spec.file.search.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=spec.file.seed)
    return optuna.samplers.TPESampler(
        seed=spec.file.seed,
        n_startup_trials=spec.file.search.startup_trials,
        multivariate=True,
        constant_liar=True,  # concurrent trials do not crowd one place
    )


@dataclass(frozen=True)
class _Proposal:
    """The space as Optuna's define-by-run function; a class, since Tune pickles it."""

    domains: Mapping[str, Domain]
    baseline: Mapping[str, object]

    def __call__(self, trial: optuna.Trial) -> dict[str, object]:
        config: dict[str, object] = {TRIAL_KEY: trial.number}
        for path, domain in self.domains.items():
            if trial.number == 0 and not domain.contains(self.baseline[path]):
                config[path] = self.baseline[path]
            else:
                config[path] = _suggest(trial, path, domain)
        return config


def _suggest(trial: optuna.Trial, path: str, domain: Domain) -> object:
    match domain:
        case Log(low, high):
            return trial.suggest_float(path, low, high, log=True)
        case Uniform(low, high, step):
            return trial.suggest_float(path, low, high, step=step)
        case Int(low, high, step, log):
            return trial.suggest_int(path, low, high, step=step, log=log)
        case Choice(options):
            return trial.suggest_categorical(path, options)
        case Ordinal(options):
            return options[trial.suggest_int(path, 0, len(options) - 1)]


def _encode(domain: Domain, value: object) -> object:
    return domain.options.index(value) if isinstance(domain, Ordinal) else value
