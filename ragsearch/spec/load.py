"""A space file from disk to a frozen `Spec`, or every mistake in it at once.

In: a path and overrides. Out: a `Spec`. Reads the space file, `config.json` of local models and
`manifest.json` of index folders; of data and corpora only whether they exist
(`ragsearch.data.check` reads them).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec.document import Document, Finding
from ragsearch.spec.draft import Draft, draft_of, override
from ragsearch.spec.extends import read_extended, read_text
from ragsearch.spec.folders import fill_from_folders
from ragsearch.spec.messages import findings_of
from ragsearch.spec.paths import resolve_paths
from ragsearch.spec.rescoring import rescore_domains
from ragsearch.spec.rules import broken_rules
from ragsearch.spec.schema import SpaceFile
from ragsearch.spec.space_rules import merged, refusals
from ragsearch.spec.spec import Spec
from ragsearch.spec.uses import reads_passages

N_TRIED = 10_000  # a searcher asks again some hundred times at most: one in this many is none


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
    path = Path(path)
    absent = "no such space file; `ragsearch init` writes one to start from"
    text = read_text(path, Mistake(str(path), "", absent))
    document = override(read_extended(text, path), overrides)
    resolve_paths(document.data, path.absolute().parent)
    fill_from_folders(document.data)
    draft = draft_of(document)
    _name_the_only_index(draft)
    _fill_derived(draft)
    mistakes = document.places.mistakes(_all_findings(document, draft))
    if mistakes:
        raise BadInputError(mistakes)
    file = SpaceFile.model_validate(draft.data)
    spec = Spec(
        file=file,
        space=draft.space,
        rescored=rescore_domains(draft),
        source=path.absolute(),
        text=text,
        places=document.places,
    )
    _require_feasible(spec)
    return spec


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


def _fill_derived(draft: Draft) -> None:
    """Give the baseline what is derived, where the file says nothing of it."""
    trial = draft.data.get("trial")
    for path, value in draft.space.derived(draft.look_up).items():
        section, *between, key = path.split(".")
        here = trial
        for name in (section, *between):
            here = here.setdefault(name, {}) if isinstance(here, dict) else None
        if isinstance(here, dict) and path not in refusals(merged(trial, {path: value})):
            here.setdefault(key, value)


def _require_feasible(spec: Spec) -> None:
    """Refuse constraints that no proposal can be expected to fulfil."""
    if not spec.space.constraints:
        return
    if all(spec.rejects(values) is not None for values in spec.drawn(N_TRIED)):
        what = f"none of {N_TRIED} random proposals fulfils them; relax one, or narrow domains"
        raise BadInputError([spec.mistake("constraints", what)])
