"""Domains of a space file in Optuna's words.

Ordered values and those on a grid are proposed by their place in the list, so that the
searcher learns from their order; a normal one by its quantile, which is uniform; a whole number
on a grid and a log scale by any number nearest to it. Trial 0 is the baseline: its values are
enqueued where they lie in their domain, else stand as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from ragsearch.spec import (
    Bundle,
    Choice,
    Domain,
    Int,
    Log,
    Normal,
    Ordinal,
    Parameter,
    Spec,
    Uniform,
)
from ragsearch.spec.domains import identity

TRIAL_KEY = "trial"
"""Where a Tune config carries the number of its trial."""

LAST_KEY = "is_last"
"""Where a result of Tune says that the trial ends with it by itself."""

VERDICT_KEY, REASON_KEY = "verdict", "reason"
"""Where a result of Tune says that the trial diverged or is infeasible, and why."""


@dataclass(frozen=True)
class Proposal:
    """The space as Optuna's define-by-run function; a class, since Tune pickles it.

    Optuna is asked for parameters that vary under the values chosen before, and for no others.
    What it knows a parameter by is its dotted path, or the bundle's name; `encoded` says what
    stands for a value.
    """

    spec: Spec

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, object]:
        """Ask Optuna for a trial.

        Args:
            trial: A trial of the search's study; its first one, number 0, is the baseline.

        Returns:
            The varied values by dotted path, in natural units: conditions, bundles and derived
            values applied. `Spec.rejects` tells whether the trial is to be launched.
        """
        space, baseline = self.spec.space, self.spec.look_up

        def choose(parameter: Parameter) -> object:
            value = parameter.gathered(baseline)
            if trial.number == 0 and not parameter.domain.contains(value):
                return value
            return suggest(trial, parameter.name, parameter.domain)

        return space.resolve(baseline, choose)

    def first_points(self) -> list[dict[str, object]]:
        """Return Optuna's parameters of the trials to begin with.

        Returns:
            The baseline, without what lies outside its domain; then those of `try_first`.
        """
        return [self._point(point) for point in ({}, *self.spec.file.try_first)]

    def _point(self, point: Mapping[str, object]) -> dict[str, object]:
        space, domains = self.spec.space, self.spec.domains
        chosen = space.chosen(self.spec.look_up, space.completed(point))
        return {
            name: encoded(domains[name], value)
            for name, value in chosen.items()
            if domains[name].contains(value)
        }


def suggest(  # noqa: PLR0911 - one a kind of domain
    trial: optuna.trial.BaseTrial, name: str, domain: Domain
) -> object:
    """Ask Optuna for a value of a domain; of a bundle a tuple."""
    match domain:
        case Log(low, high, None) | Uniform(low, high, None):
            return trial.suggest_float(name, low, high, log=isinstance(domain, Log))
        case Int(_, _, step, log=True) if step > 1:
            return domain.nearest(trial.suggest_float(name, *domain.edges(), log=True))
        case Int(low, high, step, log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case Normal():
            return domain.at(trial.suggest_float(name, 0.0, 1.0))
        case Choice(options):
            return trial.suggest_categorical(name, options)
        case Bundle(_, options):
            return options[trial.suggest_categorical(name, range(len(options)))]
        case Log() | Uniform() | Ordinal():
            values = domain.values()
            assert values is not None, "one with a step has a list of values"
            return values[trial.suggest_int(name, 0, len(values) - 1)]


def encoded(domain: Domain, value: object) -> object:
    """Return what stands for a value of a domain in Optuna.

    It is its place among ordered values and among the options of a bundle, the quantile of a
    normal one, and any other as it is: a whole number with `log` and `step` as a float.
    """
    match domain:
        case Bundle():
            assert isinstance(value, tuple)
            return domain.position(value)
        case Normal():
            assert isinstance(value, int | float)
            return domain.quantile(value)
        case Int(_, _, step, log=True) if step > 1:
            assert isinstance(value, int)
            return float(value)
        case Choice(options):
            return next(option for option in options if identity(option) == identity(value))
        case Log() | Uniform() | Ordinal() if (values := domain.values()) is not None:
            return _nearest(values, value)
        case _:
            return value


def _nearest(values: Sequence[object], value: object) -> int:
    """Return the place of a value in a list that has it, or has it but for rounding."""
    for place, known in enumerate(values):
        if identity(known) == identity(value):
            return place
    assert isinstance(value, int | float)
    return min(range(len(values)), key=lambda place: abs(float(str(values[place])) - value))
