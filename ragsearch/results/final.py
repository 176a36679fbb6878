"""The final comparison of a search as table and sentences; `final` on one that has ended."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ragsearch.errors import BadInputError, SearchInterruptedError
from ragsearch.index.open import open_index
from ragsearch.search.afterwards import BASELINE
from ragsearch.search.agree import other_models
from ragsearch.search.cluster import prepare
from ragsearch.search.comparison import Comparison, compare
from ragsearch.search.inputs import model_digests
from ragsearch.search.lock import locked
from ragsearch.search.record import SearchRecord, Status
from ragsearch.spec import Spec, load_spec
from ragsearch.spec.schema import FinalSection

log = logging.getLogger(__name__)

_MAY_CHANGE = ("final", "data.test", "data.n_test", "budget.disk", "resources", "pool")
"""Keys of a search that its final runs may have otherwise."""


def run_final_of(record: SearchRecord, overrides: Sequence[str] = ()) -> Comparison:
    """Train the best trials of a search that has ended with new seeds, score and compare them.

    What an earlier call finished is not done again.

    Args:
        record: Of the search; filled and saved.
        overrides: As of `load_spec`: `final.top_k=5`, `data.test=...`.

    Returns:
        The comparison.

    Raises:
        BadInputError: If there is no test file, or the search cannot be gone on with.
        DiskFullError: If the disk is full; what was finished is kept.
        SearchInterruptedError: If the user stopped it; what was finished is kept.
    """
    spec = _spec_of(record, overrides)
    if changed := [*other_models(record, model_digests(spec))]:
        raise BadInputError(changed)
    prepare(spec.file.resources.cluster)
    from ragsearch.search.launch import run_final_alone  # imports Ray, which reads what was set

    indexes = {name: open_index(Path(used.folder)) for name, used in record.indexes.items()}
    for name, index in indexes.items():
        if index.manifest.fingerprint != record.indexes[name].fingerprint:
            what = f"is not the index {name!r} of the search any more; build that one again"
            raise BadInputError.single(index.folder, what)
    with locked(record.folder):
        try:
            tokens = record.folder.parent / "tokens"
            interrupted = run_final_alone(spec, record, indexes, tokens)
        finally:
            record.save()
    comparison = compare(record)
    if interrupted:
        raise SearchInterruptedError(
            f"the final runs of {record.search} were interrupted; `ragsearch final "
            f"{record.search}` goes on with them"
        )
    if comparison is None:
        reasons = "; ".join(sorted({run.reason for run in record.final if run.reason}))
        raise BadInputError.single(record.folder, f"no final run could be scored: {reasons}")
    return comparison


def _spec_of(record: SearchRecord, overrides: Sequence[str]) -> Spec:
    """Return the search as it was run, with what may change changed."""
    if record.status is Status.RUNNING or not record.ranked():
        what = "has no ended search with a feasible trial; see `ragsearch trials`"
        raise BadInputError.single(record.folder, what)
    for text in overrides:
        key = text.partition("=")[0]
        if not any(key == known or key.startswith(f"{known}.") for known in _MAY_CHANGE):
            what = f"the search has ended; what can be set is {', '.join(_MAY_CHANGE)}"
            raise BadInputError.single(f"-o {key}", what)
        if key.startswith("data.") and any(run.test for run in record.final):
            what = "final runs were scored on test questions already, and others would not do"
            raise BadInputError.single(f"-o {key}", what)
    file = record.folder / "resolved.json"
    resolved = json.loads(file.read_text(encoding="utf-8"))
    given = [] if resolved.get("final") else [f"final={json.dumps(_defaults())}"]
    return load_spec(file, [*given, *overrides])


def _defaults() -> dict[str, object]:
    return FinalSection().model_dump(mode="json")


def final_rows(comparison: Comparison) -> list[dict[str, object]]:
    """Return one row a finalist for people, the winner first."""
    return [
        {
            "trial": "0 (baseline)" if one.trial == BASELINE else one.trial,
            "seeds": one.n_seeds,
            comparison.metric.replace("test/", "val/"): one.val,
            comparison.metric: one.test.value,
            "95 % interval": f"{one.test.low:.4g} to {one.test.high:.4g}",
        }
        for one in comparison.finalists
    ]


def final_lines(comparison: Comparison) -> list[str]:
    """Return what the comparison comes to, in sentences."""
    seeds = ", ".join(map(str, comparison.seeds))
    lines = [
        f"final   {comparison.n_questions} test questions, seeds {seeds}; paired bootstrap",
        *(f"        {difference.verdict}" for difference in comparison.differences),
    ]
    if len(comparison.seeds) == 1:
        lines.append("        one seed says nothing of chance in training; give three")
    return lines + [f"        left out: {one}" for one in comparison.left_out]
