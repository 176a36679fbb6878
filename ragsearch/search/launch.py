"""The trials of a search on Ray: cluster, pools, MLflow and Tune, set up and taken down again.

In: a spec, its open record and its open indexes. Out: the record, filled by `progress`.
Importing this imports Ray, so `cluster.prepare` comes first.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from ray import tune
from ray.tune.experiment import Trial

from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.pool import Layout, PoolPlan, serving
from ragsearch.search.agree import flatten
from ragsearch.search.cluster import Cluster, cluster
from ragsearch.search.cores import trials_at_once
from ragsearch.search.ending import ending_of
from ragsearch.search.progress import Bookkeeper, EndOfSearch
from ragsearch.search.record import TUNE_FOLDER, SearchRecord, Status, TrialRecord
from ragsearch.search.replay import Replay
from ragsearch.search.scheduler import make_scheduler
from ragsearch.search.searcher import StudySearcher
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.study import SearchStudy
from ragsearch.search.trainable import IndexAddress, TrialJob, folder_name, run_trial, varied
from ragsearch.spec import Spec
from ragsearch.tracking import Known, SearchRun, TrialRuns

log = logging.getLogger(__name__)


class Train(Protocol):
    """What a trial does in its worker."""

    def __call__(self, config: dict[str, object], job: TrialJob) -> None:
        """Do it, and report to Tune."""


def run_trials(
    spec: Spec,
    record: SearchRecord,
    indexes: dict[str, PassageIndex],
    tokens: Path,
    *,
    train: Train = run_trial,
    watch: Callable[[StudySearcher], None] = lambda _: None,
) -> None:
    """Run every trial of a search and fill its record, its status included.

    Args:
        spec: The search.
        record: Its record, open.
        indexes: Those its trials can ask for, by name.
        tokens: Folder of their passages' tokens.
        train: What a trial does.
        watch: Called with the searcher before it is first asked.
    """
    resources = spec.file.resources
    end = EndOfSearch(spec.file.budget.wall_s, record.wall_s)
    with ExitStack() as stack:
        joined = stack.enter_context(cluster(resources.cluster))
        joined.check_fits(resources.per_trial)
        study = SearchStudy(spec, record.folder)
        going_on = study.take_up(record, partial(record.note, wall_s=record.wall_s))
        job = TrialJob(
            spec,
            {
                name: stack.enter_context(reachable(spec, index, record.search))
                for name, index in indexes.items()
            },
            record.tune_folder,
            tokens,
            resumable(record),
        )
        tracker = stack.enter_context(_tracked(spec, record))
        scheduler = make_scheduler(spec)
        callbacks = [Bookkeeper(spec, record, end), tracker, Replay(scheduler, record)]
        n_trials = len(going_on) + max(0, spec.file.budget.trials - study.n_asked)
        searcher = StudySearcher(spec, study, going_on, end)
        watch(searcher)
        tuner = _tuner(
            job,
            train,
            record,
            callbacks,
            end,
            tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=n_trials,
                max_concurrent_trials=_most_at_once(spec, joined),
                reuse_actors=not resources.per_trial.gpu,  # a fresh process frees GPU memory
                trial_dirname_creator=_folder_name,
            ),
        )
        with end.on_signals():
            tuner.fit()
        record.wall_s = end.used_s
        _close(record, end)


def _close(record: SearchRecord, end: EndOfSearch) -> None:
    """Say how the search ended; Tune says nothing of trials that it ends at once."""
    is_cut_off = end.interrupted or end.disk_full is not None
    record.interrupt()
    if not is_cut_off:
        record.status = Status.FINISHED if record.ranked() else Status.FAILED
    if end.disk_full is not None:
        raise record.disk_full(end.disk_full)


def resumable(record: SearchRecord) -> dict[int, Path]:
    """Return what trials that have not ended go on from, by their numbers.

    Of the states that are there, it is the newest one that is not ahead of the record: what
    came after it is done again.
    """
    found = {}
    for number, trial in record.trials.items():
        states = record.folder.glob(f"{TUNE_FOLDER}*/{folder_name(number)}/*/state/state.json")
        if trial.status.has_ended or not trial.epochs:
            continue
        epochs = {_epoch_of(state): state.parent for state in states}
        done = [epoch for epoch in epochs if 0 < epoch <= trial.last_epoch]
        if done:
            found[number] = epochs[max(done)]
    return found


def _epoch_of(state: Path) -> int:
    """Return after which epoch a state is; 0 if that cannot be read."""
    try:
        return int(json.loads(state.read_text())["progress"]["epoch"])
    except (ValueError, KeyError, TypeError):
        return 0


@contextmanager
def reachable(spec: Spec, index: PassageIndex, search: str) -> Iterator[IndexAddress]:
    """Have trials reach an index while they run, by its pool where they ask for one."""
    pool, fingerprint = spec.file.pool, index.manifest.fingerprint
    folder = str(index.folder)
    if spec.file.trial.retrieval.backend != "pool":
        yield IndexAddress(folder, fingerprint)
        return
    layout = Layout(pool.replicas, pool.per_node, pool.memory)
    plan = PoolPlan(index.folder, fingerprint, layout, pool.threads, pool.lifetime)
    with serving(plan, search):
        yield IndexAddress(folder, fingerprint, plan.pool)


def _most_at_once(spec: Spec, joined: Cluster) -> int | None:
    """Return the limit to trials at a time; None where Ray's placing is enough."""
    n_fit = joined.n_fit(spec.file.resources.per_trial)
    n_trials, warning = trials_at_once(spec, n_fit, joined.cpus)
    if warning and not joined.is_private:  # of this machine the plan has told it
        log.warning("%s", warning)
    return n_trials if n_trials < n_fit else spec.file.resources.max_concurrent


@contextmanager
def _tracked(spec: Spec, record: SearchRecord) -> Iterator[TrialRuns]:
    """Have the search and its trials written to MLflow."""
    file = spec.file
    sections = {"seed", "data", "pool", "search", "budget", "resources"}
    run = SearchRun.open(
        record.tracking_uri,
        file.name,
        record.search,
        identity=record.id,
        params=flatten(file.model_dump(mode="json", include=sections)),
        tags={"ragsearch.search": record.search, "ragsearch.spec": spec.digest}
        | {
            f"ragsearch.index.{name}": used.fingerprint for name, used in record.indexes.items()
        },
    )
    record.tracking_uri = run.uri
    record.save()
    run.log_text(spec.text, "space.yaml")
    run.log_text(json.dumps(spec.resolved(), indent=2), "resolved.json")

    runs = run.trial_runs(partial(_resolve, spec), ending_of)
    if record.trials:
        runs.take_up(map(_known, record.trials.values()))
    try:
        yield runs
        run.log_metrics(_best_metrics(record))
    except KeyboardInterrupt:  # the second Ctrl-C
        record.status = Status.INTERRUPTED
        raise
    finally:
        ended = record.status is not Status.RUNNING
        run.close(record.status if ended else Status.FAILED)


def _known(trial: TrialRecord) -> Known:
    return Known(
        trial.trial,
        trial.params,
        list(zip(trial.epochs, trial.reported, strict=True)),
        str(trial.status) if trial.status.has_ended else None,
        trial.reason,
    )


def _resolve(spec: Spec, config: Mapping[str, object]) -> dict[str, object]:
    return flatten(spec.trial_with(varied(config)).model_dump(mode="json"))


def _best_metrics(record: SearchRecord) -> dict[str, float]:
    best = next(iter(record.ranked()), None)
    epoch = record.best_epoch(best) if best is not None else None
    return {f"best/{key}": value for key, value in (epoch or {}).items()}


def _tuner(
    job: TrialJob,
    train: Train,
    record: SearchRecord,
    callbacks: list[tune.Callback],
    end: EndOfSearch,
    config: tune.TuneConfig,
) -> tune.Tuner:
    per_trial = job.spec.file.resources.per_trial
    trainable = tune.with_resources(
        partial(train, job=job),
        tune.PlacementGroupFactory(
            per_trial.workers * [{"CPU": per_trial.cpu, "GPU": per_trial.gpu}]
        ),
    )
    return tune.Tuner(
        trainable,
        tune_config=config,
        run_config=tune.RunConfig(
            name=record.tune_folder.name,
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
    return folder_name(trial.config[TRIAL_KEY])
