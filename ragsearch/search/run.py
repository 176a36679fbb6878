"""A whole search: build what is missing, run every trial, keep the record.

The driver does what trials must not do each for themselves: it builds the indexes, starts the
pools, opens MLflow. Trials are told names only.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from ragsearch.data.check import check_inputs
from ragsearch.errors import (
    EveryTrialFailedError,
    SearchInterruptedError,
    TooManyFailedError,
)
from ragsearch.index.build import build_index
from ragsearch.index.fingerprint import index_fingerprint
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.search.agree import agreed_spec, keep_resolved
from ragsearch.search.cluster import prepare
from ragsearch.search.ending import is_disk_full
from ragsearch.search.inputs import data_digests, model_digests
from ragsearch.search.lock import locked
from ragsearch.search.plan import make_plan
from ragsearch.search.record import Choice, Objective, SearchRecord, Status, UsedIndex
from ragsearch.search.standing import Watch
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
    spec: Spec,
    *,
    output: Path = Path("runs"),
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> SearchResult:
    """Run every trial of a space file and give the record of what came of them.

    Args:
        spec: A loaded space file.
        output: Folder for searches and indexes.
        progress: Shows how far an index is built, and its passages are tokenised.
        watch: Shows how the search stands while trials run.

    Returns:
        The finished search, its record also on disk.

    Raises:
        BadInputError: If data, models or resources do not fit the space file.
        ClusterUnavailableError: If Ray cannot be started or joined.
        DiskFullError: If the disk is full; `resume_search` goes on later.
        EveryTrialFailedError: If no trial reported its objective.
        PoolUnavailableError: If the index cannot be served.
        SearchInterruptedError: If the user stopped it; `resume_search` goes on later.
        TooManyFailedError: If as many trials crashed as `budget.max_failed_trials`.
    """
    prepare(spec.file.resources.cluster)
    _tell_plan(spec)
    indexes = build_indexes(spec, output, progress)
    tokens = tokenise_passages(spec, indexes, output, progress)
    record = open_record(spec, indexes, output)
    with locked(record.folder):
        return _run(spec, record, indexes, tokens, watch)


def resume_search(
    folder: Path,
    *,
    space: Path | None = None,
    overrides: Sequence[str] = (),
    add_trials: int = 0,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> SearchResult:
    """Go on with a search that was interrupted, or extend one that has ended.

    Trials that have ended stay as they are; the others go on from their last checkpoint.

    Args:
        folder: The search's.
        space: Its space file, where it was changed; else the one kept in the folder is read.
        overrides: As for `load_spec`.
        add_trials: How many more there are to be, beyond `budget.trials`.
        progress: As for `run_search`.
        watch: As for `run_search`.

    Returns:
        The search, finished.

    Raises:
        BadInputError: If another process runs the search, if the space file differs from the
            search's in what trials are compared by, or if nothing is left to do.
        ClusterUnavailableError: As `run_search`; and so all the others.
        DiskFullError: The same.
        EveryTrialFailedError: The same.
        PoolUnavailableError: The same.
        SearchInterruptedError: The same.
        TooManyFailedError: The same.
    """
    with locked(folder):
        record = SearchRecord.load(folder)
        spec = agreed_spec(record, space, overrides, add_trials)
        prepare(spec.file.resources.cluster)
        _tell_plan(spec)
        output = record.folder.parent
        indexes = build_indexes(spec, output, progress)
        tokens = tokenise_passages(spec, indexes, output, progress)
        record.indexes |= _used(indexes)
        record.choose = _choice(spec)
        record.interrupt()  # it may have been killed
        record.status, record.ended_by = Status.RUNNING, None
        record.n_runs += 1
        record.save()
        log.info("search %s goes on", record.search)
        return _run(spec, record, indexes, tokens, watch)


def _tell_plan(spec: Spec) -> None:
    for line in make_plan(spec, check_inputs(spec)).lines():
        log.info("%s", line)


def _run(
    spec: Spec,
    record: SearchRecord,
    indexes: dict[str, PassageIndex],
    tokens: Path,
    watch: Watch | None,
) -> SearchResult:
    from ragsearch.search.launch import run_trials  # imports Ray, which reads what was prepared

    try:
        run_trials(spec, record, indexes, tokens, watch=watch)
    except KeyboardInterrupt:
        record.interrupt()
        raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise record.disk_full(error) from error
    finally:
        if record.status is Status.RUNNING:
            record.interrupt()
        with suppress(OSError):  # of a full disk; the events say it all
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


def open_record(spec: Spec, indexes: dict[str, PassageIndex], output: Path) -> SearchRecord:
    """Make the folder of a new search, and the record in it."""
    now = datetime.now().astimezone()
    folder = _new_folder(output.resolve(), f"{spec.file.name}-{now:%Y%m%d-%H%M%S}")
    (folder / "space.yaml").write_text(spec.text)
    keep_resolved(spec, folder)
    objective, *others = spec.file.objectives
    record = SearchRecord(
        folder=folder,
        name=spec.file.name,
        metric=objective.metric,
        goal=objective.goal,
        indexes=_used(indexes),
        tracking_uri=spec.file.tracking.uri,
        rung_examples=spec.file.search.scheduler.rung_examples,
        id=uuid4().hex,
        data=data_digests(spec),
        models=model_digests(spec),
        started=now.isoformat(timespec="seconds"),
        others=tuple(Objective(other.metric, other.goal) for other in others),
        choose=_choice(spec),
    )
    record.save()
    log.info("search %s", record.search)
    return record


def _used(indexes: dict[str, PassageIndex]) -> dict[str, UsedIndex]:
    return {
        name: UsedIndex(str(index.folder), index.manifest.fingerprint)
        for name, index in indexes.items()
    }


def _choice(spec: Spec) -> Choice:
    asked = spec.file.choose
    return Choice(asked.within, asked.then) if asked else Choice()


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
        what = (
            f"search {record.search} was interrupted; see `ragsearch trials {record.named}`, "
            f"go on with `ragsearch run --resume {record.named}`"
        )
        raise SearchInterruptedError(what)
    if record.status is Status.FAILED and record.ranked():
        crashed = [t for t in record.trials.values() if t.status is Status.FAILED]
        what = (
            f"search {record.search} was given up: {record.ended_by}; the last one said: "
            f"{crashed[-1].reason}; raise the limit and go on with `ragsearch run --resume "
            f"{record.named}`"
        )
        raise TooManyFailedError(what)
    if not record.ranked():
        reasons = {trial.reason for trial in record.trials.values() if trial.reason}
        why = "; ".join(sorted(reasons))
        what = f"every trial of {record.search} failed or is infeasible: {why}"
        raise EveryTrialFailedError(what)
