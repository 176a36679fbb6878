"""Events of a search: into its record on disk, and one line each into the log."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from ragsearch.search.ending import ending_of
from ragsearch.search.record import RUNG, SearchRecord, TrialRecord
from ragsearch.search.space import TRIAL_KEY, VERDICT_KEY
from ragsearch.search.trainable import varied
from ragsearch.spec import Spec

log = logging.getLogger(__name__)

REPORTED = ("val/", RUNG, "train/", "time/", "retrieval/")
"""How the metrics of a validation begin."""


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
        if not result["epoch"] and "val/n" not in result:
            return  # no validation, but how the trial ended
        epoch = {
            key: float(value)
            for key, value in result.items()
            if key == "epoch" or key.startswith(REPORTED)
        }
        record = self._of(trial)
        record.epochs.append(epoch)
        if saved := result.get("checkpoint_dir_name"):
            assert trial.path is not None  # a trial that reported has a folder
            folder = Path(trial.path, saved)
            record.checkpoint = str(folder.relative_to(self._record.folder))
        self._record.save()
        metric = self._record.metric
        trained = (
            f", train/loss {epoch['train/loss']:.4f}, {epoch['time/epoch_s']:.0f} s"
            if "train/loss" in epoch
            else ""
        )
        log.info(
            "trial %d epoch %d/%d: %s %.4f%s",
            record.trial, epoch["epoch"], self._n_epochs(trial), metric, epoch[metric], trained,
        )  # fmt: skip

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
        record = self._of(trial)
        record.status, record.reason = ending_of(self._end.stop_all, trial, failed=failed)
        self._record.save()
        return record

    def _of(self, trial: Trial) -> TrialRecord:
        return self._record.trials[trial.config[TRIAL_KEY]]

    def _n_epochs(self, trial: Trial) -> int:
        return self._spec.trial_with(varied(trial.config)).train.max_epochs


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in params.items()
    )
