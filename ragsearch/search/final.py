"""After the search: the best trials and the baseline trained again with new seeds, then tested.

Runs are Tune trials of an experiment of their own, on the cluster, pools and workers of the
search's trials; none is stopped early. One that was interrupted goes on from its last state, as
trials do. Each model is scored on `data.test` once, which is the only time anything reads it.
What is there already is not done again. Their models and states count for `budget.disk`; where
what must be kept is too much, runs are left for another time.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from ragsearch.search.afterwards import finalists, n_kept
from ragsearch.search.checkpoints import Places, checkpoint_of, drop_states, folder_of
from ragsearch.search.disk import Room
from ragsearch.search.ending import ending_of
from ragsearch.search.evaluations import Evaluation, Outcome, Scored, evaluate_all
from ragsearch.search.experiment import Experiment
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import FinalRun, SearchRecord, Status
from ragsearch.search.space import LAST_KEY, TRIAL_KEY, VERDICT_KEY
from ragsearch.search.trainable import MODEL_KEY, TrialJob, run_trial
from ragsearch.search.variants import Variants, index_asked
from ragsearch.spec import Spec
from ragsearch.spec.schema import FinalSection
from ragsearch.spec.search_section import SchedulerSection
from ragsearch.tracking.trials import metrics_of

log = logging.getLogger(__name__)

FOLDER = "final"
"""Folder of these runs in that of a search."""
_RUN_KEY = "run"  # where a Tune config says which one it is

Tell = Callable[[FinalRun], object]
"""Told of every run that has ended and, where it could be, was scored."""


def run_final(
    record: SearchRecord,
    job: TrialJob,
    variants: Variants,
    end: EndOfSearch,
    tell: Tell,
    most_at_once: int | None = None,
) -> None:
    """Train the best trials again with every seed, and score each model on the test questions.

    Args:
        record: Of a search whose trials have ended; its `final` is filled and saved.
        job: What its trials share.
        variants: The variants of their index, open.
        end: Tells whether the user wants to leave.
        tell: Told of each run.
        most_at_once: Runs at a time; None where Ray's placing is enough.
    """
    settings = job.spec.file.final
    assert settings is not None, "asked for by the space file or the command"
    runs = _wanted(record, settings)
    record.save()
    room = Room(record, end.budget, job.spec.file.budget.disk_bytes, n_kept(job.spec))
    room.make()
    n_waiting = sum(run.status is Status.RUNNING for run in runs)
    if n_waiting and not end.is_cut_off and not room.over:
        log.info("final: %d runs to train", n_waiting)

    def index_of(run: FinalRun) -> str | None:
        return index_asked(job.spec, record.trials[run.trial].params)

    left = [run for run in runs if run.is_open]
    for part in variants.stretches(left, index_of, "final runs"):
        waiting = [run for run in part if run.status is Status.RUNNING]
        if waiting and not end.is_cut_off and not room.over:
            _train(record, job, waiting, _End(end, room), most_at_once)
        _leave_open(waiting, room.over)
        record.save()
        _test(record, job, end, part)
        if end.is_cut_off:
            break
    _leave_open(left, room.over)
    record.save()
    for run in runs:
        if not run.is_open:
            tell(run)


def _leave_open(runs: Iterable[FinalRun], why: str | None) -> None:
    """Say what became of runs without an end; Tune says nothing of those it ends at once."""
    unfinished = [run for run in runs if run.status is Status.RUNNING]
    for run in unfinished:
        run.status, run.reason = Status.INTERRUPTED, why
    if unfinished and why:
        log.warning("final: %d runs are left for another time: %s", len(unfinished), why)


def _wanted(record: SearchRecord, settings: FinalSection) -> list[FinalRun]:
    """Return the runs asked for, those of an earlier time among them."""
    known = {(run.trial, run.seed): run for run in record.final}
    runs = []
    for trial in finalists(record, settings.top_k):
        setting = record.best_setting(trial)
        for seed in settings.seeds:
            run = known.get((trial.trial, seed))
            if run is None:
                values = dict(setting.values) if setting else {}
                run = FinalRun(trial.trial, seed, values)
                record.final.append(run)
            if run.test is None and run.status is not Status.FINISHED:
                run.start(anew=_state_of(record, run) is None)
            runs.append(run)
    return runs


def _places_of(record: SearchRecord, run: FinalRun) -> Places:
    return Places(record.folder, FOLDER, run.name)


def _state_of(record: SearchRecord, run: FinalRun) -> Path | None:
    """Return the checkpoint that a run goes on from; None where it starts anew."""
    return None if run.status.has_ended else _places_of(record, run).newest(run.n_epochs)


def _train(
    record: SearchRecord,
    job: TrialJob,
    runs: Sequence[FinalRun],
    end: "_End",
    most_at_once: int | None,
) -> None:
    states = {run.name: state for run in runs if (state := _state_of(record, run))}
    for run in runs:
        if run.name in states:
            log.info("final %s goes on after epoch %d", run.name, run.n_epochs)
    configs = [
        {"trial": run.trial, "seed": run.seed, "params": record.trials[run.trial].params}
        for run in runs
    ]
    Experiment(
        record.folder / _new_folder(record.folder),
        partial(_train_again, states=states),
        job,
        stop=end,
        callbacks=[_Keeper(record, end)],
        folder_name=_folder_name,
    ).run(
        tune.TuneConfig(max_concurrent_trials=most_at_once),
        {_RUN_KEY: tune.grid_search(configs)},
    )


def _train_again(
    config: dict[str, Any],  # Any: as Tune has it
    job: TrialJob,
    states: Mapping[str, Path],
) -> None:
    """Train a trial's configuration with another seed, every epoch validated whole."""
    run = config[_RUN_KEY]
    number, state = run["trial"], states.get(FinalRun(run["trial"], run["seed"]).name)
    spec = for_seed(job.spec, run["seed"])
    going_on = {} if state is None else {number: state}
    run_trial({TRIAL_KEY: number, **run["params"]}, replace(job, spec=spec, resumable=going_on))


def for_seed(spec: Spec, seed: int) -> Spec:
    """Return a search with another seed, and without what ends or traces trials."""
    file = spec.file
    search = file.search.model_copy(update={"scheduler": SchedulerSection(name="none")})
    train = file.trial.train.model_copy(update={"profile": False})
    changed = {
        "seed": seed,
        "search": search,
        "trial": file.trial.model_copy(update={"train": train}),
        "constraints": (),
    }
    return replace(spec, file=file.model_copy(update=changed))


def _folder_name(trial: Trial) -> str:
    run = trial.config[_RUN_KEY]
    return FinalRun(run["trial"], run["seed"]).name


def _new_folder(folder: Path) -> str:
    """Return the name of an experiment that is not there: Tune would go on with an old one."""
    taken = [path.name for path in folder.glob(f"{FOLDER}*")]
    names = (FOLDER if n == 1 else f"{FOLDER}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


class _End(tune.Stopper):
    """Ends a run that diverged, and all where the user wants to leave or there is no room."""

    def __init__(self, search: EndOfSearch, room: Room) -> None:
        self.search, self.room = search, room

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return VERDICT_KEY in result

    @override
    def stop_all(self) -> bool:
        return self.search.is_cut_off or self.room.over is not None


class _Keeper(tune.Callback):
    """Keeps the record of these runs up to date."""

    def __init__(self, record: SearchRecord, end: _End) -> None:
        self._record, self._end, self._room = record, end.search, end.room

    @override
    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Add an epoch, and remember where its model lies if it is the best yet."""
        self._end.note_full_disk(result)
        run = self._of(trial)
        if VERDICT_KEY in result or max(1, result["epoch"]) <= len(run.epochs):
            return  # how it ended; or what was reported before a crash
        run.epochs.append(metrics_of(result))
        if result[MODEL_KEY]:
            run.checkpoint = self._record.relative(checkpoint_of(trial, result))
        if result.get(LAST_KEY):
            run.status = Status.FINISHED  # now: a kill before its end then costs nothing
        self._save()
        metric, value = self._record.metric, run.epochs[-1][self._record.metric]
        log.info("final %s epoch %d: %s %.4f", run.name, result["epoch"], metric, value)

    @override
    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        self._close(trial, failed=False)

    @override
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        self._close(trial, failed=True)

    @override
    def on_trial_save(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Drop states that a later one has taken the place of."""
        if trial.checkpoint is not None:
            drop_states(folder_of(trial), but=Path(trial.checkpoint.path))

    def _close(self, trial: Trial, *, failed: bool) -> None:
        run = self._of(trial)
        run.status, run.reason = ending_of(trial, failed=failed)
        if run.status.has_ended:
            _places_of(self._record, run).tidy(folder_of(trial), run.checkpoint)
        self._save()
        if run.reason:
            log.warning("final %s %s: %s", run.name, run.status, run.reason)

    def _save(self) -> None:
        with self._end.at_full_disk():
            self._record.save()
            self._room.make()

    def _of(self, trial: Trial) -> FinalRun:
        asked = trial.config[_RUN_KEY]
        return next(
            run
            for run in self._record.final
            if (run.trial, run.seed) == (asked["trial"], asked["seed"])
        )


def _test(
    record: SearchRecord,
    job: TrialJob,
    end: EndOfSearch,
    runs: Iterable[FinalRun],
) -> None:
    """Score every trained model that was not scored yet on the test questions."""
    data = job.spec.file.data
    assert data.test is not None, "checked before anything is trained"
    waiting = [
        (number, run)
        for number, run in enumerate(record.final)
        if run in runs and run.status is Status.FINISHED and run.test is None
    ]
    for _, run in waiting:
        best = max(run.epochs, key=lambda epoch: record.sign * epoch[record.metric])
        run.val = {name: value for name, value in best.items() if name.startswith("val/")}
    otherwise = [(number, run) for number, run in waiting if run.values]
    for questions, limit, asked, keep in (
        (data.val, data.n_val, otherwise, _keep_val),
        (data.test, data.n_test, waiting, _keep_test),
    ):
        evaluations = [
            Evaluation(
                number, record.folder / str(run.checkpoint), questions, limit, (run.values,)
            )
            for number, run in asked
        ]
        for outcome in evaluate_all(job, evaluations, lambda: end.is_cut_off):
            _take(record, outcome, keep)


def _take(
    record: SearchRecord,
    outcome: Outcome,
    keep: Callable[[SearchRecord, FinalRun, Scored], object],
) -> None:
    run = record.final[outcome.evaluation.key]
    if outcome.reason:
        run.status, run.reason = Status.FAILED, outcome.reason
        log.warning("final %s could not be scored: %s", run.name, run.reason)
    else:
        keep(record, run, outcome.scored[0])
    record.save()
    if run.test is not None:
        metric = record.metric.replace("val/", "test/", 1)
        log.info("final %s scored: %s %.4f", run.name, metric, run.test[metric])


def _keep_val(_: SearchRecord, run: FinalRun, scored: Scored) -> None:
    run.val = {f"val/{name}": value for name, value in scored.metrics.items()}


def _keep_test(record: SearchRecord, run: FinalRun, scored: Scored) -> None:
    file = scores_file(record, run)
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in scored.rows), encoding="utf-8")
    run.test = {f"test/{name}": value for name, value in scored.metrics.items()}


def scores_file(record: SearchRecord, run: FinalRun) -> Path:
    """Return where the test scores of a run stand, a question a line."""
    return record.folder / "test" / f"{run.name}.jsonl"
