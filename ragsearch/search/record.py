"""The record of a search: one folder, readable without Ray, Optuna or MLflow.

`runs/<name>-<time>/` holds `space.yaml` (as the user wrote it), `resolved.json` (what it came
to), `search.json` (this record, rewritten whole after every event), `study.db` (Optuna) and
`tune/` (Ray Tune, with the checkpoints).
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ragsearch.errors import BadInputError

RECORD_FILE = "search.json"


class Status(StrEnum):
    """How a trial or a search stands; a trial is bad that diverged or is infeasible."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"
    """It crashed, which says nothing of its configuration."""
    DIVERGED = "diverged"
    """Its loss or its weights are no longer sensible numbers."""
    INFEASIBLE = "infeasible"
    """It needs more memory than there is, or breaks a constraint."""
    INTERRUPTED = "interrupted"


RUNG = "rung/"
"""Before the name of a metric: its value on the questions that every epoch of every trial is
validated on, where the last epoch is validated on more (`search.scheduler.rung_examples`)."""


@dataclass(frozen=True)
class Rescored:
    """A trained model's scores under a setting that needs no training."""

    values: dict[str, object]
    """What differs from the trial, by dotted path; nothing for the trial as it was trained."""
    metrics: dict[str, float]
    """`val/...` on all validation questions."""


@dataclass
class TrialRecord:
    """One trial: what it tried, what came of it."""

    trial: int
    params: dict[str, object]
    """Values of the varied parameters, by dotted path."""
    status: Status = Status.RUNNING
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each validation, in order."""
    checkpoint: str | None = None
    """Folder of the best epoch's model, relative to the search folder."""
    reason: str | None = None
    """Why it failed, diverged or is infeasible, in one line."""
    rescored: list[Rescored] = field(default_factory=list)
    """Its model under every setting of `rescore`, the trained one first; empty where it was not
    among the best."""


@dataclass
class FinalRun:
    """A trial trained again with another seed, and scored on the test questions."""

    trial: int
    seed: int
    values: dict[str, object] = field(default_factory=dict)
    """Its best setting of `rescore`, under which it is scored."""
    status: Status = Status.RUNNING
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each validation, in order."""
    checkpoint: str | None = None
    """Folder of the best epoch's model, relative to the search folder."""
    reason: str | None = None
    """Why it failed or diverged, in one line."""
    val: dict[str, float] | None = None
    """`val/...` of that model under `values`."""
    test: dict[str, float] | None = None
    """`test/...` of the same; None until it is scored, which it is once."""

    def start(self) -> None:
        """Forget an earlier attempt that came to nothing."""
        self.status, self.reason, self.epochs, self.checkpoint = Status.RUNNING, None, [], None

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"trial-{self.trial:04d}-seed-{self.seed}"


@dataclass(frozen=True)
class UsedIndex:
    """An index a search ran on."""

    folder: str
    fingerprint: str


@dataclass
class SearchRecord:
    """A search and its trials."""

    folder: Path
    name: str
    metric: str
    goal: str
    indexes: dict[str, UsedIndex]
    tracking_uri: str
    status: Status = Status.RUNNING
    started: str = ""
    """Local time with offset, ISO 8601."""
    wall_s: float | None = None
    """From the first trial's start to the end; None while it runs."""
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    rung_examples: int | None = None
    """Validation questions of every epoch but the last; None where all are asked always."""
    final: list[FinalRun] = field(default_factory=list)
    """The best trials and the baseline, each trained again with several seeds."""

    @property
    def search(self) -> str:
        """The name by which commands know the search: its folder's name."""
        return self.folder.name

    def best_epoch(self, trial: TrialRecord) -> dict[str, float] | None:
        """Give the metrics of a trial's best validation, the one its checkpoint is from."""
        # compared on the questions that all epochs have in common
        return max(
            trial.epochs,
            key=lambda epoch: self.sign * epoch.get(f"{RUNG}{self.metric}", epoch[self.metric]),
            default=None,
        )

    @property
    def sign(self) -> float:
        """What the objective is multiplied with to be better where it is larger."""
        return 1.0 if self.goal == "max" else -1.0

    def best_setting(self, trial: TrialRecord) -> Rescored | None:
        """Give the setting under which a trial's model is best, the first among equals."""
        return max(
            trial.rescored,
            key=lambda rescored: self.sign * rescored.metrics[self.metric],
            default=None,
        )

    def metrics_of(self, trial: TrialRecord) -> dict[str, float] | None:
        """Give the metrics of a trial's best model, asked as it answers best."""
        epoch, setting = self.best_epoch(trial), self.best_setting(trial)
        if epoch is None or setting is None:
            return epoch
        return epoch | setting.metrics

    def is_partial(self, trial: TrialRecord) -> bool:
        """Tell whether the best model of a trial was validated on some questions only."""
        epoch = self.best_epoch(trial)
        if self.rung_examples is None or epoch is None or trial.rescored:
            return False
        return f"{RUNG}{self.metric}" not in epoch

    def ranked(self) -> list[TrialRecord]:
        """Give trials that reported and are not bad, best first; the earlier among equals."""
        # those stopped when validated on some questions come after those validated on all
        scored = [
            (self.is_partial(record), -self.sign * best[self.metric], record.trial, record)
            for record in self.trials.values()
            if record.status not in {Status.DIVERGED, Status.INFEASIBLE}
            and (best := self.metrics_of(record)) is not None
        ]
        return [record for *_, record in sorted(scored, key=lambda row: row[:3])]

    def save(self) -> None:
        """Write the record; a crash leaves the one before."""
        content = asdict(self) | {"trials": [asdict(t) for _, t in sorted(self.trials.items())]}
        del content["folder"]
        beside = self.folder / f"{RECORD_FILE}.new"
        beside.write_text(json.dumps(content, indent=1) + "\n")
        beside.replace(self.folder / RECORD_FILE)

    @classmethod
    def load(cls, folder: Path) -> "SearchRecord":
        """Read the record of a search.

        Returns:
            The record as it was last saved; a search still running keeps changing it.

        Raises:
            BadInputError: If the folder holds none, or a damaged one.
        """
        file = folder / RECORD_FILE
        if not file.is_file():
            raise BadInputError.single(folder, f"no search here: {RECORD_FILE} is missing")
        try:
            content = json.loads(file.read_text())
            trials = [_trial_of(row) for row in content.pop("trials")]
            final = [FinalRun(**row) for row in content.pop("final", ())]
            indexes = {name: UsedIndex(**row) for name, row in content.pop("indexes").items()}
            content["status"] = Status(content["status"])
            record = cls(folder=folder.resolve(), indexes=indexes, final=final, **content)
        except (ValueError, TypeError, KeyError) as error:
            what = f"the record is damaged ({error}); restore it or run the search again"
            raise BadInputError.single(file, what) from error
        for trial in trials:
            trial.status = Status(trial.status)
        for run in final:
            run.status = Status(run.status)
        record.trials |= {trial.trial: trial for trial in trials}
        return record


def _trial_of(row: dict[str, Any]) -> TrialRecord:  # Any: as JSON has it
    trial = TrialRecord(**_renamed(row))
    trial.rescored = [Rescored(**setting) for setting in row.get("rescored", ())]
    return trial


def _renamed(row: dict[str, Any]) -> dict[str, Any]:  # Any: as JSON has it
    """Return a trial as it is written today: `reason` was `error` once."""
    return {("reason" if key == "error" else key): value for key, value in row.items()}
