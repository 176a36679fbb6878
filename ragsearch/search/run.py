"""A whole search: `run_search(spec)` builds what is missing, runs every trial, keeps the record.

The driver does what trials must not do each for themselves: it builds the indexes, starts the
pools, opens MLflow. Trials are told names only.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial

from ragsearch.data.check import check_inputs
from ragsearch.errors import (
    EveryTrialFailedError,
    RagsearchError,
    SearchInterruptedError,
)
from ragsearch.index.build import build_index, index_fingerprint
from ragsearch.index.open import PassageIndex
from ragsearch.search.plan import make_plan, used_indexes
from ragsearch.retrieval.pool import Lease, pool_name, start_pool
from ragsearch.search.cluster import cluster
from ragsearch.search.progress import Bookkeeper, EndOfSearch
from ragsearch.search.record import SearchRecord, Status, UsedIndex
from ragsearch.search.scheduler import make_scheduler
from ragsearch.search.space import TRIAL_KEY, make_searcher
from ragsearch.search.trainable import PoolAddress, TrialJob, run_trial
from ragsearch.spec import Spec
from ragsearch.tracking import track_search

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


def run_search(spec: Spec, *, output: Path = Path("runs")) -> SearchResult:
    """Run every trial of a space file and give the record of what came of them.

    Args:
        spec: A loaded space file.
        output: Folder for searches and indexes.

    Raises:
        BadInputError: If data, models or resources do not fit the space file.
        ClusterUnavailableError: If Ray cannot be started or joined.
        EveryTrialFailedError: If no trial reported its objective.
        PoolUnavailableError: If the index cannot be served.
        SearchInterruptedError: If the user stopped it; finished trials are kept.
    """
    for line in make_plan(spec, check_inputs(spec), output=output).lines():
        log.info("%s", line)
    indexes = build_indexes(spec, output)
    record = _open_record(spec, indexes, output)
    started = time.monotonic()
    try:
        interrupted = _run_trials(spec, record, indexes)
        record.status = Status.INTERRUPTED if interrupted else Status.FINISHED
    except (RagsearchError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        record.status = Status.INTERRUPTED if stopped else Status.FAILED
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


def build_indexes(spec: Spec, output: Path) -> dict[str, PassageIndex]:
    """Build the indexes that are not there yet, and open all that trials can ask for."""
    opened = {}
    for name in used_indexes(spec):
        settings = spec.file.indexes[name]
        folder = index_folder(output, index_fingerprint(settings))
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened[name] = build_index(settings, folder)
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
    (folder / "resolved.json").write_text(spec.dump())
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


def _run_trials(spec: Spec, record: SearchRecord, indexes: dict[str, PassageIndex]) -> bool:
    """Run every trial on Ray; tell whether the user interrupted."""
    resources = spec.file.resources
    end = EndOfSearch(spec.wall_s)
    with ExitStack() as stack:
        joined = stack.enter_context(cluster(resources.cluster))
        joined.check_fits(resources.per_trial.cpu, resources.per_trial.gpu)
        job = TrialJob(
            spec,
            {
                name: stack.enter_context(_served(spec, index, record.search))
                for name, index in indexes.items()
            },
        )
        tracker = stack.enter_context(track_search(spec, record))
        tuner = _tuner(job, record, end, [Bookkeeper(spec, record, end), tracker])
        with end.on_signals():
            tuner.fit()
    return end.interrupted


@contextmanager
def _served(spec: Spec, index: PassageIndex, search: str) -> Iterator[PoolAddress]:
    """Have an index served by its pool while trials run."""
    pool, fingerprint = spec.file.pool, index.manifest.fingerprint
    name = pool_name(fingerprint)
    start_pool(
        index.folder,
        fingerprint,
        replicas=pool.replicas,
        threads=pool.threads,
        lifetime=pool.lifetime,
    )
    with Lease(name, search):
        yield PoolAddress(name, fingerprint)


def _tuner(
    job: TrialJob, record: SearchRecord, end: EndOfSearch, callbacks: list[tune.Callback]
) -> tune.Tuner:
    file = job.spec.file
    per_trial = file.resources.per_trial
    trainable = tune.with_resources(
        partial(run_trial, job=job), {"cpu": per_trial.cpu, "gpu": per_trial.gpu}
    )
    study = f"sqlite:///{record.folder / 'study.db'}"
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(job.spec, study, record.search),
            scheduler=make_scheduler(job.spec),
            num_samples=file.budget.trials,
            max_concurrent_trials=file.resources.max_concurrent,
            reuse_actors=not per_trial.gpu,  # a fresh process gives back all GPU memory
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(record.folder),
            stop=end,
            callbacks=callbacks,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=record.metric,
                checkpoint_score_order=record.goal,
            ),
        ),
    )


def _folder_name(trial: Trial) -> str:
    return f"trial-{trial.config[TRIAL_KEY]:04d}"


def _check_outcome(record: SearchRecord) -> None:
    if record.status is Status.INTERRUPTED:
        what = f"search {record.search} was interrupted; see `ragsearch trials {record.search}`"
        raise SearchInterruptedError(what)
    if not record.ranked():
        reasons = {trial.error for trial in record.trials.values() if trial.error}
        what = f"every trial of {record.search} failed: {'; '.join(sorted(reasons))}"
        raise EveryTrialFailedError(what)
