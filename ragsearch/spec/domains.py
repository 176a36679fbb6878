"""What a key of a trial may be: one frozen domain for each keyword of `space`.

In: the mapping under a path in `space`. Out: a `Domain` that checked itself. Values stand
in natural units. Knows nothing of searchers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from typing_extensions import TypeIs, override

from ragsearch.errors import RagsearchError

Scalar = bool | int | float | str | None

MAX_PROBES = 1000  # 1000: every value of a domain this small is tried before a search


class BadDomainError(RagsearchError):
    """A domain that is none: in one sentence without its place."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, key: str = "") -> None:
        super().__init__(what)
        self.key = key


@dataclass(frozen=True, slots=True)
class Log:
    """A number between two ends, as likely in each power of ten."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low <= 0:
            raise BadDomainError(f"log needs ends above 0, not {self.low}; use uniform")
        _require_ascending(self.low, self.high)

    def values(self) -> None:
        """Return None: there are too many to name."""

    def probes(self) -> tuple[float, ...]:
        """Return values that stand for all: the ends."""
        return (self.low, self.high)

    def contains(self, value: object) -> bool:
        """Return whether the value is a number between the ends."""
        return _is_number(value) and self.low <= value <= self.high

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        return {"log": [self.low, self.high]}


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
        if not _is_number(value):
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
        if self.log and self.step != 1:
            raise BadDomainError("log and step exclude each other; drop one", "log")

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


@dataclass(frozen=True, slots=True)
class _Listed:
    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        _require_distinct(self.options)

    def values(self) -> tuple[Scalar, ...]:
        """Return every value, as listed."""
        return self.options

    def probes(self) -> tuple[Scalar, ...]:
        """Return values that stand for all: every one."""
        return self.options

    def contains(self, value: object) -> bool:
        """Return whether the value is listed; 1 is not true, but 1.0 is 1."""
        return _identity(value) in map(_identity, self.options)


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
        numbers = [option for option in self.options if _is_number(option)]
        if len(numbers) == len(self.options) and numbers != sorted(numbers):
            listed = ", ".join(map(str, numbers))
            raise BadDomainError(f"ordinal numbers must ascend, not run {listed}", "ordinal")

    def to_plain(self) -> dict[str, object]:
        """Return the domain as `space` writes it."""
        return {"ordinal": list(self.options)}


Domain = Log | Uniform | Int | Choice | Ordinal


def parse_domain(raw: object) -> Domain:
    """Read a domain as `space` writes it: `{log: [1.0e-5, 1.0e-3]}`.

    Args:
        raw: Plain data: one keyword with its value, and the keyword's options.

    Returns:
        The domain, checked.

    Raises:
        BadDomainError: If it is none; its `key` names the part that is wrong.
    """
    if not isinstance(raw, Mapping):
        raise BadDomainError(f"must be a domain such as {{choice: [1, 2]}}, not {raw!r}")
    keyword = _keyword(raw)
    allowed = (keyword, *_OPTIONS.get(keyword, ()))
    for key in raw:
        if key not in allowed:
            raise BadDomainError(_unknown(str(key), allowed), str(key))
    return _PARSERS[keyword](raw)


def _keyword(raw: Mapping[object, object]) -> str:
    found = [str(key) for key in raw if key in _PARSERS]
    if "int" in found and "log" in found:  # {int: [1, 64], log: true}
        found.remove("log")
    if len(found) == 1:
        return found[0]
    if found:
        raise BadDomainError(f"has several domains, {' and '.join(found)}; keep one")
    if raw:
        raise BadDomainError(
            _unknown(str(next(iter(raw))), tuple(_PARSERS)), str(next(iter(raw)))
        )
    raise BadDomainError(f"is an empty domain; give one of {', '.join(_PARSERS)}")


def _unknown(key: str, allowed: tuple[str, ...]) -> str:
    close = get_close_matches(key, allowed, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(allowed)}"
    return f"unknown key; {hint}"


def _parse_log(raw: Mapping[object, object]) -> Log:
    low, high = _ends(raw, "log")
    return Log(float(low), float(high))


def _parse_uniform(raw: Mapping[object, object]) -> Uniform:
    low, high = _ends(raw, "uniform")
    step = raw.get("step")
    if "step" in raw and not _is_number(step):
        raise BadDomainError(f"step must be a number, not {step!r}", "step")
    return Uniform(float(low), float(high), float(step) if _is_number(step) else None)


def _parse_int(raw: Mapping[object, object]) -> Int:
    low, high = _ends(raw, "int")
    step, log = raw.get("step", 1), raw.get("log", False)
    if not isinstance(low, int) or not isinstance(high, int):
        raise BadDomainError(f"ends must be whole numbers, not {low} and {high}", "int")
    if not isinstance(step, int) or isinstance(step, bool):
        raise BadDomainError(f"step must be a whole number, not {step!r}", "step")
    if not isinstance(log, bool):
        raise BadDomainError(f"log must be true or false, not {log!r}", "log")
    return Int(low, high, step, log)


def _parse_choice(raw: Mapping[object, object]) -> Choice:
    return Choice(_listed(raw, "choice"))


def _parse_ordinal(raw: Mapping[object, object]) -> Ordinal:
    return Ordinal(_listed(raw, "ordinal"))


_PARSERS: Mapping[str, Callable[[Mapping[object, object]], Domain]] = {
    "choice": _parse_choice,
    "int": _parse_int,
    "log": _parse_log,
    "ordinal": _parse_ordinal,
    "uniform": _parse_uniform,
}
_OPTIONS = {"int": ("step", "log"), "uniform": ("step",)}


def _ends(raw: Mapping[object, object], keyword: str) -> tuple[int | float, int | float]:
    match raw[keyword]:
        case [low, high] if _is_number(low) and _is_number(high):
            return low, high
        case other:
            what = f"{keyword} must be [low, high], two numbers, not {other!r}"
            raise BadDomainError(what, keyword)


def _listed(raw: Mapping[object, object], keyword: str) -> tuple[Scalar, ...]:
    options = raw[keyword]
    if not isinstance(options, list):
        raise BadDomainError(f"{keyword} must be a list of values, not {options!r}", keyword)
    for option in options:
        if option is not None and not isinstance(option, bool | int | float | str):
            raise BadDomainError(f"values must be numbers or text, not {option!r}", keyword)
    return tuple(options)


def _is_number(value: object) -> TypeIs[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _require_ascending(low: float, high: float) -> None:
    if not low < high:
        raise BadDomainError(
            f"low {low} must be below high {high}; a fixed value goes in trial"
        )


def _require_distinct(options: tuple[Scalar, ...]) -> None:
    if len(options) < 2:  # noqa: PLR2004
        raise BadDomainError("needs at least 2 values; a fixed value goes in trial")
    identities = [_identity(option) for option in options]
    for position, option in enumerate(options):
        if identities.index(identities[position]) != position:
            raise BadDomainError(f"lists {option!r} twice; keep one")


def _identity(value: object) -> tuple[str, object]:
    return ("number" if _is_number(value) else type(value).__name__), value
