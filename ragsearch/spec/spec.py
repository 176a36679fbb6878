"""A space file that was found right, and what can be asked of it.

In: the validated sections and the space. Out: trials, what they may be, the file written again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

from pydantic import ValidationError

from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec.document import Finding, KeyPath, Places, write_document
from ragsearch.spec.domains import Domain
from ragsearch.spec.environment import escaped
from ragsearch.spec.messages import findings_of
from ragsearch.spec.rescoring import settings_of
from ragsearch.spec.schema import SpaceFile
from ragsearch.spec.space import Space, over
from ragsearch.spec.space_rules import merged
from ragsearch.spec.trial import TrialSection
from ragsearch.spec.uses import without_useless


@dataclass(frozen=True)
class Spec:
    """A space file that was found right: the baseline, and what varies around it."""

    file: SpaceFile
    """The validated file; every path is absolute and the baseline's index is named."""
    space: Space
    """What varies: parameters, computed values, and constraints on them."""
    rescored: Mapping[str, Domain]
    """Dotted path in the trial to what trained models are tried with there."""
    source: Path
    """The file it came from."""
    text: str
    """The contents of that file, without overrides, for the record."""
    places: Places = field(compare=False, repr=False)
    """Lines of the file, for mistakes that later checks find."""

    @property
    def domains(self) -> dict[str, Domain]:
        """What a searcher chooses: dotted path in the trial, or name of a bundle, to domain."""
        return {entry.name: entry.domain for entry in self.space.parameters}

    def look_up(self, path: str) -> object:
        """Return the baseline's value at a dotted path in the trial."""
        value: object = self.file.trial
        for key in path.split("."):
            value = getattr(value, key)
        return value

    def options(self, path: str) -> list[object]:
        """Return what some trial may have at a dotted path, the baseline's value first.

        Of a continuous domain its ends stand for all.
        """
        return [self.look_up(path), *self.space.options(self.look_up, path)]

    def combinations(self, *paths: str) -> list[tuple[object, ...]]:
        """Return what some trial may have at several paths together, the baseline's first."""
        baseline = tuple(map(self.look_up, paths))
        found = {baseline: None}
        for settled in self.space.reachable(self.look_up, paths):
            values = {path: option.value for path, option in settled.items()}
            found[tuple(map(over(values, self.look_up), paths))] = None
        return list(found)

    def rejects(self, values: Mapping[str, object]) -> str | None:
        """Return why a trial is not to be launched, None if nothing is against it.

        Args:
            values: What a searcher proposes, by dotted path.

        Returns:
            The constraint that is broken, as the file has it; or what the trial refuses.
        """
        plain = {path: _python_scalar(value) for path, value in values.items()}
        why = self.space.why_not(over(plain, self.look_up))
        if why is not None:
            return why
        try:
            self.trial_with(plain)
        except BadInputError as error:
            return str(error.mistakes[0])
        return None

    def acceptance(self, n: int = 1000) -> float:
        """Return the share of random proposals that constraints accept, the same each time.

        Args:
            n: Proposals to draw; each takes a tenth of a millisecond.
        """
        return sum(self.rejects(values) is None for values in self.drawn(n)) / n

    def drawn(self, n: int) -> Iterator[dict[str, object]]:
        """Draw random proposals, the same each time, whether or not constraints accept them.

        Yields:
            Values by dotted path.
        """
        random = Random(self.file.seed)  # noqa: S311 - no secret
        for _ in range(n):
            yield self.space.resolve(self.look_up, lambda entry: entry.domain.sample(random))

    def trial_with(self, overrides: Mapping[str, object]) -> TrialSection:
        """Return the baseline with other values at dotted paths, validated again.

        What is derived is computed from them, unless it is among them. What the trial has no
        use for then, such as a question encoder without retrieval, is left out.

        Args:
            overrides: Dotted path in the trial to value; numpy scalars become Python's.

        Raises:
            BadInputError: If the trial refuses a value or has no such key.
        """
        values = {path: _python_scalar(value) for path, value in overrides.items()}
        values = self.space.derived(over(values, self.look_up)) | values
        return with_values(self.file.trial, values)

    def resolved(self) -> dict[str, object]:
        """Return the whole file as plain data: defaults filled in, paths absolute."""
        plain = self.file.model_dump(mode="json", exclude={"extends"})
        plain["space"] = {entry.name: entry.to_plain() for entry in self.space.entries}
        plain["rescore"] = {path: domain.to_plain() for path, domain in self.rescored.items()}
        return plain

    def to_yaml(self) -> str:
        """Return `resolved()` as a space file that `load_spec` reads as the same spec."""
        return write_document(cast("dict[str, object]", escaped(self.resolved())))

    @property
    def rescore_settings(self) -> list[dict[str, object]]:
        """Every combination of values, by dotted path, that trained models are tried with."""
        return settings_of(self.rescored)

    @property
    def used_indexes(self) -> list[str]:
        """Names of the indexes that some trial can ask for, in the order of the file."""
        asked = self.options("retrieval.index")
        return [name for name in self.file.indexes if name in asked]

    @property
    def digest(self) -> str:
        """SHA-256 of `resolved()` as canonical JSON, in hexadecimal."""
        text = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def mistake(self, path: str | KeyPath, what: str) -> Mistake:
        """Return a mistake with the line of a key, for checks that read more than the file.

        Args:
            path: `"indexes.kb.corpus"`; as parts where a key has dots itself:
                `("space", "retrieval.n_docs")`.
            what: What is wrong and what to do.
        """
        parts = tuple(path.split(".")) if isinstance(path, str) else path
        return self.places.mistake(Finding(parts, what))


def with_values(trial: TrialSection, overrides: Mapping[str, object]) -> TrialSection:
    """Return a trial with other values at dotted paths, validated again.

    Args:
        trial: The configuration.
        overrides: As of `Spec.trial_with`.

    Raises:
        BadInputError: If the trial refuses a value or has no such key.
    """
    values = {path: _python_scalar(value) for path, value in overrides.items()}
    try:
        changed = without_useless(merged(trial.model_dump(), values))
        return TrialSection.model_validate(changed)
    except ValidationError as error:
        findings = findings_of(error, TrialSection)
        mistakes = [Mistake("", _in_trial(one.path), one.what) for one in findings]
        raise BadInputError(mistakes) from error


def _in_trial(path: KeyPath) -> str:
    return ".".join(("trial", *map(str, path)))


def _python_scalar(value: object) -> object:
    item = getattr(value, "item", None)
    return cast("object", item()) if callable(item) else value
