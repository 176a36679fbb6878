"""The sections `space` and `constraints` as they stand in the file, read one by one.

In: plain data. Out: entries and expressions that could be read, and a `Finding` for each part
that could not. Values are tried in `space_rules`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ragsearch.spec.document import Finding
from ragsearch.spec.domain_parser import parse_domain
from ragsearch.spec.domains import BadDomainError
from ragsearch.spec.expressions import Expression
from ragsearch.spec.grammar import ExpressionError
from ragsearch.spec.keys import leaves, suggestion
from ragsearch.spec.messages import shown
from ragsearch.spec.space import Derived, Entry, Parameter, Space, in_order
from ragsearch.spec.trial import TrialSection

FIXED = {
    path: f"must be the same for all trials, as it changes no model; set trial.{path}"
    for path in ("retrieval.backend", "train.profile")
}
"""Keys of a trial that cannot vary, and why."""


class ReadSpace(NamedTuple):
    """What could be read, and what could not."""

    space: Space
    findings: tuple[Finding, ...]


class _Broken(Exception):  # noqa: N818 - it carries findings, and is always caught here
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


def read_space(data: Mapping[str, object]) -> ReadSpace:
    """Read what varies in a space file's data, right or wrong."""
    findings: list[Finding] = []
    entries: list[Entry] = []
    raw_space = data.get("space")
    for name, raw in raw_space.items() if isinstance(raw_space, Mapping) else ():
        wrong_names = list(_wrong_names(name, raw))
        findings += wrong_names
        try:
            entry = _entry(name, raw)
        except _Broken as error:
            findings.append(error.finding)
            continue
        # a name that is none is told, and its domain still tried for mistakes of its own
        if not wrong_names:
            entries.append(entry)
    constraints = list(_constraints(data, findings))
    findings += _given_twice(entries)
    done, circular = in_order(entries)
    findings += [_circle(entry, circular) for entry in circular[:1]]
    return ReadSpace(Space(tuple(done), tuple(constraints)), tuple(findings))


def _entry(name: str, raw: object) -> Entry:
    if isinstance(raw, Mapping) and "derive" in raw:
        return _derived(name, raw)
    when = None
    if isinstance(raw, Mapping) and "when" in raw:
        when = _expression(raw["when"], ("space", name, "when"))
        raw = {key: value for key, value in raw.items() if key != "when"}
    try:
        return Parameter(name, parse_domain(raw), when)
    except BadDomainError as error:
        inner = (error.key,) if error.key else ()
        raise _Broken(Finding(("space", name, *inner), str(error))) from error


def _derived(name: str, raw: Mapping[str, object]) -> Derived:
    for key in raw:
        if key != "derive":
            what = "a value that is derived has no other keys; drop it, or derive"
            raise _Broken(Finding(("space", name, key), what))
    return Derived(name, _expression(raw["derive"], ("space", name, "derive")))


def _expression(raw: object, path: tuple[str | int, ...]) -> Expression:
    """Read an expression whose names are all keys of a trial."""
    if not isinstance(raw, str):
        what = f"must be an expression in quotes, not {shown(raw)}"
        raise _Broken(Finding(path, what))
    try:
        expression = Expression.parse(raw)
    except ExpressionError as error:
        raise _Broken(Finding(path, str(error))) from error
    known = list(leaves(TrialSection))
    for name in expression.names():
        if name.path not in known:
            hint = suggestion(name.path, known)
            if "." not in name.path:
                hint = f"a text needs quotes: '{name.path}'"
            what = f"column {name.column}: '{name.path}' is no key of trial; {hint}"
            raise _Broken(Finding(path, what))
    return expression


def _wrong_names(name: str, raw: object) -> Iterator[Finding]:
    bundle = raw.get("bundle") if isinstance(raw, Mapping) else None
    if bundle is None:
        yield from _no_keys(name, ("space", name))
        return
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        what = "a bundle's name has up to 64 letters, digits, _ and -, a letter first"
        yield Finding(("space", name), what)
    first = (
        next((each for each in bundle if isinstance(each, Mapping)), {})
        if isinstance(bundle, list)
        else {}
    )
    for path in first:
        yield from _no_keys(path, ("space", name, "bundle", 0, path))


def _no_keys(path: str, place: tuple[str | int, ...]) -> Iterator[Finding]:
    known = [leaf for leaf in leaves(TrialSection) if leaf not in FIXED]
    if path in FIXED:
        yield Finding(place, FIXED[path])
    elif path not in known:
        what = f"is no key of trial that can vary; {suggestion(path, known)}"
        yield Finding(place, what)


def _constraints(data: Mapping[str, object], findings: list[Finding]) -> Iterator[Expression]:
    raw = data.get("constraints")
    for place, constraint in enumerate(raw if isinstance(raw, list) else ()):
        if isinstance(constraint, str) and constraint.strip():
            try:
                yield _expression(constraint, ("constraints", place))
            except _Broken as error:
                findings.append(error.finding)


def _given_twice(entries: list[Entry]) -> Iterator[Finding]:
    """Find keys that two entries set; the later of the two is dropped.

    Yields:
        A finding for each key.
    """
    first: dict[str, str] = {}
    for entry in list(entries):
        for path in entry.paths:
            if path in first:
                what = f"{path} is set by space.{first[path]} already; keep one"
                yield Finding(("space", entry.name), what)
                if entry in entries:
                    entries.remove(entry)
            first.setdefault(path, entry.name)


def _circle(entry: Entry, circular: list[Entry]) -> Finding:
    key = "derive" if isinstance(entry, Derived) else "when"
    others = " and ".join(other.name for other in circular if other is not entry)
    what = f"depends on itself, by way of {others}" if others else "depends on itself"
    return Finding(("space", entry.name, key), f"{what}; drop one of the conditions")
