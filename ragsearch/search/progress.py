"""Events of a search: into its record on disk, and one line each into the log."""

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from ragsearch.search.ending import crash_of, ending_of, last_lines
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.space import TRIAL_KEY, VERDICT_KEY
from ragsearch.search.trainable import MODEL_KEY, STATE_FOLDER, varied
from ragsearch.spec import Spec

log = logging.getLogger(__name__)


class EndOfSearch(tune.Stopper):
    """Ends every trial when the user or the wall-time budget says so, and bad ones before.

    A trial is bad that diverged or is infeasible; the baseline goes on even so, if it can.
    """

    def __init__(self, wall_s: float | None) -> None:
        self.interrupted = False
        self._deadline = None if wall_s is None else time.monotonic() + wall_s

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
        return self._deadline is not None and time.monotonic() > self._deadline

    @override
    def stop_all(self) -> bool:
        """Tell Tune whether to end the search."""
        return self.interrupted or self.wall_is_over

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


class Bookkeeper(tune.Callback):
    """Keeps the record of a search up to date."""

    def __init__(self, spec: Spec, record: SearchRecord, end: EndOfSearch) -> None:
        self._spec, self._record, self._end = spec, record, end

    @override
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Open a record."""
        number, params = trial.config[TRIAL_KEY], varied(trial.config)
        if trial.num_failures:
            return  # it is retried, and that has been said
        self._record.trials.setdefault(number, TrialRecord(number, params))
        self._record.save()
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
        """Add an epoch, and remember where its model lies: only better ones are saved."""
        if not result["epoch"]:
            return  # no validation, but how the trial ended
        record = self._of(trial)
        if result["epoch"] <= record.n_epochs:
            return  # it crashed between its report and Tune's taking note of the checkpoint
        epoch = {
            key: float(value)
            for key, value in result.items()
            if key == "epoch" or key.startswith(("val/", "train/", "time/", "retrieval/"))
        }
        record.epochs.append(epoch)
        if result[MODEL_KEY]:
            folder = _folder(trial) / result["checkpoint_dir_name"]
            record.checkpoint = str(folder.relative_to(self._record.folder))
        self._record.save()
        metric = self._record.metric
        log.info(
            "trial %d epoch %d/%d: %s %.4f, train/loss %.4f, %.0f s",
            record.trial, epoch["epoch"], self._n_epochs(trial), metric, epoch[metric],
            epoch["train/loss"], epoch["time/epoch_s"],
        )  # fmt: skip

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
        """Drop states that a later one has taken the place of."""
        if trial.checkpoint is not None:
            _drop_states(_folder(trial), but=Path(trial.checkpoint.path))

    def _say_failed(self, record: TrialRecord, trial: Trial) -> None:
        log.error("trial %d failed: %s", record.trial, record.reason)
        for line in last_lines(trial):
            log.error("  %s", line)

    def _close(self, trial: Trial, *, failed: bool) -> TrialRecord:
        record = self._of(trial)
        record.status, record.reason = ending_of(self._end.stop_all, trial, failed=failed)
        self._record.save()
        if record.status is not Status.INTERRUPTED:
            _drop_states(_folder(trial))
        return record

    def _of(self, trial: Trial) -> TrialRecord:
        return self._record.trials[trial.config[TRIAL_KEY]]

    def _n_epochs(self, trial: Trial) -> int:
        return self._spec.trial_with(varied(trial.config)).train.max_epochs


def _folder(trial: Trial) -> Path:
    assert trial.path is not None  # a trial that was started has a folder
    return Path(trial.path)


def _drop_states(folder: Path, but: Path | None = None) -> None:
    """Remove the states of a trial's checkpoints, and checkpoints that were nothing else.

    Args:
        folder: That of the trial.
        but: The checkpoint whose state is spared.
    """
    for state in folder.glob(f"*/{STATE_FOLDER}"):
        if state.parent != but:
            shutil.rmtree(state, ignore_errors=True)
            with suppress(OSError):  # it holds a model
                state.parent.rmdir()


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in params.items()
    )
