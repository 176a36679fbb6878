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


@dataclass(frozen=True)
class UsedIndex:
    """An index a search ran on."""

    folder: str
    fingerprint: str


@dataclass(frozen=True)
class Objective:
    """What a search is after."""

    metric: str
    goal: str


@dataclass(frozen=True)
class Choice:
    """Which trial of a Pareto front is exported (`ragsearch.search.front`)."""

    within: float = 0.0
    then: str | None = None


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
    others: tuple[Objective, ...] = ()
    """The objectives after the first, which `metric` and `goal` are."""
    choose: Choice = Choice()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Give all objectives, the first one first."""
        return (Objective(self.metric, self.goal), *self.others)

    @property
    def search(self) -> str:
        """The name by which commands know the search: its folder's name."""
        return self.folder.name

    def best_epoch(self, trial: TrialRecord) -> dict[str, float] | None:
        """Give the metrics of a trial's best validation, the one its checkpoint is from."""
        sign = 1.0 if self.goal == "max" else -1.0
        return max(trial.epochs, key=lambda epoch: sign * epoch[self.metric], default=None)

    def ranked(self) -> list[TrialRecord]:
        """Give trials that reported and are not bad, best first; the earlier among equals."""
        sign = 1.0 if self.goal == "max" else -1.0
        scored = [
            (-sign * best[self.metric], record.trial, record)
            for record in self.trials.values()
            if record.status not in {Status.DIVERGED, Status.INFEASIBLE}
            and (best := self.best_epoch(record)) is not None
        ]
        return [record for _, _, record in sorted(scored, key=lambda row: row[:2])]

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
            trials = [TrialRecord(**_renamed(row)) for row in content.pop("trials")]
            indexes = {name: UsedIndex(**row) for name, row in content.pop("indexes").items()}
            content["status"] = Status(content["status"])
            content["others"] = tuple(Objective(**row) for row in content.get("others", ()))
            content["choose"] = Choice(**content.get("choose", {}))
            record = cls(folder=folder.resolve(), indexes=indexes, **content)
        except (ValueError, TypeError, KeyError) as error:
            what = f"the record is damaged ({error}); restore it or run the search again"
            raise BadInputError.single(file, what) from error
        for trial in trials:
            trial.status = Status(trial.status)
            record.trials[trial.trial] = trial
        return record


def _renamed(row: dict[str, Any]) -> dict[str, Any]:  # Any: as JSON has it
    """Return a trial as it is written today: `reason` was `error` once."""
    return {("reason" if key == "error" else key): value for key, value in row.items()}
