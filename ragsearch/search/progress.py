"""Events of a search: into its record on disk, and one line each into the log."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from ragsearch.search.afterwards import n_kept
from ragsearch.search.automatic import is_population
from ragsearch.search.budget import Budget
from ragsearch.search.checkpoints import checkpoint_of, drop_states, folder_of, places_of
from ragsearch.search.disk import Room
from ragsearch.search.ending import crash_of, ending_of, is_disk_full, last_lines
from ragsearch.search.record import SearchRecord, Status, TrialRecord, compared
from ragsearch.search.space import LAST_KEY, REASON_KEY, TRIAL_KEY, VERDICT_KEY
from ragsearch.search.trainable import (
    MODEL_KEY,
    VALUES_KEY,
    varied,
)
from ragsearch.spec import Spec
from ragsearch.tracking.trials import is_validation, metrics_of

log = logging.getLogger(__name__)


class EndOfSearch(tune.Stopper):
    """Ends every trial when the user or the budget says so, and bad ones before.

    A trial is bad that diverged or is infeasible; the baseline goes on even so, if it can.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.interrupted = False
        self.disk_full: str | None = None
        """What could not be written for want of space; None while all is well."""

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Tell Tune whether to end a trial after a result."""
        if VERDICT_KEY not in result:
            return False
        is_baseline = result["config"][TRIAL_KEY] == 0
        return not (is_baseline and result["epoch"])

    @override
    def stop_all(self) -> bool:
        """Tell Tune whether to end the search."""
        return self.is_cut_off or bool(self.budget.over)

    @property
    def is_cut_off(self) -> bool:
        """Whether the search is to go on another time."""
        return self.interrupted or self.disk_full is not None

    def note_full_disk(self, result: Mapping[str, Any]) -> None:
        """End the search where a trial reports that it found the disk full."""
        if result.get(VERDICT_KEY) == Status.INTERRUPTED:
            self.disk_full = self.disk_full or result[REASON_KEY]

    def at_full_disk(self) -> AbstractContextManager[None, bool]:
        """End the search, without an error, where what is inside finds the disk full."""
        return _AtFullDisk(self)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """End the search at the first Ctrl-C or SIGTERM, the program at the second."""

        def interrupt(_number: int, _frame: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            log.warning("stopping the trials; press Ctrl-C again to leave at once")

        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Tune's would hide the interruption
        before = {
            number: signal.signal(number, interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _AtFullDisk(AbstractContextManager[None, bool]):
    def __init__(self, end: EndOfSearch) -> None:
        self._end = end

    @override
    def __exit__(self, kind: object, error: BaseException | None, where: object) -> bool:
        if not (isinstance(error, OSError) and is_disk_full(error)):
            return False
        self._end.disk_full = self._end.disk_full or str(error)
        return True


class Bookkeeper(tune.Callback):
    """Keeps the record of a search up to date."""

    def __init__(self, spec: Spec, record: SearchRecord, end: EndOfSearch) -> None:
        self._spec, self._record, self._end = spec, record, end
        self._budget = end.budget
        self._is_population = is_population(spec)
        self._max_epochs = dict[int, int]()
        self._room = Room(record, end.budget, spec.file.budget.disk_bytes, n_kept(spec))

    @override
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Open a record, or go on with one."""
        number, params = trial.config[TRIAL_KEY], varied(trial.config)
        self._max_epochs[number] = self._spec.trial_with(params).train.max_epochs
        if trial.num_failures:
            return  # it is retried, and that has been said
        known = self._record.trials.get(number)
        self._budget.started(number)
        if known is not None and known.status is Status.FINISHED:
            return  # its last epoch was one to pause at
        found = {"params": params} if known is None else {}  # which PBT may have changed
        self._note(trial, status=Status.RUNNING, reason=None, **found)
        if known is not None and known.epochs:
            log.info("trial %d goes on after epoch %d", number, known.n_epochs)
        else:
            log.info("trial %d started: %s", number, _settings(params) or "the baseline")

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
        if not is_validation(result):
            return  # but how the trial ended
        if max(1, result["epoch"]) <= len(self._of(trial).epochs):
            return  # it crashed between its report and Tune's taking note of the checkpoint
        epoch, metric = metrics_of(result), self._record.metric
        changes = self._changes(trial, result)
        if result.get(LAST_KEY) and VERDICT_KEY not in result:
            changes["status"] = Status.FINISHED  # now: a kill before its end then costs nothing
        self._note(trial, epoch=epoch, reported=result["timestamp"], **changes)
        number = trial.config[TRIAL_KEY]
        self._budget.validated(number, compared(epoch, metric))
        log.info(
            "trial %d epoch %d/%d: %s %.4f%s",
            number, epoch["epoch"], self._max_epochs[number], metric, epoch[metric],
            _of_training(epoch),
        )  # fmt: skip

    def _changes(self, trial: Trial, result: Mapping[str, Any]) -> dict[str, object]:
        """Return the fields of a record that a validation changes beside its metrics."""
        record, found = self._of(trial), dict[str, object]()
        values = result.get(VALUES_KEY) or varied(trial.config)  # which PBT changes before
        if values != (record.changed or record.params):
            found["changed"] = values
        if result[MODEL_KEY] and self._is_best(record, result):
            found["checkpoint"] = self._record.relative(checkpoint_of(trial, result))
            found |= {"params": values} if self._is_population else {}
        return found

    def _is_best(self, record: TrialRecord, result: Mapping[str, Any]) -> bool:
        """Return whether a model is the best of its trial.

        One of a population may not be: what it went on from may have been another trial's.
        """
        if not self._is_population:
            return True
        metric, before = self._record.metric, self._record.best_epoch(record)
        sign = self._record.sign
        return before is None or sign * result[metric] > sign * before[metric]

    @override
    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Close a record."""
        record = self._close(trial, failed=False)
        how = record.status.replace("_", " ")
        if record.status is Status.FAILED:
            self._say_failed(record, trial)
        elif record.reason:
            log.warning("trial %d %s: %s", record.trial, how, record.reason)
        else:
            log.info("trial %d %s", record.trial, how)

    @override
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Close the record of a trial that failed."""
        self._say_failed(self._close(trial, failed=True), trial)

    @override
    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Say that a trial crashed and is tried again."""
        record = self._of(trial)
        place = f"epoch {record.n_epochs}" if record.n_epochs else "its start"
        log.warning(
            "trial %d crashed (%s); retried from %s", record.trial, crash_of(trial), place
        )

    @override
    def on_trial_save(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Drop states that a later one has taken the place of; a population needs them all."""
        if trial.checkpoint is not None and not self._is_population:
            drop_states(folder_of(trial), but=Path(trial.checkpoint.path))

    def _say_failed(self, record: TrialRecord, trial: Trial) -> None:
        log.error("trial %d failed: %s", record.trial, record.reason)
        for line in last_lines(trial):
            log.error("  %s", line)

    def _close(self, trial: Trial, *, failed: bool) -> TrialRecord:
        status, reason = ending_of(trial, failed=failed)
        self._budget.ended(trial.config[TRIAL_KEY], status)
        self._note(trial, status=status, reason=reason)
        record = self._of(trial)
        if status.has_ended and not self._is_population:
            places_of(self._record, record.trial).tidy(folder_of(trial), record.checkpoint)
        return record

    def _note(self, trial: Trial, **event: object) -> None:
        if gpu_s := self._budget.gpu_s:
            event["gpu_s"] = gpu_s
        with self._end.at_full_disk():
            self._record.note(trial.config[TRIAL_KEY], self._budget.used_s, **event)
            self._room.make()

    def _of(self, trial: Trial) -> TrialRecord:
        return self._record.trials[trial.config[TRIAL_KEY]]


def _of_training(epoch: Mapping[str, float]) -> str:
    if "train/loss" not in epoch:
        return ""
    return f", train/loss {epoch['train/loss']:.4f}, {epoch['time/epoch_s']:.0f} s"


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in params.items()
    )
