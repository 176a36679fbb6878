"""Domains of a space file in Optuna's words.

Ordered values are proposed by their place in the list, so that the searcher learns from their
order. Trial 0 is the baseline: its values are enqueued where they lie in their domain, and
stand as they are where they do not.
"""

import optuna

from ragsearch.spec import Choice, Domain, Int, Log, Ordinal, Spec, Uniform

TRIAL_KEY = "trial"
"""Where a Tune config carries the number of its trial."""

LAST_KEY = "is_last"
"""Where a result of Tune says that the trial ends with it by itself."""

VERDICT_KEY, REASON_KEY = "verdict", "reason"
"""Where a result of Tune says that the trial diverged or is infeasible, and why."""


class Proposal:
    """The space as Optuna's define-by-run function."""

    def __init__(self, spec: Spec) -> None:
        self._domains = spec.domains
        self._baseline = {path: baseline_value(spec, path) for path in spec.domains}

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, object]:
        """Return the varied values of a trial, by dotted path; number 0 is the baseline."""
        return {
            path: self._baseline[path]
            if trial.number == 0 and not domain.contains(self._baseline[path])
            else _suggest(trial, path, domain)
            for path, domain in self._domains.items()
        }

    def first_points(self) -> list[dict[str, object]]:
        """Return Optuna's parameters of the trials that come before any that is drawn."""
        baseline = {
            path: encode(domain, self._baseline[path])
            for path, domain in self._domains.items()
            if domain.contains(self._baseline[path])
        }
        return [baseline]


def baseline_value(spec: Spec, path: str) -> object:
    """Look up a dotted path in the baseline configuration."""
    value: object = spec.file.trial
    for key in path.split("."):
        value = getattr(value, key)
    return value


def _suggest(trial: optuna.trial.BaseTrial, path: str, domain: Domain) -> object:
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


def encode(domain: Domain, value: object) -> object:
    """Return what Optuna calls a value of a domain."""
    return domain.options.index(value) if isinstance(domain, Ordinal) else value
