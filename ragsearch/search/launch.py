"""The trials of a search on Ray: cluster, pools, MLflow and Tune, set up and taken down again.

In: a spec, its open record and its open indexes. Out: the record, filled by `progress`.
Importing this imports Ray, so `cluster.prepare` comes first.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.placement import Prober
from ragsearch.search.agree import flatten
from ragsearch.search.automatic import is_population, most_trials, pauses
from ragsearch.search.budget import Budget
from ragsearch.search.checkpoints import drop_donors, places_of, resumable
from ragsearch.search.cluster import Cluster, cluster
from ragsearch.search.cores import trials_at_once
from ragsearch.search.ending import ending_of
from ragsearch.search.experiment import Experiment, Train
from ragsearch.search.finish import finish
from ragsearch.search.front import chosen, front
from ragsearch.search.hyperband import HyperBand
from ragsearch.search.progress import Bookkeeper, EndOfSearch
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.replay import Replay
from ragsearch.search.scheduler import make_scheduler
from ragsearch.search.searcher import StudySearcher
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.standing import Standing, Watch
from ragsearch.search.study import Asked, SearchStudy
from ragsearch.search.trainable import TrialJob, folder_name, run_trial, varied
from ragsearch.search.variants import Variants, address_of, index_asked, variants_of
from ragsearch.spec import Spec
from ragsearch.spec.schema import BudgetSection
from ragsearch.tracking.search_run import SearchRun
from ragsearch.tracking.trials import Known, TrialRuns

log = logging.getLogger(__name__)

_WAITING = 4  # trials that may wait for their variant, for each that runs at a time


class Parts(NamedTuple):
    """Parts of a search that a bench exchanges, or looks at."""

    train: Train = run_trial
    """What a trial does."""
    meet: Callable[[StudySearcher], None] = lambda _: None
    """Called with the searcher before it is first asked."""
    prober: Prober | None = None
    """Asks the nodes what they have for an index; the usual one by default."""


def run_trials(
    spec: Spec,
    record: SearchRecord,
    indexes: dict[str, PassageIndex],
    tokens: Path,
    *,
    watch: Watch | None = None,
    parts: Parts | None = None,
) -> None:
    """Run every trial of a search and fill its record, its status included.

    Args:
        spec: The search.
        record: Its record, open.
        indexes: Those its trials can ask for, by name.
        tokens: Folder of their passages' tokens.
        watch: Shows how the search stands while trials run.
        parts: What a bench puts in the place of others; None for a search as it is.
    """
    parts = parts or Parts()
    end = EndOfSearch(Budget(spec.file.budget, record, spec.file.resources.per_trial.all_gpu))
    with ExitStack() as stack:
        ready = _ready(spec, record, indexes, tokens, parts.prober)
        joined, variants, job = stack.enter_context(ready)
        study = SearchStudy(spec, record.folder)
        going_on = study.take_up(record, partial(record.note, wall_s=record.wall_s))
        scheduler = make_scheduler(spec)
        if isinstance(scheduler, HyperBand):
            going_on = _in_brackets(scheduler, study, going_on, record, end)
        run, tracker = stack.enter_context(_tracked(spec, record))
        most_at_once = _most_at_once(spec, joined)
        most_waiting = _WAITING * (most_at_once or joined.n_fit(spec.file.resources.per_trial))
        searcher = StudySearcher(spec, study, going_on, end, variants, most_waiting)
        parts.meet(searcher)
        n_trials = len(going_on) + max(0, most_trials(spec) - study.n_asked)
        experiment = Experiment(
            record.tune_folder,
            parts.train,
            job,
            stop=end,
            callbacks=_callbacks(spec, record, end, tracker, scheduler),
            folder_name=_folder_name,
            cpu=_cpu(spec, joined, most_at_once),
            keeps_all=is_population(spec),
        )
        config = tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=n_trials,
            max_concurrent_trials=None if pauses(spec) else most_at_once or _all(spec, joined),
        )
        with end.on_signals():
            if n_trials and not end.stop_all():  # else only what follows the trials is left
                _serve_first(spec, record, variants)
                with _watched(watch, job, record, end):
                    experiment.run(config)
            _close_trials(record, end)
            if not end.budget.is_failed:
                finish(record, job, variants, end, run, most_at_once)
        _close(record, end)
        if is_population(spec):
            drop_donors(record)


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

    Raises:
        DiskFullError: If the disk is full; what is there is kept.
    """
    asked = spec.file.budget  # only its disk still counts
    budget = BudgetSection(trials=asked.trials, disk=asked.disk)
    end = EndOfSearch(Budget(budget, record))
    with _ready(spec, record, indexes, tokens) as (joined, variants, job):
        run = SearchRun.find(_tracking_uri(spec, record), spec.file.name, record.id)
        with end.on_signals():
            finish(record, job, variants, end, run, _most_at_once(spec, joined))
    if end.disk_full is not None:
        raise record.disk_full(end.disk_full)
    return end.interrupted


@contextmanager
def _ready(
    spec: Spec,
    record: SearchRecord,
    indexes: dict[str, PassageIndex],
    tokens: Path,
    prober: Prober | None = None,
) -> Iterator[tuple[Cluster, Variants, TrialJob]]:
    """Have a cluster, and on it the pools that trials ask, as many at a time as fit."""
    resources = spec.file.resources
    with ExitStack() as stack:
        joined = stack.enter_context(cluster(resources.cluster))
        joined.check_fits(resources.per_trial)
        reached = {
            name: address_of(spec, index, record.search) for name, index in indexes.items()
        }
        variants = stack.enter_context(variants_of(spec, indexes, record.search, prober))
        job = TrialJob(spec, reached, record.tune_folder, tokens, resumable(record))
        yield joined, variants, job


def _serve_first(spec: Spec, record: SearchRecord, variants: Variants) -> None:
    """Serve the variant that was last when the search was interrupted, else the baseline's."""
    if not variants.take_turns:
        return
    last = max(record.trials.values(), key=_last_sign, default=None)
    index = index_asked(spec, last.params if last else {})
    if index is not None:
        variants.bring(index, f"trial {last.trial if last else 0}")


def _last_sign(trial: TrialRecord) -> tuple[bool, float]:
    return not trial.status.has_ended, trial.reported[-1] if trial.reported else 0.0


def _in_brackets(
    scheduler: HyperBand,
    study: SearchStudy,
    going_on: list[Asked],
    record: SearchRecord,
    end: EndOfSearch,
) -> list[Asked]:
    """Have brackets as they were; end trials that they have stopped, and return the others."""
    stopped = scheduler.follow(record, end)
    for asked in going_on:
        if asked.number in stopped:
            study.tell(asked, Status.STOPPED_EARLY)
            record.note(asked.number, record.wall_s, status=Status.STOPPED_EARLY)
            end.budget.ended(asked.number, Status.STOPPED_EARLY)
            here = record.tune_folder / folder_name(asked.number)
            kept = record.trials[asked.number].checkpoint
            places_of(record, asked.number).tidy(here, kept)
            log.info("trial %d stopped early", asked.number)
    return [asked for asked in going_on if asked.number not in stopped]


def _callbacks(
    spec: Spec,
    record: SearchRecord,
    end: EndOfSearch,
    tracker: TrialRuns,
    scheduler: TrialScheduler,
) -> list[tune.Callback]:
    callbacks = [Bookkeeper(spec, record, end), tracker]
    if not pauses(spec):  # brackets and populations are made of trials that run
        callbacks.append(Replay(scheduler, record))
    return callbacks


def _watched(
    watch: Watch | None, job: TrialJob, record: SearchRecord, end: EndOfSearch
) -> AbstractContextManager[None]:
    if watch is None:
        return nullcontext()
    pools = tuple(address.pool for address in job.indexes.values() if address.pool)
    return watch(Standing(job.spec, record, end.budget, pools))


def _close_trials(record: SearchRecord, end: EndOfSearch) -> None:
    """Say how the trials ended; Tune says nothing of those that it ends at once."""
    budget = end.budget
    record.wall_s, record.gpu_s = budget.used_s, budget.gpu_s
    record.interrupt()
    if not end.is_cut_off:
        record.ended_by = budget.ended_by
        log.info("search %s has ended: %s", record.search, record.ended_by)
        record.status = Status.RUNNING  # until what follows is done, too
    record.save()


def _close(record: SearchRecord, end: EndOfSearch) -> None:
    """Say how the search ended."""
    if end.is_cut_off:
        record.interrupt()
        record.ended_by = None
    else:
        is_good = record.ranked() and not end.budget.is_failed
        record.status = Status.FINISHED if is_good else Status.FAILED
    if end.disk_full is not None:
        raise record.disk_full(end.disk_full)


def _most_at_once(spec: Spec, joined: Cluster) -> int | None:
    """Return the limit to trials at a time; None where Ray's placing is enough."""
    n_fit = joined.n_fit(spec.file.resources.per_trial)
    n_trials, warning = trials_at_once(spec, n_fit, joined.cpus)
    if warning and not joined.is_private:  # of this machine the plan has told it
        log.warning("%s", warning)
    return n_trials if n_trials < n_fit else spec.file.resources.max_concurrent


def _all(spec: Spec, joined: Cluster) -> int | None:
    """Return the trials that fit on a private cluster; None where others may leave or add room.

    With a limit Tune starts so many workers together, without one each after the one before;
    and it asks for no trial, in place of which a better one could be proposed, before it can
    run.
    """
    return joined.n_fit(spec.file.resources.per_trial) if joined.is_private else None


def _tracking_uri(spec: Spec, record: SearchRecord) -> str:
    tracking = spec.file.tracking
    is_plain = tracking.uri == tracking.address  # else it may hold a password
    return record.tracking_uri if is_plain else tracking.address


@contextmanager
def _tracked(spec: Spec, record: SearchRecord) -> Iterator[tuple[SearchRun, TrialRuns]]:
    """Have the search and its trials written to MLflow."""
    file = spec.file
    sections = {"seed", "data", "pool", "search", "budget", "resources", "final"}
    run = SearchRun.open(
        _tracking_uri(spec, record),
        file.name,
        record.search,
        identity=record.id,
        params=flatten(file.model_dump(mode="json", include=sections)),
        tags={"ragsearch.search": record.search, "ragsearch.spec": spec.digest}
        | {
            f"ragsearch.index.{name}": used.fingerprint for name, used in record.indexes.items()
        },
    )
    if file.tracking.uri == file.tracking.address:
        record.tracking_uri = run.uri
    record.save()
    run.log_text(spec.text, "space.yaml")
    run.log_text(json.dumps(spec.resolved(), indent=2), "resolved.json")

    runs = run.trial_runs(partial(_resolve, spec), ending_of)
    if record.trials:
        runs.take_up(map(_known, record.trials.values()))
    try:
        yield run, runs
        run.log_metrics(_best_metrics(record))
        if len(record.objectives) > 1:
            run.mark_front(trial.trial for trial in front(record))
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
    best = chosen(record)
    metrics = record.metrics_of(best) if best is not None else None
    return {f"best/{key}": value for key, value in (metrics or {}).items()}


def _cpu(spec: Spec, joined: Cluster, most_at_once: int | None) -> float:
    """Return the CPUs that a worker of a trial holds.

    Ray counts paused trials among those at a time, so that a limit would leave a bracket or a
    population incomplete; where trials pause they hold so many CPUs that no more fit instead.
    """
    per_trial = spec.file.resources.per_trial
    if not pauses(spec) or most_at_once is None:
        return per_trial.cpu
    return max(per_trial.cpu, joined.cpus / most_at_once / per_trial.workers)


def _folder_name(trial: Trial) -> str:
    return folder_name(trial.config[TRIAL_KEY])
