"""Plain data of `space` as domains: `{log: [1.0e-5, 1.0e-3]}`.

In: the mapping under a key of `space`. Out: a `Domain` that checked itself, or one sentence.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from ragsearch.spec.domains import (
    BadDomainError,
    Bundle,
    Choice,
    Domain,
    Int,
    Log,
    Normal,
    Ordinal,
    Uniform,
    is_number,
)
from ragsearch.spec.grammar import Scalar

TAIL = 5.0
"""Deviations from the mean at which a `normal` without bounds ends: one draw in two
million would lie beyond."""


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
    return Log(float(low), float(high), _step(raw))


def _parse_uniform(raw: Mapping[object, object]) -> Uniform:
    low, high = _ends(raw, "uniform")
    return Uniform(float(low), float(high), _step(raw))


def _step(raw: Mapping[object, object]) -> float | None:
    step = raw.get("step")
    if "step" in raw and not is_number(step):
        raise BadDomainError(f"step must be a number, not {step!r}", "step")
    return float(step) if is_number(step) else None


def _parse_normal(raw: Mapping[object, object]) -> Normal:
    match raw["normal"]:
        case [mean, deviation] if is_number(mean) and is_number(deviation):
            cut = TAIL * deviation
            low, high = mean - cut, mean + cut
            if "bounds" in raw:
                low, high = _ends(raw, "bounds")
            return Normal(float(mean), float(deviation), float(low), float(high))
        case other:
            what = f"normal must be [mean, deviation], two numbers, not {other!r}"
            raise BadDomainError(what, "normal")


def _parse_bundle(raw: Mapping[object, object]) -> Bundle:
    options = raw["bundle"]
    if not isinstance(options, list) or not all(isinstance(each, Mapping) for each in options):
        what = "bundle must be a list of mappings, each of the same keys to their values"
        raise BadDomainError(what, "bundle")
    paths = tuple(map(str, options[0])) if options else ()
    if len(paths) < 2:  # noqa: PLR2004
        what = "a bundle couples at least 2 keys; one alone is a choice"
        raise BadDomainError(what, "bundle")
    return Bundle(
        paths, tuple(_option(place, option, paths) for place, option in enumerate(options))
    )


def _option(
    place: int, option: Mapping[object, object], paths: tuple[str, ...]
) -> tuple[Scalar, ...]:
    if option.keys() != set(paths):
        odd = ", ".join(sorted(map(str, option.keys() ^ set(paths))))
        what = f"options must have the same keys, but 0 and {place} differ in {odd}"
        raise BadDomainError(what, "bundle")
    return tuple(_scalar(option[path], "bundle") for path in paths)


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
    "bundle": _parse_bundle,
    "choice": _parse_choice,
    "int": _parse_int,
    "log": _parse_log,
    "normal": _parse_normal,
    "ordinal": _parse_ordinal,
    "uniform": _parse_uniform,
}
_OPTIONS = {
    "int": ("step", "log"),
    "log": ("step",),
    "normal": ("bounds",),
    "uniform": ("step",),
}


def _ends(raw: Mapping[object, object], keyword: str) -> tuple[int | float, int | float]:
    match raw[keyword]:
        case [low, high] if is_number(low) and is_number(high):
            return low, high
        case other:
            what = f"{keyword} must be [low, high], two numbers, not {other!r}"
            raise BadDomainError(what, keyword)


def _listed(raw: Mapping[object, object], keyword: str) -> tuple[Scalar, ...]:
    options = raw[keyword]
    if not isinstance(options, list):
        raise BadDomainError(f"{keyword} must be a list of values, not {options!r}", keyword)
    return tuple(_scalar(option, keyword) for option in options)


def _scalar(value: object, keyword: str) -> Scalar:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadDomainError(f"values must be numbers or text, not {value!r}", keyword)
