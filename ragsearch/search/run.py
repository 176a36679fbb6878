"""A whole search: build what is missing, run every trial, keep the record.

The driver does what trials must not do each for themselves: it builds the indexes, starts the
pools, opens MLflow. Trials are told names only.
"""

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ragsearch.data.check import check_inputs
from ragsearch.errors import EveryTrialFailedError, SearchInterruptedError
from ragsearch.index.build import build_index
from ragsearch.index.fingerprint import index_fingerprint
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.search.cluster import prepare
from ragsearch.search.plan import make_plan
from ragsearch.search.record import SearchRecord, Status, UsedIndex
from ragsearch.search.tokens import Progress, tokenise_passages
from ragsearch.spec import Spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """A search that has ended."""

    record: SearchRecord

    @property
    def search(self) -> str:
        """Name of the search, as `trials` and `export` take it."""
        return self.record.search

    @property
    def folder(self) -> Path:
        """Folder of the search."""
        return self.record.folder


def run_search(
    spec: Spec, *, output: Path = Path("runs"), progress: Progress | None = None
) -> SearchResult:
    """Run every trial of a space file and give the record of what came of them.

    Args:
        spec: A loaded space file.
        output: Folder for searches and indexes.
        progress: Shows how far an index is built, and its passages are tokenised.

    Returns:
        The finished search, its record also on disk.

    Raises:
        BadInputError: If data, models or resources do not fit the space file.
        ClusterUnavailableError: If Ray cannot be started or joined.
        EveryTrialFailedError: If no trial reported its objective.
        PoolUnavailableError: If the index cannot be served.
        SearchInterruptedError: If the user stopped it; finished trials are kept.
    """
    prepare(spec.file.resources.cluster)
    from ragsearch.search.launch import run_trials  # imports Ray, which reads what was prepared

    for line in make_plan(spec, check_inputs(spec)).lines():
        log.info("%s", line)
    indexes = build_indexes(spec, output, progress)
    tokens = tokenise_passages(spec, indexes, output, progress)
    record = _open_record(spec, indexes, output)
    started = time.monotonic()
    try:
        run_trials(spec, record, indexes, tokens)
    except KeyboardInterrupt:
        record.status = Status.INTERRUPTED
        raise
    finally:
        record.wall_s = time.monotonic() - started
        if record.status is Status.RUNNING:
            record.status = Status.FAILED
        record.save()
    _check_outcome(record)
    return SearchResult(record)


def index_folder(output: Path, fingerprint: str) -> Path:
    """Give the place of an index among the searches of an output folder."""
    return output.resolve() / "indexes" / fingerprint[:16]


def build_indexes(
    spec: Spec, output: Path, progress: Progress | None = None
) -> dict[str, PassageIndex]:
    """Build the indexes that are not there yet, and open all that trials can ask for."""
    opened = {}
    for name in spec.used_indexes:
        settings = spec.file.indexes[name]
        if settings.folder is not None:
            opened[name] = open_index(Path(settings.folder))
        else:
            folder = index_folder(output, index_fingerprint(settings))
            folder.parent.mkdir(parents=True, exist_ok=True)
            with nullcontext() if progress is None else progress(f"index {name}") as report:
                opened[name] = build_index(settings, folder, report=report)
        manifest = opened[name].manifest
        log.info(
            "index %s: %d passages of %d dimensions, fingerprint %s",
            name, manifest.n_passages, manifest.dimension, manifest.fingerprint[:16],
        )  # fmt: skip
    return opened


def _open_record(spec: Spec, indexes: dict[str, PassageIndex], output: Path) -> SearchRecord:
    now = datetime.now().astimezone()
    folder = _new_folder(output.resolve(), f"{spec.file.name}-{now:%Y%m%d-%H%M%S}")
    (folder / "space.yaml").write_text(spec.text)
    (folder / "resolved.json").write_text(json.dumps(spec.resolved(), indent=2) + "\n")
    objective = spec.file.objectives[0]
    record = SearchRecord(
        folder=folder,
        name=spec.file.name,
        metric=objective.metric,
        goal=objective.goal,
        indexes={
            name: UsedIndex(str(index.folder), index.manifest.fingerprint)
            for name, index in indexes.items()
        },
        tracking_uri=spec.file.tracking.uri,
        rung_examples=spec.file.search.scheduler.rung_examples,
        started=now.isoformat(timespec="seconds"),
    )
    record.save()
    log.info("search %s", record.search)
    return record


def _new_folder(output: Path, name: str) -> Path:
    """Make a folder nobody has; two searches may start in the same second."""
    folder, number = output / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = output / f"{name}-{number}"
        else:
            return folder


def _check_outcome(record: SearchRecord) -> None:
    if record.status is Status.INTERRUPTED:
        what = f"search {record.search} was interrupted; see `ragsearch trials {record.search}`"
        raise SearchInterruptedError(what)
    if not record.ranked():
        reasons = {trial.reason for trial in record.trials.values() if trial.reason}
        why = "; ".join(sorted(reasons))
        what = f"every trial of {record.search} failed or is infeasible: {why}"
        raise EveryTrialFailedError(what)
