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

from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.space import LAST_KEY, TRIAL_KEY
from ragsearch.search.trainable import varied
from ragsearch.spec import Spec

log = logging.getLogger(__name__)


class EndOfSearch(tune.Stopper):
    """Ends every trial when the user or the wall-time budget says so."""

    def __init__(self, wall_s: float | None) -> None:
        self.interrupted = False
        self._deadline = None if wall_s is None else time.monotonic() + wall_s

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by itself."""
        return False

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
        epoch = {
            key: float(value)
            for key, value in result.items()
            if key == "epoch" or key.startswith(("val/", "train/", "time/", "retrieval/"))
        }
        record = self._of(trial)
        record.epochs.append(epoch)
        if saved := result.get("checkpoint_dir_name"):
            assert trial.path is not None  # a trial that reported has a folder
            folder = Path(trial.path, saved)
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
        """Close a record: finished, stopped early or interrupted."""
        record = self._of(trial)
        if (trial.last_result or {}).get(LAST_KEY):
            record.status = Status.FINISHED
        elif self._end.stop_all():
            record.status = Status.INTERRUPTED
        else:
            record.status = Status.STOPPED_EARLY
        self._record.save()
        log.info("trial %d %s", record.trial, record.status.replace("_", " "))

    @override
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Close the record of a trial that failed."""
        record = self._of(trial)
        record.status = Status.FAILED
        record.error = _last_line(trial.error_file)
        self._record.save()
        log.error("trial %d failed: %s (%s)", record.trial, record.error, trial.error_file)

    def _of(self, trial: Trial) -> TrialRecord:
        return self._record.trials[trial.config[TRIAL_KEY]]

    def _n_epochs(self, trial: Trial) -> int:
        return self._spec.trial_with(varied(trial.config)).train.max_epochs


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in params.items()
    )


def _last_line(error_file: str | None) -> str:
    if error_file is None or not Path(error_file).is_file():
        return "its process died"
    lines = [line for line in Path(error_file).read_text().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its process died"
