"""A space file before it is known to be right: its data, places and domains.

In: a `Document` and overrides. Out: a `Draft` that `rules` and `models` look values up in,
whatever else is wrong with the file, so that all mistakes are found at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from typing_extensions import TypeIs

from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec.document import Document, Finding, KeyPath, Places, parse_value
from ragsearch.spec.domains import Domain
from ragsearch.spec.environment import expand_all
from ragsearch.spec.keys import field_at
from ragsearch.spec.schema import SpaceFile
from ragsearch.spec.space import Entry, Option, Parameter, Space
from ragsearch.spec.space_parser import read_space


@dataclass(frozen=True, slots=True)
class Draft:
    """Plain data of a space file, not yet validated."""

    data: dict[str, object]
    places: Places
    space: Space
    """What could be read of what varies."""
    findings: tuple[Finding, ...] = ()
    """What could not."""

    def value(self, *path: str) -> object:
        """Return what the file gives at a path, else the default, else None."""
        here: object = self.data
        for part in path:
            if not isinstance(here, Mapping) or part not in here:
                return default_of(path)
            here = here[part]
        return here

    def names(self, *path: str) -> list[str]:
        """Return the keys of the mapping at a path; none where there is no mapping."""
        here = self.value(*path)
        return [str(key) for key in here] if isinstance(here, Mapping) else []

    def baseline(self, dotted_path: str) -> Option:
        """Return what the baseline gives to a key of the trial."""
        parts = ("trial", *dotted_path.split("."))
        return Option(parts, self.value(*parts))

    @property
    def domains(self) -> dict[str, Domain]:
        """What a searcher chooses, by name."""
        return {parameter.name: parameter.domain for parameter in self.space.parameters}

    def look_up(self, dotted_path: str) -> object:
        """Return the baseline's value of a key of the trial."""
        return self.value("trial", *dotted_path.split("."))

    def entry(self, dotted_path: str) -> Entry | None:
        """Return what sets a key of the trial, None if it does not vary."""
        entries = (entry for entry in self.space.entries if dotted_path in entry.paths)
        return next(entries, None)

    def varied(self, dotted_path: str) -> list[Option]:
        """Return what the space gives to a key of the trial; nothing if it does not vary."""
        entry = self.entry(dotted_path)
        if isinstance(entry, Parameter):
            return [option[dotted_path] for option in entry.options()]
        reachable = self.space.reachable(self.look_up, [dotted_path]) if entry else ()
        return list(
            dict.fromkeys(option[dotted_path] for option in reachable if dotted_path in option)
        )

    def options(self, dotted_path: str) -> list[Option]:
        """Return every value that some trial may give to a key."""
        return [self.baseline(dotted_path), *self.varied(dotted_path)]

    def combinations(self, *dotted_paths: str) -> Iterator[tuple[Option, ...]]:
        """Give what keys may be together: the baseline's values, then those of the space.

        Yields:
            One option for each path.
        """
        baseline = tuple(self.baseline(path) for path in dotted_paths)
        yield baseline
        given = {repr(baseline)}  # what is wrong yet may be a list, which no set holds
        for settled in self.space.reachable(self.look_up, dotted_paths):
            options = tuple(settled.get(path, self.baseline(path)) for path in dotted_paths)
            if repr(options) not in given:
                given.add(repr(options))
                yield options


def default_of(path: KeyPath) -> object:
    """Return the default of a key; None where it is required, or no key."""
    field = field_at(SpaceFile, path)
    if field is None or field.is_required():
        return None
    return field.get_default(call_default_factory=True)


def is_count(value: object) -> TypeIs[int]:
    """Return whether a value of a draft is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def draft_of(document: Document) -> Draft:
    """Return the draft of a document; what cannot be read of its space is left to `rules`."""
    read = read_space(document.data)
    return Draft(document.data, document.places, read.space, read.findings)


def override(document: Document, overrides: Sequence[str]) -> Document:
    """Set keys of a document as `-o dotted.key=value` asks.

    After `space.` and `rescore.` the rest of the key is one key:
    `-o space.retrieval.n_docs={int: [1, 9]}`.

    Args:
        document: What the file says; it is left as it is.
        overrides: Each `dotted.key=value`, the value in YAML.

    Returns:
        The document with the new values and their places.

    Raises:
        BadInputError: If an override has no key, no YAML value or nowhere to stand.
    """
    data = deepcopy(document.data)
    mistakes: list[Mistake] = []
    options: list[KeyPath] = []
    for text in overrides:
        try:
            options.append(_apply(data, text))
        except BadInputError as error:
            mistakes += error.mistakes
    if mistakes:
        raise BadInputError(mistakes)
    return replace(document, data=data, places=replace(document.places, options=tuple(options)))


def _apply(data: dict[str, object], text: str) -> KeyPath:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise BadInputError([Mistake(f"-o {text}", "", "must read dotted.key=value")])
    try:
        parsed = parse_value(value)
    except BadInputError as error:
        raise BadInputError([Mistake(f"-o {key}", "", error.mistakes[0].what)]) from error
    head, _, rest = key.partition(".")
    is_path = head in {"space", "rescore"} and rest
    names = [head, rest] if is_path else key.split(".")
    holder = {names[-1]: parsed}
    for finding in expand_all(holder, tuple(names[:-1])):
        raise BadInputError([Mistake(f"-o {key}", "", finding.what)])
    return _set(data, names, holder[names[-1]], f"-o {key}")


def _set(data: dict[str, object], names: list[str], value: object, place: str) -> KeyPath:
    here: object = data
    path: KeyPath = ()
    for position, name in enumerate(names):
        step = _step(here, name)
        if step is None:
            what = f"'{'.'.join(names[:position])}' holds no keys; set it as a whole"
            raise BadInputError([Mistake(place, "", what)])
        path = (*path, step)
        if position == len(names) - 1:
            is_dropped = names[0] == "space" and len(names) > 1 and value is None
            if is_dropped and isinstance(here, dict) and name in here:
                del here[name]  # no longer varies
                break
            here[step] = value  # type: ignore[index]
        elif isinstance(here, dict):
            here = here.setdefault(step, {})
        else:
            here = here[step]  # type: ignore[index]
    return path


def _step(here: object, name: str) -> str | int | None:
    if isinstance(here, dict):
        return name
    is_position = isinstance(here, list) and name.isdecimal() and int(name) < len(here)
    return int(name) if is_position else None
