"""What a trial would have scored: the quickstart by a table, and two test functions.

In: a configuration. Out: its objective after each epoch, without training anything.

The table holds learning curves of real quickstart trials, 9 epochs each, of configurations that
a Sobol sequence spreads over the quickstart's space (`scripts/measure_quickstart_curves.py`
makes it). Between them Shepard's inverse-distance weighting of power 4 (Shepard 1968, "A
two-dimensional interpolation function for irregularly-spaced data") averages whole curves. So a
measured configuration has its own curve, a trial of the table is as noisy as the real one was,
and no configuration is better than the best that was measured; of what lies between, which may
be better or worse, the table knows nothing.

The functions are of the collection that Optuna was published with (Akiba et al. 2019,
arXiv 1907.10902, section 5.1; github.com/sigopt/evalset), turned so that 1 is the best value.
Their coordinates are settings of a trial, each over its whole domain. They know no epochs, so a
learning curve is put on them: `f(x) * (1 - s ** epoch) / (1 - s ** last)`. How slowly a trial
learns, `s`, is drawn from 0.3 to 0.6 by a hash of the settings: after one epoch a trial has 40
to 70 % of what it ends with. So trials that end well may begin badly, as real ones do, and a
scheduler can err.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ragsearch.spec import Domain, Int, Log, Spec, Uniform

CURVES = Path(__file__).with_name("quickstart_curves.jsonl")
N_EPOCHS = 9
"""As ASHA with eta 3 needs them, to have rungs at 1 and 3."""

Settings = Mapping[str, object]
Curve = Callable[[Settings], Sequence[float]]
"""From the varied values of a trial to its objective after each epoch."""

_POWER = 4
_SLOWEST, _FASTEST = 0.6, 0.3


def tabulated(spec: Spec) -> Curve:
    """Return what quickstart trials score, by the table."""
    rows = [json.loads(line) for line in CURVES.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row["epochs"]) == N_EPOCHS]
    baseline = {path: spec.look_up(path) for path in spec.domains}
    points = np.array([place_of(spec, baseline | row["params"]) for row in rows])
    curves = np.array([[epoch["val/em"] for epoch in row["epochs"]] for row in rows])

    def curve(settings: Settings) -> Sequence[float]:
        distances = np.linalg.norm(points - place_of(spec, settings), axis=1)
        if not distances.min():
            return list(map(float, curves[distances.argmin()]))
        weights = distances**-_POWER
        return list(map(float, weights @ curves / weights.sum()))

    return curve


def place_of(spec: Spec, settings: Settings) -> Float64[np.ndarray, " D"]:
    """Return where a configuration lies in the cube of a space.

    A number lies by its share of its domain, in powers of ten where the domain is logarithmic;
    a value of any other list or grid by its place in it.
    """
    return np.array([share_of(domain, settings[path]) for path, domain in spec.domains.items()])


def share_of(domain: Domain, value: object) -> float:
    """Return where a value lies in its domain, from 0 to 1."""
    options = None if _is_log_int(domain) else domain.values()
    if options is not None:
        return [option == value for option in options].index(True) / (len(options) - 1)
    assert isinstance(domain, Log | Uniform | Int), "all others list their values"
    assert isinstance(value, float | int), "and these are of numbers"
    return (_scaled(domain, value) - _scaled(domain, domain.low)) / (
        _scaled(domain, domain.high) - _scaled(domain, domain.low)
    )


def settings_at(spec: Spec, shares: Sequence[float]) -> dict[str, object]:
    """Return the configuration at a place in the cube, the nearest of its listed values."""
    return {
        path: _value_at(domain, share)
        for (path, domain), share in zip(spec.domains.items(), shares, strict=True)
    }


def _value_at(domain: Domain, share: float) -> object:
    options = None if _is_log_int(domain) else domain.values()
    if options is not None:
        return options[min(int(share * len(options)), len(options) - 1)]
    assert isinstance(domain, Log | Uniform | Int), "all others list their values"
    low, high = _scaled(domain, domain.low), _scaled(domain, domain.high)
    value = low + share * (high - low)
    number = value if isinstance(domain, Uniform) else math.exp(value)
    return domain.nearest(number) if isinstance(domain, Int) else float(f"{number:.4g}")


def _is_log_int(domain: Domain) -> bool:
    return isinstance(domain, Int) and domain.log


def _scaled(domain: Log | Uniform | Int, value: float) -> float:
    return value if isinstance(domain, Uniform) else math.log(value)


def learning(function: Callable[[Float64[np.ndarray, " D"]], float], spec: Spec) -> Curve:
    """Return a function of the unit cube as the curve of trials that learn it."""

    def curve(settings: Settings) -> Sequence[float]:
        value = function(place_of(spec, settings))
        slow = _SLOWEST + (_FASTEST - _SLOWEST) * _chance(settings)
        epochs = range(1, N_EPOCHS + 1)
        return [value * (1 - slow**epoch) / (1 - slow**N_EPOCHS) for epoch in epochs]

    return curve


def _chance(settings: Settings) -> float:
    """Return a number from 0 to 1 that looks drawn, the same for the same settings."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


_HARTMANN = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_SCALES = np.array([
    [10, 3, 17, 3.5, 1.7, 8],
    [0.05, 10, 17, 0.1, 8, 14],
    [3, 3.5, 1.7, 10, 17, 8],
    [17, 8, 0.05, 10, 0.1, 14],
])
_HARTMANN_PLACES = 1e-4 * np.array([
    [1312, 1696, 5569, 124, 8283, 5886],
    [2329, 4135, 8307, 3736, 1004, 9991],
    [2348, 1451, 3522, 2883, 3047, 6650],
    [4047, 8828, 8732, 5743, 1091, 381],
])
HARTMANN_BEST = 3.32237
BRANIN_BEST, _BRANIN_WORST = 0.397887, 308.13


def hartmann6(x: Float64[np.ndarray, " 6"]) -> float:
    """Return Hartmann's function of six variables, turned and scaled: 1 is the best."""
    inner = (_HARTMANN_SCALES * (x - _HARTMANN_PLACES) ** 2).sum(axis=1)
    return float(_HARTMANN @ np.exp(-inner)) / HARTMANN_BEST


def branin(x: Float64[np.ndarray, " 2"]) -> float:
    """Return Branin's function of two variables, turned and scaled: 1 is the best, 0 the worst.

    Logarithmic, or nearly all of the square would be near the best.
    """
    first, second = 15 * x[0] - 5, 15 * x[1]
    bowl = second - 5.1 / (4 * math.pi**2) * first**2 + 5 / math.pi * first - 6
    value = bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(first) + 10
    worst = math.log1p(_BRANIN_WORST - BRANIN_BEST)
    return 1.0 - math.log1p(max(value - BRANIN_BEST, 0.0)) / worst
