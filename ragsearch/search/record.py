"""The record of a search: one folder, readable without Ray, Optuna or MLflow.

`runs/<name>-<time>/` holds `space.yaml` (as the user wrote it), `resolved.json` (what it came
to), `search.json` (this record as the search was begun or ended), `events.jsonl` (what happened
to trials since then), `study.journal` (Optuna), `brackets.jsonl` (HyperBand, where it is used),
`lock` (held by the process that runs the search) and `tune/`, `tune-2/`, ... (Ray Tune with the
checkpoints, one for each time the search was run).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ragsearch.errors import BadInputError, DiskFullError
from ragsearch.search.journal import append_row, read_rows, write_whole
from ragsearch.search.lock import is_locked

RECORD_FILE = "search.json"
EVENTS_FILE = "events.jsonl"
TUNE_FOLDER = "tune"
STATUS_ATTR = "ragsearch.status"  # of a trial of the study


class Status(StrEnum):
    """How a trial or a search stands."""

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
    """It can go on from where it was (`ragsearch run --resume`)."""

    @property
    def has_ended(self) -> bool:
        """Tell whether it will not go on."""
        return self not in {Status.RUNNING, Status.INTERRUPTED}

    @property
    def is_bad(self) -> bool:
        """Tell whether its scores say nothing of others: it diverged, or is infeasible."""
        return self in {Status.DIVERGED, Status.INFEASIBLE}


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
    """Values of the varied parameters, by dotted path: where they change, of its best epoch."""
    status: Status = Status.RUNNING
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each validation, in order."""
    reported: list[float] = field(default_factory=list)
    """When each was reported, in seconds since 1970."""
    checkpoint: str | None = None
    """Folder of the best epoch's model, relative to the search folder."""
    changed: dict[str, object] | None = None
    """Values it goes on with, where PBT or PB2 has changed them."""
    reason: str | None = None
    """Why it failed, diverged or is infeasible, in one line."""
    rescored: list[Rescored] = field(default_factory=list)
    """Its model under every setting of `rescore`, the trained one first; empty where it was not
    among the best."""

    @property
    def n_epochs(self) -> int:
        """Epochs that were validated."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0


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

    def start(self, *, anew: bool = True) -> None:
        """Run; anew, an earlier attempt is forgotten."""
        self.status, self.reason = Status.RUNNING, None
        if anew:
            self.epochs, self.checkpoint = [], None

    @property
    def n_epochs(self) -> int:
        """Epochs that were validated."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"trial-{self.trial:04d}-seed-{self.seed}"

    @property
    def is_open(self) -> bool:
        """Whether it is to be trained, or to be scored."""
        return not self.status.has_ended or (
            self.status is Status.FINISHED and self.test is None
        )


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
    n_runs: int = 1
    """How many times it was run: begun, resumed or extended."""
    wall_s: float = 0.0
    """Seconds that trials ran, of all its runs, as of the last event."""
    id: str = ""
    """What no other search has, by which MLflow finds its run; none in records of old."""
    data: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the questions that trials are trained and compared on."""
    models: dict[str, str] = field(default_factory=dict)
    """Hash of each model folder that trials open (`inputs.model_digest`); none in records of
    old."""
    gpu_s: float = 0.0
    """GPUs of trials times the seconds they ran, likewise."""
    ended_by: str | None = None
    """By what it ended, in words; None while it runs or where it was interrupted."""
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    rung_examples: int | None = None
    """Validation questions of every epoch but the last; None where all are asked always."""
    final: list[FinalRun] = field(default_factory=list)
    """The best trials and the baseline, each trained again with several seeds."""
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

    @property
    def named(self) -> str:
        """As commands of the current folder take it: its name, or else its folder."""
        is_near = self.folder.parent == Path("runs").resolve()  # where commands look themselves
        return self.search if is_near else str(self.folder)

    @property
    def tune_folder(self) -> Path:
        """Where Ray Tune keeps this run of the search, which is never that of another."""
        number = f"-{self.n_runs}" if self.n_runs > 1 else ""
        return self.folder / f"{TUNE_FOLDER}{number}"

    def relative(self, path: Path) -> str:
        """Return a path in the search's folder as the record has it."""
        return str(path.relative_to(self.folder))

    @property
    def can_go_on(self) -> bool:
        """Tell whether it or a trial was interrupted."""
        statuses = {self.status, *(trial.status for trial in self.trials.values())}
        return self.status is not Status.RUNNING and Status.INTERRUPTED in statuses

    def best_epoch(self, trial: TrialRecord) -> dict[str, float] | None:
        """Give the metrics of a trial's best validation, the one its checkpoint is from."""
        return max(
            trial.epochs,
            key=lambda epoch: self.sign * compared(epoch, self.metric),
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
            if not record.status.is_bad and (best := self.metrics_of(record)) is not None
        ]
        return [record for *_, record in sorted(scored, key=lambda row: row[:3])]

    def note(self, trial: int, wall_s: float, **event: object) -> None:
        """Change a trial, here and on disk, at the price of one line.

        Args:
            trial: Its number; a new one is opened.
            wall_s: Seconds the search has run.
            event: Fields of `TrialRecord` with their new values; `epoch` instead of `epochs`:
                the metrics of one more validation, ignored if that epoch is there already;
                `gpu_s` of the search.

        Raises:
            OSError: If the disk does not take it.
        """
        row = {"trial": trial, "wall_s": wall_s, **event}
        self.apply(row)
        append_row(self.folder / EVENTS_FILE, row)

    def apply(self, event: dict[str, Any]) -> None:  # Any: as JSON has it
        """Change a trial as an event says; doing so twice does no more than once."""
        changes = dict(event)
        self.wall_s = changes.pop("wall_s")
        self.gpu_s = changes.pop("gpu_s", self.gpu_s)
        number, epoch = changes.pop("trial"), changes.pop("epoch", None)
        reported = changes.pop("reported", None)
        trial = self.trials.setdefault(number, TrialRecord(number, {}))
        # without epochs there is one validation, after epoch 0
        if epoch is not None and max(1, epoch["epoch"]) > len(trial.epochs):
            trial.epochs.append(epoch)
            trial.reported.append(reported)
        for key, value in changes.items():
            setattr(trial, key, Status(value) if key == "status" else value)

    def save(self) -> None:
        """Write the whole record, events included; a crash leaves the one before.

        Raises:
            OSError: If the disk does not take it.
        """
        content = vars(self) | {"trials": [self.trials[n] for n in sorted(self.trials)]}
        del content["folder"]
        text = json.dumps(content, indent=1, default=vars)
        write_whole(self.folder / RECORD_FILE, f"{text}\n")
        (self.folder / EVENTS_FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "SearchRecord":
        """Read the record of a search.

        What is running by the files, though no process runs it, was interrupted.

        Returns:
            The record as of its last event; a search still running keeps changing it.

        Raises:
            BadInputError: If the folder holds none, or a damaged one.
        """
        file = folder / RECORD_FILE
        if not file.is_file():
            raise BadInputError.single(folder, f"no search here: {RECORD_FILE} is missing")
        try:
            # events first: where they are merged into the record meanwhile, they say it again
            events = read_rows(folder / EVENTS_FILE)
            record = cls._of(folder.resolve(), json.loads(file.read_text()))
            for event in events:
                record.apply(event)
        except (ValueError, TypeError, KeyError) as error:
            what = f"the record is damaged ({error}); restore it or run the search again"
            raise BadInputError.single(file, what) from error
        running = {Status.RUNNING} & {record.status, *(run.status for run in record.final)}
        if running and not is_locked(folder):
            record.interrupt()
        return record

    @classmethod
    def _of(cls, folder: Path, content: dict[str, Any]) -> "SearchRecord":  # Any: JSON's
        trials = [_trial_of(row) for row in content.pop("trials")]
        final = [FinalRun(**row) for row in content.pop("final", ())]
        indexes = {name: UsedIndex(**row) for name, row in content.pop("indexes").items()}
        content |= {
            "status": Status(content["status"]),
            "wall_s": content.get("wall_s") or 0.0,  # null once, where it was not known
            "others": tuple(Objective(**row) for row in content.get("others", ())),
            "choose": Choice(**content.get("choose", {})),
        }
        record = cls(folder=folder, indexes=indexes, final=final, **content)
        for trial in trials:
            trial.status = Status(trial.status)
        for run in final:
            run.status = Status(run.status)
        record.trials |= {trial.trial: trial for trial in trials}
        return record

    def disk_full(self, what: object) -> DiskFullError:
        """Return the error that says what to do where the disk is full."""
        return DiskFullError(
            f"search {self.search}: the disk is full ({what}); free some space, then go on "
            f"with `ragsearch run --resume {self.named}`"
        )

    def interrupt(self) -> None:
        """Take what runs for interrupted."""
        all_of_it: list[SearchRecord | TrialRecord | FinalRun]
        all_of_it = [self, *self.trials.values(), *self.final]
        for one in all_of_it:
            if one.status is Status.RUNNING:
                one.status = Status.INTERRUPTED


def _trial_of(row: dict[str, Any]) -> TrialRecord:  # Any: as JSON has it
    trial = TrialRecord(**_renamed(row))
    trial.rescored = [Rescored(**setting) for setting in row.get("rescored", ())]
    return trial


def compared(epoch: Mapping[str, float], metric: str) -> float:
    """Return an epoch's value of a metric on the questions that all epochs have in common."""
    return epoch.get(f"{RUNG}{metric}", epoch[metric])


def _renamed(row: dict[str, Any]) -> dict[str, Any]:  # Any: as JSON has it
    """Return a trial as it is written today: `reason` was `error` once."""
    return {("reason" if key == "error" else key): value for key, value in row.items()}
