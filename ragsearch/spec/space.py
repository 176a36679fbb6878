"""What varies in a search, as a whole: parameters, conditions, computed values, constraints.

In: parsed entries of `space`, and a way to look up the baseline. Out: the values of a trial
for any choice of its parameters, and what several keys may be together. Knows no searchers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ragsearch.spec.document import KeyPath
from ragsearch.spec.domains import Bundle, Domain, identity
from ragsearch.spec.expressions import Expression, Lookup
from ragsearch.spec.grammar import ExpressionError

MAX_COMBINATIONS = 2000  # 0.1 s to validate a trial with each


class Option(NamedTuple):
    """A value that a key of the trial may take, and the key that says so."""

    path: KeyPath
    value: object


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something a searcher chooses: a key of the trial, or a bundle of them."""

    name: str
    """Dotted path in the trial; of a bundle its name."""
    domain: Domain
    when: Expression | None = None
    """What must hold for it to vary; else the baseline's value stays. None: it always does."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Keys of the trial that it sets."""
        return self.domain.paths if isinstance(self.domain, Bundle) else (self.name,)

    @property
    def needs(self) -> frozenset[str]:
        """Keys of the trial whose values decide whether it varies."""
        return self.when.paths if self.when else frozenset()

    def spread(self, value: object) -> dict[str, object]:
        """Return what a value of the domain gives to each key."""
        if isinstance(self.domain, Bundle):
            assert isinstance(value, tuple), f"{self.name}: an option has a value for each key"
            return dict(zip(self.paths, value, strict=True))
        return {self.name: value}

    def gathered(self, lookup: Lookup) -> object:
        """Return the value of the domain that keys have: of a bundle a tuple."""
        values = tuple(map(lookup, self.paths))
        return values if isinstance(self.domain, Bundle) else values[0]

    def matching(self, point: Mapping[str, object]) -> list[tuple[object, ...]]:
        """Return the options of a bundle that agree with a point; none if it names no key."""
        given = [(place, path) for place, path in enumerate(self.paths) if path in point]
        if not given or not isinstance(self.domain, Bundle):
            return []
        return [
            option
            for option in self.domain.options
            if all(identity(option[place]) == identity(point[path]) for place, path in given)
        ]

    def options(self, n: int | None = None) -> Iterator[dict[str, Option]]:
        """Give what its keys may be, for `n` values of the domain that stand for all.

        Yields:
            An option for each key.
        """
        probes: Sequence[object] = self.domain.probes()
        for place, value in enumerate(probes):
            if n is None or _is_kept(place, len(probes), n):
                yield {
                    path: Option(self._key(path, place), inner)
                    for path, inner in self.spread(value).items()
                }

    def _key(self, path: str, place: int) -> KeyPath:
        inner = ("bundle", place, path) if isinstance(self.domain, Bundle) else ()
        return ("space", self.name, *inner)

    def to_plain(self) -> dict[str, object]:
        """Return the entry as `space` writes it."""
        condition = {"when": self.when.text} if self.when else {}
        return self.domain.to_plain() | condition


@dataclass(frozen=True, slots=True)
class Derived:
    """A key of the trial that is computed from others."""

    name: str
    """Its dotted path in the trial."""
    expression: Expression

    @property
    def paths(self) -> tuple[str, ...]:
        """The key it sets."""
        return (self.name,)

    @property
    def needs(self) -> frozenset[str]:
        """Keys of the trial it is computed from."""
        return self.expression.paths

    def to_plain(self) -> dict[str, object]:
        """Return the entry as `space` writes it."""
        return {"derive": self.expression.text}


Entry = Parameter | Derived


def in_order(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Sort entries so that each comes after those it needs, else as they are.

    Returns:
        The sorted ones, and those that wait for each other in a circle or for such.
    """
    left, done = list(entries), list[Entry]()
    while left:
        waiting = {path for entry in left for path in entry.paths}
        ready = next((entry for entry in left if not entry.needs & waiting), None)
        if ready is None:
            break
        left.remove(ready)
        done.append(ready)
    return done, left


@dataclass(frozen=True)
class Space:
    """Everything that varies, in an order in which it can be settled."""

    entries: tuple[Entry, ...] = ()
    constraints: tuple[Expression, ...] = ()
    """What must hold for a trial to be launched."""

    @property
    def parameters(self) -> list[Parameter]:
        """Those of the entries that a searcher chooses."""
        return [entry for entry in self.entries if isinstance(entry, Parameter)]

    @property
    def paths(self) -> list[str]:
        """Keys of the trial that are not the same in all trials."""
        return [path for entry in self.entries for path in entry.paths]

    def resolve(
        self, baseline: Lookup, choose: Callable[[Parameter], object]
    ) -> dict[str, object]:
        """Settle the values of a trial.

        Args:
            baseline: Gives the baseline's value of a key.
            choose: Gives a value of a parameter's domain; asked only for what varies under the
                values settled before.

        Returns:
            Every value that is not the baseline's by rule, by dotted path in the trial. What
            has no value, as an expression divides by zero, is left out: `why_not` tells.
        """
        values: dict[str, object] = {}
        lookup = over(values, baseline)
        for entry in self.entries:
            try:
                if isinstance(entry, Derived):
                    values[entry.name] = entry.expression.scalar(lookup)
                elif entry.when is None or entry.when.holds(lookup):
                    values |= entry.spread(choose(entry))
            except ExpressionError:
                continue
        return values

    def chosen(self, baseline: Lookup, point: Mapping[str, object]) -> dict[str, object]:
        """Return what a searcher would have chosen to come to a point.

        Args:
            baseline: Gives the baseline's value of a key.
            point: Values by dotted path; the rest is as in the baseline.

        Returns:
            A value for each parameter that varies there, by name: of a bundle a tuple. It need
            not lie in its domain.
        """
        lookup = over(point, baseline)
        found: dict[str, object] = {}

        def choose(parameter: Parameter) -> object:
            found[parameter.name] = parameter.gathered(lookup)
            return found[parameter.name]

        self.resolve(baseline, choose)
        return found

    def completed(self, point: Mapping[str, object]) -> dict[str, object]:
        """Return a point with all keys of bundles of which it names an option by some."""
        full = dict(point)
        for entry in self.parameters:
            options = entry.matching(point)
            if len(options) == 1:
                full |= entry.spread(options[0])
        return full

    def derived(self, lookup: Lookup) -> dict[str, object]:
        """Compute what is derived, by dotted path; what has no value is left out."""
        fixed = Space(tuple(entry for entry in self.entries if isinstance(entry, Derived)))
        return fixed.resolve(lookup, lambda entry: entry.gathered(lookup))

    def options(self, baseline: Lookup, path: str) -> list[object]:
        """Return what the space gives to a key in some trial, values standing for all."""
        for entry in self.entries:
            if path in entry.paths and isinstance(entry, Parameter):
                return [option[path].value for option in entry.options()]
            if path in entry.paths:
                reachable = self.reachable(baseline, [path])
                return [option[path].value for option in reachable if path in option]
        return []

    def why_not(self, lookup: Lookup) -> str | None:
        """Return what is against launching a trial, None if nothing is.

        Args:
            lookup: Gives the trial's value of a key.
        """
        for entry in self.entries:
            condition = entry.expression if isinstance(entry, Derived) else entry.when
            try:
                if isinstance(entry, Derived):
                    entry.expression.scalar(lookup)
                elif entry.when:
                    entry.when.holds(lookup)
            except ExpressionError as error:
                assert condition is not None
                return f"{condition.text}: {error}"
        return self.broken(lookup)

    def broken(self, lookup: Lookup) -> str | None:
        """Return the first constraint that a trial breaks, None if it breaks none."""
        for constraint in self.constraints:
            try:
                if not constraint.holds(lookup):
                    return constraint.text
            except ExpressionError as error:
                return f"{constraint.text}: {error}"
        return None

    def reachable(self, baseline: Lookup, paths: Iterable[str]) -> Iterator[dict[str, Option]]:
        """Give what keys can be together in some trial, values of domains standing for all.

        Conditions are followed and constraints kept, so that nothing is given that no trial
        has; of continuous domains only the ends are tried.

        Args:
            baseline: Gives the baseline's value of a key.
            paths: The keys that are asked for.

        Yields:
            An option for each key that differs from the baseline, those it depends on included.
        """
        wanted = set(paths)
        touched = wanted | self.above(wanted)
        wanted |= {
            path for one in self.constraints if one.paths & touched for path in one.paths
        }
        wanted |= self.above(wanted)
        entries = [entry for entry in self.entries if wanted & set(entry.paths)]
        known = {path for entry in entries for path in entry.paths} | wanted
        within = Space((), tuple(one for one in self.constraints if one.paths <= known))
        for settled in _settled(entries, baseline, {}, _n_each(entries)):
            lookup = over({path: option.value for path, option in settled.items()}, baseline)
            if within.broken(lookup) is None:
                yield settled

    def above(self, paths: Iterable[str]) -> set[str]:
        """Return keys that decide about others, by a condition or as they are computed from.

        Those that are set together with them are among them, and so are they themselves, if
        they vary.
        """
        asked = set(paths)
        found: set[str] = set()
        for entry in reversed(self.entries):
            if set(entry.paths) & (asked | found):
                found |= {*entry.paths, *entry.needs}
        return found


def over(values: Mapping[str, object], baseline: Lookup) -> Lookup:
    """Return a way to look keys up in values first, then in the baseline."""
    return lambda path: values[path] if path in values else baseline(path)


def _settled(
    entries: Sequence[Entry],
    baseline: Lookup,
    settled: dict[str, Option],
    n_each: Mapping[str, int],
) -> Iterator[dict[str, Option]]:
    if not entries:
        yield settled
        return
    lookup = over({path: option.value for path, option in settled.items()}, baseline)
    for way in _ways(entries[0], lookup, n_each):
        yield from _settled(entries[1:], baseline, settled | way, n_each)


def _ways(
    entry: Entry, lookup: Lookup, n_each: Mapping[str, int]
) -> Iterator[dict[str, Option]]:
    try:
        if isinstance(entry, Derived):
            value = entry.expression.scalar(lookup)
            yield {entry.name: Option(("space", entry.name, "derive"), value)}
            return
        varies = entry.when is None or entry.when.holds(lookup)
    except ExpressionError:
        varies = False
    if isinstance(entry, Parameter) and varies:
        yield from entry.options(n_each[entry.name])
    else:
        yield {}


def _n_each(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many values of each parameter are tried, so that there are not too many."""
    n_each = {
        entry.name: len(entry.domain.probes())
        for entry in entries
        if isinstance(entry, Parameter)
    }
    n_all = 1
    for n in n_each.values():
        n_all *= n
    while n_all > MAX_COMBINATIONS:
        largest = max(n_each, key=lambda name: n_each[name])
        if n_each[largest] <= 2:  # noqa: PLR2004 - the ends are always tried
            break
        n_all = n_all // n_each[largest] * ((n_each[largest] + 1) // 2)
        n_each[largest] = (n_each[largest] + 1) // 2
    return n_each


def _is_kept(place: int, n_all: int, n: int) -> bool:
    """Tell whether a value is among `n` that are spread over all, the ends among them."""
    if n >= n_all:
        return True
    return place in {round(i * (n_all - 1) / (n - 1)) for i in range(n)}
