"""What a key of a trial may be: one frozen domain for each keyword of `space`.

Values stand in natural units. `domain_parser` makes domains of plain data; nothing here knows
of searchers.
"""

import math
from dataclasses import dataclass
from random import Random
from statistics import NormalDist
from typing import ClassVar

from typing_extensions import TypeIs, override

from ragsearch.errors import RagsearchError
from ragsearch.spec.grammar import Scalar

MIN_SHARE = 1e-3  # below, so far out, values of the curve lose their digits
MAX_PROBES = 1000  # 1000: every value of a domain this small is tried before a search


class BadDomainError(RagsearchError):
    """A domain that is none: in one sentence without its place."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, key: str = "") -> None:
        super().__init__(what)
        self.key = key


@dataclass(frozen=True, slots=True)
class Log:
    """A number between two ends, as likely in each power of ten; a step multiplies."""

    low: float
    high: float
    step: float | None = None

    def __post_init__(self) -> None:
        if self.low <= 0:
            raise BadDomainError(f"log needs ends above 0, not {self.low}; use uniform")
        _require_ascending(self.low, self.high)
        if self.step is None:
            return
        if self.step <= 1:
            what = f"step must be above 1, as a step of log multiplies, not {self.step}"
            raise BadDomainError(what, "step")
        if not math.isclose(self._n_steps, round(self._n_steps), rel_tol=1e-9):
            what = f"times {self.step} does not lead from {self.low} to {self.high} evenly"
            raise BadDomainError(what, "step")

    @property
    def _n_steps(self) -> float:
        if self.step is None:
            return math.inf
        return (math.log(self.high) - math.log(self.low)) / math.log(self.step)

    def values(self) -> tuple[float, ...] | None:
        """Return the values of the grid, ascending, or None without a step."""
        if self.step is None:
            return None
        steps = range(round(self._n_steps) + 1)
        return tuple(float(f"{self.low * self.step**i:.12g}") for i in steps)

    def probes(self) -> tuple[float, ...]:
        """Return values that stand for all: a small grid, else the ends."""
        is_small = self._n_steps < MAX_PROBES
        return (is_small and self.values()) or (self.low, self.high)

    def contains(self, value: object) -> bool:
        """Return whether the value is a number between the ends, and on the grid if any."""
        if not is_number(value):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        return any(math.isclose(value, known, rel_tol=1e-9) for known in self.values() or ())

    def sample(self, random: Random) -> float:
        """Draw a value."""
        if (grid := self.values()) is not None:
            return random.choice(grid)
        return _log_between(random, self.low, self.high)

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        step = {} if self.step is None else {"step": self.step}
        return {"log": [self.low, self.high], **step}


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number between two ends, each as likely; with a step, on a grid from the low end."""

    low: float
    high: float
    step: float | None = None

    def __post_init__(self) -> None:
        _require_ascending(self.low, self.high)
        if self.step is None:
            return
        if self.step <= 0:
            raise BadDomainError(f"step must be above 0, not {self.step}", "step")
        if not math.isclose(self._n_steps, round(self._n_steps), rel_tol=1e-9):
            width = f"{self.low} to {self.high}"
            raise BadDomainError(f"step {self.step} does not divide {width} evenly", "step")

    @property
    def _n_steps(self) -> float:
        return (self.high - self.low) / self.step if self.step else math.inf

    def values(self) -> tuple[float, ...] | None:
        """Return the values of the grid, or None without one."""
        if self.step is None:
            return None
        # 12 digits: 0.1 + 2 * 0.1 is then 0.3, as the user would write it
        steps = range(round(self._n_steps) + 1)
        return tuple(float(f"{self.low + i * self.step:.12g}") for i in steps)

    def probes(self) -> tuple[float, ...]:
        """Return values that stand for all: a small grid, else the ends."""
        is_small = self._n_steps < MAX_PROBES
        return (is_small and self.values()) or (self.low, self.high)

    def contains(self, value: object) -> bool:
        """Return whether the value is a number between the ends, and on the grid if any."""
        if not is_number(value):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        n_steps = (value - self.low) / self.step
        nearest = round(n_steps)
        is_near = math.isclose(n_steps, nearest, rel_tol=1e-9, abs_tol=1e-9)
        return is_near and 0 <= nearest <= round(self._n_steps)

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        step = {} if self.step is None else {"step": self.step}
        return {"uniform": [self.low, self.high], **step}

    def sample(self, random: Random) -> float:
        """Draw a value."""
        if self.step is None:
            return random.uniform(self.low, self.high)
        return random.choice(self.values() or ())


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number between two ends, both included."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        _require_ascending(self.low, self.high)
        if self.step < 1:
            raise BadDomainError(f"step must be at least 1, not {self.step}", "step")
        if (self.high - self.low) % self.step:
            width = f"{self.low} to {self.high}"
            raise BadDomainError(f"step {self.step} does not divide {width} evenly", "step")
        if self.log and self.low < 1:
            raise BadDomainError(f"log needs a low end of at least 1, not {self.low}", "log")

    def values(self) -> range:
        """Return every value, ascending."""
        return range(self.low, self.high + 1, self.step)

    def probes(self) -> tuple[int, ...]:
        """Return values that stand for all: every one if they are few, else the ends."""
        # not len(): it fails beyond 2**63
        is_small = (self.high - self.low) // self.step < MAX_PROBES
        return tuple(self.values()) if is_small else (self.low, self.high)

    def contains(self, value: object) -> bool:
        """Return whether the value is one of the whole numbers."""
        return isinstance(value, int) and not isinstance(value, bool) and value in self.values()

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        step = {} if self.step == 1 else {"step": self.step}
        return {"int": [self.low, self.high], **step, **({"log": True} if self.log else {})}

    def sample(self, random: Random) -> int:
        """Draw a value."""
        if not self.log:
            return random.randrange(self.low, self.high + 1, self.step)
        return self.nearest(_log_between(random, *self.edges()))

    def edges(self) -> tuple[float, float]:
        """Return between what numbers it is drawn if `log`: half a step beyond the ends."""
        # half of the low end: so far from 1 in steps of 1, and 0 has no logarithm
        return max(self.low - self.step / 2, self.low / 2), self.high + self.step / 2

    def nearest(self, number: float) -> int:
        """Return the value that a number between the edges stands for."""
        n_steps = round((number - self.low) / self.step)
        return int(_between(self.low, self.low + n_steps * self.step, self.high))


@dataclass(frozen=True, slots=True)
class _Listed:
    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        _require_distinct(self.options)

    def values(self) -> tuple[Scalar, ...]:
        """Return every value, as listed."""
        return self.options

    probes = values  # every one stands for all

    def contains(self, value: object) -> bool:
        """Return whether the value is listed; 1 is not true, but 1.0 is 1."""
        return identity(value) in map(identity, self.options)

    def sample(self, random: Random) -> Scalar:
        """Draw a value."""
        return random.choice(self.options)


@dataclass(frozen=True, slots=True)
class Choice(_Listed):
    """One of several values without an order."""

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        return {"choice": list(self.options)}


@dataclass(frozen=True, slots=True)
class Ordinal(_Listed):
    """One of several values in an order: neighbours behave alike."""

    @override
    def __post_init__(self) -> None:
        _Listed.__post_init__(self)  # slots make a new class, which `super()` does not know
        numbers = [option for option in self.options if is_number(option)]
        if len(numbers) == len(self.options) and numbers != sorted(numbers):
            listed = ", ".join(map(str, numbers))
            raise BadDomainError(f"ordinal numbers must ascend, not run {listed}", "ordinal")

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        return {"ordinal": list(self.options)}


@dataclass(frozen=True, slots=True)
class Normal:
    """A number around a mean, the likelier the nearer; none beyond two ends."""

    mean: float
    deviation: float
    """Standard deviation."""
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.deviation <= 0:
            raise BadDomainError(f"deviation must be above 0, not {self.deviation}", "normal")
        _require_ascending(self.low, self.high)
        least, most = self._shares
        if most - least < MIN_SHARE:
            what = "bounds hold less than a thousandth of the distribution; move them"
            raise BadDomainError(f"{what}, or use uniform", "bounds")

    @property
    def _shares(self) -> tuple[float, float]:
        curve = NormalDist(self.mean, self.deviation)
        return curve.cdf(self.low), curve.cdf(self.high)

    def at(self, quantile: float) -> float:
        """Return the value below which a share of all draws lies.

        The inverse of the cumulative distribution, so that a uniform quantile gives values
        that are distributed as the domain says, exactly.

        Args:
            quantile: From 0, the low end, to 1, the high one.
        """
        least, most = self._shares
        share = least + quantile * (most - least)
        if not 0.0 < share < 1.0:
            return self.low if share <= 0.0 else self.high
        value = NormalDist(self.mean, self.deviation).inv_cdf(share)
        # 12 digits, so that the quantile of 0.001 gives 0.001 again
        return _between(self.low, float(f"{value:.12g}"), self.high)

    def quantile(self, value: float) -> float:
        """Return the share of all draws below a value: what `at` takes."""
        least, most = self._shares
        share = NormalDist(self.mean, self.deviation).cdf(value)
        return _between(0.0, (share - least) / (most - least), 1.0)

    def values(self) -> None:
        """Return None: there are too many to name."""

    def probes(self) -> tuple[float, ...]:
        """Return values that stand for all: the ends, and the middle."""
        return (self.low, self.at(0.5), self.high)

    def contains(self, value: object) -> bool:
        """Return whether the value is a number between the ends."""
        return is_number(value) and self.low <= value <= self.high

    def sample(self, random: Random) -> float:
        """Draw a value."""
        return self.at(random.random())

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        return {"normal": [self.mean, self.deviation], "bounds": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several keys that move together: one of several sets of their values."""

    paths: tuple[str, ...]
    """The keys, by dotted path in the trial."""
    options: tuple[tuple[Scalar, ...], ...]
    """Each a value for each path, in the same order."""

    def __post_init__(self) -> None:
        if len(self.options) < 2:  # noqa: PLR2004
            raise BadDomainError("needs at least 2 options; fixed values go in trial", "bundle")
        known = [tuple(map(identity, option)) for option in self.options]
        for place, option in enumerate(known):
            if known.index(option) != place:
                first = known.index(option)
                what = f"options {first} and {place} are the same; keep one"
                raise BadDomainError(what, "bundle")

    def values(self) -> tuple[tuple[Scalar, ...], ...]:
        """Return every option, as listed."""
        return self.options

    probes = values  # every one stands for all

    def contains(self, value: object) -> bool:
        """Return whether a tuple of values, one a path, is listed."""
        return isinstance(value, tuple) and self.position(value) is not None

    def position(self, values: tuple[object, ...]) -> int | None:
        """Return the place of an option among the others, None where it is none."""
        known = [tuple(map(identity, option)) for option in self.options]
        wanted = tuple(map(identity, values))
        return known.index(wanted) if wanted in known else None

    def sample(self, random: Random) -> tuple[Scalar, ...]:
        """Draw an option."""
        return random.choice(self.options)

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        named = [dict(zip(self.paths, option, strict=True)) for option in self.options]
        return {"bundle": named}


Domain = Log | Uniform | Int | Normal | Choice | Ordinal | Bundle


def is_number(value: object) -> TypeIs[int | float]:
    """Return whether a value is a finite number and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _between(low: float, value: float, high: float) -> float:
    return max(low, min(high, value))


def _log_between(random: Random, low: float, high: float) -> float:
    return _between(low, math.exp(random.uniform(math.log(low), math.log(high))), high)


def _require_ascending(low: float, high: float) -> None:
    if not low < high:
        raise BadDomainError(
            f"low {low} must be below high {high}; a fixed value goes in trial"
        )


def _require_distinct(options: tuple[Scalar, ...]) -> None:
    if len(options) < 2:  # noqa: PLR2004
        raise BadDomainError("needs at least 2 values; a fixed value goes in trial")
    identities = [identity(option) for option in options]
    for position, option in enumerate(options):
        if identities.index(identities[position]) != position:
            raise BadDomainError(f"lists {option!r} twice; keep one")


def identity(value: object) -> tuple[str, object]:
    """Return what makes values the same: 1 and 1.0 are, 1 and true are not."""
    return ("number" if is_number(value) else type(value).__name__), value
