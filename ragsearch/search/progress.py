"""Events of a search: into its record on disk, and one line each into the log."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from ragsearch.search.ending import ending_of, is_disk_full
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.space import LAST_KEY, REASON_KEY, TRIAL_KEY, VERDICT_KEY
from ragsearch.search.trainable import VALUES_KEY, varied
from ragsearch.spec import Spec
from ragsearch.tracking.trials import metrics_of

log = logging.getLogger(__name__)


class EndOfSearch(tune.Stopper):
    """Ends every trial when the user or the wall-time budget says so, and bad ones before.

    A trial is bad that diverged or is infeasible; the baseline goes on even so, if it can.
    """

    def __init__(self, wall_s: float | None, used_s: float = 0.0) -> None:
        """Start the clock.

        Args:
            wall_s: Wall-time budget; None without one.
            used_s: How much of it was used before, when the search was interrupted.
        """
        self.interrupted = False
        self.disk_full: str | None = None
        """What could not be written for want of space; None while all is well."""
        self._wall_s, self._used_s, self._started = wall_s, used_s, time.monotonic()

    @property
    def used_s(self) -> float:
        """Seconds the search has run, those before an interruption included."""
        return self._used_s + time.monotonic() - self._started

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Tell Tune whether to end a trial after a result."""
        if VERDICT_KEY not in result:
            return False
        is_baseline = result["config"][TRIAL_KEY] == 0
        return not (is_baseline and result["epoch"])

    @property
    def wall_is_over(self) -> bool:
        """Tell whether the wall-time budget is used up."""
        return self._wall_s is not None and self.used_s > self._wall_s

    @override
    def stop_all(self) -> bool:
        """Tell Tune whether to end the search."""
        return self.interrupted or self.wall_is_over or self.disk_full is not None

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

    @override
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Open a record, or go on with one."""
        number, params = trial.config[TRIAL_KEY], varied(trial.config)
        known = self._record.trials.get(number)
        found = {"params": params} if known is None else {}
        self._note(trial, status=Status.RUNNING, **found)
        if known is not None and known.epochs:
            log.info("trial %d goes on after epoch %d", number, known.last_epoch)
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
        """Add an epoch, and remember where its model lies and where the trial can go on."""
        if result.get(VERDICT_KEY) == Status.INTERRUPTED:
            self._end.disk_full = self._end.disk_full or result[REASON_KEY]
        if not result["epoch"]:
            return  # no validation, but how the trial ended
        if result["epoch"] <= self._of(trial).last_epoch:
            return  # done again after its process died, with the same outcome
        epoch, metric = metrics_of(result), self._record.metric
        changes = self._checkpoint(trial, result)
        if result.get(LAST_KEY) and VERDICT_KEY not in result:
            changes["status"] = (
                Status.FINISHED
            )  # said now: a kill before Tune says it costs nothing
        self._note(trial, epoch=epoch, reported=result["timestamp"], **changes)
        log.info(
            "trial %d epoch %d/%d: %s %.4f, train/loss %.4f, %.0f s",
            trial.config[TRIAL_KEY], epoch["epoch"], self._n_epochs(trial), metric,
            epoch[metric], epoch["train/loss"], epoch["time/epoch_s"],
        )  # fmt: skip

    def _checkpoint(self, trial: Trial, result: Mapping[str, Any]) -> dict[str, object]:
        """Return the fields of a record that a result's checkpoint changes."""
        if (saved := result.get("checkpoint_dir_name")) is None:
            return {}
        assert trial.path is not None  # a trial that reported has a folder
        folder = str(Path(trial.path, saved).relative_to(self._record.folder))
        metric, record = self._record.metric, self._of(trial)
        values = result.get(VALUES_KEY) or varied(trial.config)  # which PBT changes before
        found: dict[str, object] = {"last_checkpoint": folder}
        if values != (record.changed or record.params):
            found["changed"] = values
        before = self._record.best_epoch(record)
        sign = 1.0 if self._record.goal == "max" else -1.0
        if before is None or sign * result[metric] > sign * before[metric]:
            found |= {"checkpoint": folder, "params": values}
        return found

    @override
    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Close a record."""
        record = self._close(trial, failed=False)
        how = record.status.replace("_", " ")
        if record.reason:
            log.warning("trial %d %s: %s", record.trial, how, record.reason)
        else:
            log.info("trial %d %s", record.trial, how)

    @override
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Close the record of a trial that failed."""
        record = self._close(trial, failed=True)
        log.error("trial %d failed: %s (%s)", record.trial, record.reason, trial.error_file)

    def _close(self, trial: Trial, *, failed: bool) -> TrialRecord:
        status, reason = ending_of(trial, failed=failed)
        self._note(trial, status=status, reason=reason)
        return self._of(trial)

    def _note(self, trial: Trial, **event: object) -> None:
        with self._end.at_full_disk():
            self._record.note(trial.config[TRIAL_KEY], self._end.used_s, **event)

    def _of(self, trial: Trial) -> TrialRecord:
        return self._record.trials[trial.config[TRIAL_KEY]]

    def _n_epochs(self, trial: Trial) -> int:
        return self._spec.trial_with(varied(trial.config)).train.max_epochs


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in params.items()
    )
