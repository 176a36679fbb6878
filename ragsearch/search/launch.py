"""The trials of a search on Ray: cluster, pools, MLflow and Tune, set up and taken down again.

In: a spec, its open record and its open indexes. Out: the record, filled by `progress`.
Importing this imports Ray, so `cluster.prepare` comes first.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial

from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.pool import Layout, PoolPlan, serving
from ragsearch.search.cluster import Cluster, cluster
from ragsearch.search.cores import trials_at_once
from ragsearch.search.ending import ending_of
from ragsearch.search.finish import finish, flatten
from ragsearch.search.progress import Bookkeeper, EndOfSearch
from ragsearch.search.record import SearchRecord, Status
from ragsearch.search.scheduler import make_scheduler
from ragsearch.search.space import COMPARED_KEY, TRIAL_KEY, make_searcher
from ragsearch.search.trainable import IndexAddress, TrialJob, folder_name, run_trial, varied
from ragsearch.spec import Spec
from ragsearch.tracking import SearchRun, TrialRuns

log = logging.getLogger(__name__)

_TUNE = "tune"  # the folder of Ray Tune in that of a search


def run_trials(
    spec: Spec, record: SearchRecord, indexes: dict[str, PassageIndex], tokens: Path
) -> None:
    """Run every trial of a search and fill its record, its status included.

    Args:
        spec: The search.
        record: Its record, open.
        indexes: Those its trials can ask for, by name.
        tokens: Folder of their passages' tokens.
    """
    end = EndOfSearch(spec.file.budget.wall_s)
    with ExitStack() as stack:
        joined, job = stack.enter_context(_ready(spec, record, indexes, tokens))
        run, tracker = stack.enter_context(_tracked(spec, record, end))
        callbacks = [Bookkeeper(spec, record, end), tracker]
        most_at_once = _most_at_once(spec, joined)
        tuner = _tuner(job, record, callbacks, end, most_at_once)
        with end.on_signals():
            tuner.fit()
            for trial in record.trials.values():  # Tune says nothing of those it ends at once
                if trial.status is Status.RUNNING:
                    trial.status = Status.INTERRUPTED
            finish(record, job, end, run, most_at_once)
        done = Status.FINISHED if record.ranked() else Status.FAILED
        record.status = Status.INTERRUPTED if end.interrupted else done


def run_final_alone(
    spec: Spec, record: SearchRecord, indexes: dict[str, PassageIndex], tokens: Path
) -> bool:
    """Train the best trials of a search that has ended again, and score them.

    Args:
        spec: The search, with a `final` section.
        record: Its record.
        indexes: Those its trials asked for, by name.
        tokens: Folder of their passages' tokens.

    Returns:
        Whether the user interrupted it.
    """
    end = EndOfSearch(None)
    with _ready(spec, record, indexes, tokens) as (joined, job):
        run = SearchRun.find(record.tracking_uri, spec.file.name, record.search)
        with end.on_signals():
            finish(record, job, end, run, _most_at_once(spec, joined))
    return end.interrupted


@contextmanager
def _ready(
    spec: Spec, record: SearchRecord, indexes: dict[str, PassageIndex], tokens: Path
) -> Iterator[tuple[Cluster, TrialJob]]:
    """Have a cluster, and on it the pools that trials ask."""
    resources = spec.file.resources
    with ExitStack() as stack:
        joined = stack.enter_context(cluster(resources.cluster))
        joined.check_fits(resources.per_trial)
        reached = {
            name: stack.enter_context(reachable(spec, index, record.search))
            for name, index in indexes.items()
        }
        yield joined, TrialJob(spec, reached, record.folder / _TUNE, tokens)


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
def _tracked(
    spec: Spec, record: SearchRecord, end: EndOfSearch
) -> Iterator[tuple[SearchRun, TrialRuns]]:
    """Have the search and its trials written to MLflow."""
    file = spec.file
    sections = {"seed", "data", "pool", "search", "budget", "resources", "final"}
    run = SearchRun.open(
        file.tracking.uri,
        file.name,
        record.search,
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

    try:
        yield run, run.trial_runs(partial(_resolve, spec), partial(ending_of, end.stop_all))
        run.log_metrics(_best_metrics(record))
    except KeyboardInterrupt:  # the second Ctrl-C
        record.status = Status.INTERRUPTED
        raise
    finally:
        ended = record.status is not Status.RUNNING
        run.close(record.status if ended else Status.FAILED)


def _resolve(spec: Spec, config: Mapping[str, object]) -> dict[str, object]:
    return flatten(spec.trial_with(varied(config)).model_dump(mode="json"))


def _best_metrics(record: SearchRecord) -> dict[str, float]:
    best = next(iter(record.ranked()), None)
    metrics = record.metrics_of(best) if best is not None else None
    return {f"best/{key}": value for key, value in (metrics or {}).items()}


def _tuner(
    job: TrialJob,
    record: SearchRecord,
    callbacks: list[tune.Callback],
    end: EndOfSearch,
    most_at_once: int | None,
) -> tune.Tuner:
    file = job.spec.file
    per_trial = file.resources.per_trial
    trainable = tune.with_resources(
        partial(run_trial, job=job),
        tune.PlacementGroupFactory(
            per_trial.workers * [{"CPU": per_trial.cpu, "GPU": per_trial.gpu}]
        ),
    )
    study = f"sqlite:///{record.folder / 'study.db'}"
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(job.spec, study, record.search),
            scheduler=make_scheduler(job.spec),
            num_samples=file.budget.trials,
            max_concurrent_trials=most_at_once,
            reuse_actors=not per_trial.gpu,  # a fresh process gives back all GPU memory
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=_TUNE,
            storage_path=str(record.folder),
            stop=end,
            callbacks=callbacks,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=COMPARED_KEY,
                checkpoint_score_order=record.goal,
            ),
        ),
    )


def _folder_name(trial: Trial) -> str:
    return folder_name(trial.config[TRIAL_KEY])
