"""A space file from disk to a frozen `Spec`, or every mistake in it at once.

In: a path and overrides. Out: a `Spec`. Reads the space file, `config.json` of local models and
`manifest.json` of index folders; of data and corpora only whether they exist
(`ragsearch.data.check` reads them).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec.document import (
    Document,
    Finding,
    KeyPath,
    Places,
    read_document,
    write_document,
)
from ragsearch.spec.domains import Choice, Domain, Ordinal
from ragsearch.spec.draft import Draft, draft_of, override
from ragsearch.spec.folders import fill_from_folders
from ragsearch.spec.messages import findings_of
from ragsearch.spec.paths import resolve_paths
from ragsearch.spec.rescoring import combinations, rescore_domains
from ragsearch.spec.rules import broken_rules, merged
from ragsearch.spec.schema import SpaceFile
from ragsearch.spec.trial import TrialSection
from ragsearch.spec.uses import reads_passages, without_useless


@dataclass(frozen=True)
class Spec:
    """A space file that was found right: the baseline, and what varies around it."""

    file: SpaceFile
    """The validated file; every path is absolute and the baseline's index is named."""
    domains: Mapping[str, Domain]
    """Dotted path in the trial to what may stand there, in the order of the file."""
    rescored: Mapping[str, Domain]
    """The same of what trained models are tried with."""
    source: Path
    """The file it came from."""
    text: str
    """The contents of that file, without overrides, for the record."""
    places: Places = field(compare=False, repr=False)
    """Lines of the file, for mistakes that later checks find."""

    def trial_with(self, overrides: Mapping[str, object]) -> TrialSection:
        """Return the baseline with other values at dotted paths, validated again.

        What it has no use for then, such as a question encoder without retrieval, is left out.

        Args:
            overrides: Dotted path in the trial to value; numpy scalars become Python's.

        Raises:
            BadInputError: If the trial refuses a value or has no such key.
        """
        return with_values(self.file.trial, overrides)

    def resolved(self) -> dict[str, object]:
        """Return the whole file as plain data: defaults filled in, paths absolute."""
        plain = self.file.model_dump(mode="json")
        plain["space"] = {path: domain.to_plain() for path, domain in self.domains.items()}
        plain["rescore"] = {path: domain.to_plain() for path, domain in self.rescored.items()}
        return plain

    def to_yaml(self) -> str:
        """Return `resolved()` as a space file that `load_spec` reads as the same spec."""
        return write_document(self.resolved())

    @property
    def rescore_settings(self) -> list[dict[str, object]]:
        """Every combination of values, by dotted path, that trained models are tried with."""
        return combinations(self.rescored)

    @property
    def used_indexes(self) -> list[str]:
        """Names of the indexes that some trial can ask for, in the order of the file."""
        domain = self.domains.get("retrieval.index")
        options = domain.options if isinstance(domain, Choice | Ordinal) else ()
        asked = {self.file.trial.retrieval.index, *options}
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
        mistakes = [Mistake("", _in_trial(path), what) for path, what, _ in findings]
        raise BadInputError(mistakes) from error


def load_spec(path: Path | str, overrides: Sequence[str] = ()) -> Spec:
    """Read and check a space file.

    Args:
        path: A YAML file; paths in it, and in overrides, are relative to its folder.
        overrides: Each `dotted.key=value`, the value in YAML, as `-o` gives them.

    Returns:
        The spec, right in every way that the file and its neighbours can tell.

    Raises:
        BadInputError: With every mistake, ordered by line.
    """
    text = _read_text(Path(path))
    document = override(read_document(text, str(path)), overrides)
    resolve_paths(document.data, Path(path).absolute().parent)
    fill_from_folders(document.data)
    draft = draft_of(document)
    _name_the_only_index(draft)
    mistakes = document.places.mistakes(_all_findings(document, draft))
    if mistakes:
        raise BadInputError(mistakes)
    file = SpaceFile.model_validate(draft.data)
    return Spec(
        file=file,
        domains=draft.domains,
        rescored=rescore_domains(draft),
        source=Path(path).absolute(),
        text=text,
        places=document.places,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        what = "no such space file; `ragsearch init` writes one to start from"
        raise BadInputError([Mistake(str(path), "", what)]) from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        raise BadInputError([Mistake(str(path), "", what)]) from error
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise BadInputError([Mistake(str(path), "", what)]) from error


def _all_findings(document: Document, draft: Draft) -> Iterator[Finding]:
    yield from document.findings
    try:
        SpaceFile.model_validate(draft.data)
    except ValidationError as error:
        yield from findings_of(error, SpaceFile)
    yield from broken_rules(draft)


def _name_the_only_index(draft: Draft) -> None:
    names = draft.names("indexes")
    trial = draft.data.get("trial")
    if len(names) != 1 or not isinstance(trial, dict) or not reads_passages(draft):
        return
    retrieval = trial.setdefault("retrieval", {})
    if isinstance(retrieval, dict) and retrieval.get("index", "") == "":
        retrieval["index"] = names[0]


def _in_trial(path: KeyPath) -> str:
    return ".".join(("trial", *map(str, path)))


def _python_scalar(value: object) -> object:
    item = getattr(value, "item", None)
    return cast("object", item()) if callable(item) else value
