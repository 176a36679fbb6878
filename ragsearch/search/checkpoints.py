"""What trials leave on disk: models, and states that trials and final runs go on from.

A checkpoint is a folder with a model, a state (`training.state`), or both. Those of one trial
lie below a folder of its name in every experiment of Tune that it was part of; a search that
goes on has a new experiment each time.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.experiment import Trial

from ragsearch.search.record import TUNE_FOLDER, SearchRecord
from ragsearch.search.trainable import STATE_FOLDER, folder_name


class Places(NamedTuple):
    """Where the checkpoints of one trial, or of one final run, may lie."""

    search: Path
    """Folder of the search."""
    experiments: str
    """What the names of the experiments begin with."""
    name: str
    """Folder of the trial in each of them."""

    def folders(self) -> Iterable[Path]:
        """Return those that are there."""
        return self.search.glob(f"{self.experiments}*/{self.name}")

    def newest(self, n_epochs: int) -> Path | None:
        """Return the checkpoint to go on from after so many epochs; None to start anew.

        Of those with a state it is the newest one that is not ahead of the record: what came
        after it is done again.
        """
        states = [
            state
            for folder in self.folders()
            for state in folder.glob(f"*/{STATE_FOLDER}/state.json")
        ]
        states.sort(key=lambda state: state.stat().st_mtime)  # of one epoch the last one counts
        after = {_epoch_of(state): state.parent.parent for state in states}
        done = [epoch for epoch in after if 0 < epoch <= n_epochs]
        return after[max(done)] if done else None

    def tidy(self, now: Path, kept: str | None) -> None:
        """Drop what a trial needed to go on, and worse models of earlier runs.

        Args:
            now: Its folder in the experiment of today, where Tune sees to the models.
            kept: Its best model, relative to the search's folder.
        """
        for folder in self.folders():
            drop_states(folder)
            for model in folder.glob("checkpoint_*") if folder != now else ():
                if str(model.relative_to(self.search)) != kept:
                    shutil.rmtree(model, ignore_errors=True)


def places_of(record: SearchRecord, number: int) -> Places:
    """Return where the checkpoints of a trial may lie."""
    return Places(record.folder, TUNE_FOLDER, folder_name(number))


def resumable(record: SearchRecord) -> dict[int, Path]:
    """Return the checkpoints that trials go on from which have not ended, by their numbers."""
    found = {
        number: places_of(record, number).newest(trial.n_epochs)
        for number, trial in record.trials.items()
        if not trial.status.has_ended
    }
    return {number: place for number, place in found.items() if place is not None}


def folder_of(trial: Trial) -> Path:
    """Return the folder of a trial of Tune that was started."""
    assert trial.path is not None  # a trial that was started has a folder
    return Path(trial.path)


def checkpoint_of(trial: Trial, result: Mapping[str, Any]) -> Path:  # Any: as Tune has it
    """Return the folder of the checkpoint that came with a result."""
    return folder_of(trial) / str(result["checkpoint_dir_name"])


def drop_states(folder: Path, but: Path | None = None) -> None:
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


def drop_donors(record: SearchRecord) -> None:
    """Remove what a population kept for others: all but best models, and last states."""
    going_on = resumable(record)
    for number, trial in record.trials.items():
        for folder in places_of(record, number).folders():
            for checkpoint in folder.glob("checkpoint_*"):
                if checkpoint == going_on.get(number):
                    continue
                shutil.rmtree(checkpoint / STATE_FOLDER, ignore_errors=True)
                if record.relative(checkpoint) != trial.checkpoint:
                    shutil.rmtree(checkpoint)


def _epoch_of(state: Path) -> int:
    """Return after which epoch a state is; 0 if that cannot be read."""
    try:
        return int(json.loads(state.read_text())["progress"]["epoch"])
    except (ValueError, KeyError, TypeError):
        return 0
