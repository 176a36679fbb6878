"""One trial's run: what is to be told about it, and what MLflow has been told.

Everything is kept as plain data until MLflow has taken it, so a call that failed is repeated
later, by another process if need be. Repeating is harmless: a run is looked up before it is
created a second time, and MLflow keeps a metric of the same key, step, time and value once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType

PARENT_TAG = "mlflow.parentRunId"
TRIAL_TAG = "ragsearch.trial"
STATUS_TAG = "ragsearch.status"
REASON_TAG = "ragsearch.reason"
FRONT_TAG = "ragsearch.front"

# log_batch takes at most 1000 metrics, 100 parameters, 100 tags a call.
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_TAG_LENGTH = 5000  # of a tag's value, at most

_RUN_STATUS = {
    "finished": "FINISHED",
    "stopped_early": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "infeasible": "FAILED",
}

Item = TypeVar("Item")


def run_status(status: str) -> str:
    """Give MLflow's word for how a trial or a search ended."""
    return _RUN_STATUS[status]


@dataclass(frozen=True, slots=True)
class Parent:
    """Where children belong."""

    experiment_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int

    def as_metric(self) -> Metric:
        """Say it in MLflow's words."""
        return Metric(self.key, self.value, self.time_ms, self.step)


@dataclass(frozen=True, slots=True)
class Told:
    """What MLflow has taken of what was known of a trial."""

    run_id: str | None
    has_params: bool
    is_closed: bool
    n_points: int
    """Of the oldest ones."""
    n_files: int
    """Of the first ones."""


@dataclass
class Child:
    """The run of one trial, as far as it is known."""

    trial: int
    params: dict[str, str]
    varied: dict[str, str]
    start_ms: int
    run_id: str | None = None
    may_exist: bool = False
    """A call that creates the run was made and not answered, or forgotten by a restart."""
    has_params: bool = False
    n_epochs: int = 0
    """Epochs of which there are metrics: a trial that is tried again may report one twice."""
    points: list[Point] = field(default_factory=list)
    """Metrics MLflow does not have yet, oldest first."""
    files: list[str] = field(default_factory=list)
    """Files to keep as artifacts that MLflow does not have yet."""
    status: str = "running"
    reason: str | None = None
    """Why it failed, diverged or is infeasible."""
    end_ms: int | None = None
    is_closed: bool = False
    """MLflow knows how it ended."""

    @property
    def is_told(self) -> bool:
        """Tell whether the trial has ended and MLflow knows all of it."""
        return self.end_ms is not None and not self.is_behind

    @property
    def is_behind(self) -> bool:
        """Tell whether MLflow lacks something that is known of the trial."""
        unsaid_end = (self.end_ms is not None) != self.is_closed
        return unsaid_end or bool(self.points or self.files) or not self.has_params

    def add(self, metrics: Mapping[str, float], reported_s: float) -> None:
        """Note the metrics of a validation, unless they were noted before.

        Args:
            metrics: By name; `epoch` among them is their step.
            reported_s: When they were reported, in seconds since 1970; MLflow keeps metrics
                that it is told again with the same time only once.
        """
        step, time_ms = int(metrics["epoch"]), int(reported_s * 1000)
        if step <= self.n_epochs:
            return
        self.n_epochs = step
        self.points += [
            Point(key, value, time_ms, step) for key, value in metrics.items() if "/" in key
        ]

    def reopen(self) -> None:
        """Go on after a restart of the search."""
        self.status, self.reason, self.end_ms = "running", None, None

    def end(self, status: str, reason: str | None, time_ms: int) -> None:
        """Note how the trial ended, and why."""
        self.status, self.reason, self.end_ms = status, reason, time_ms

    def told(self, n_points: int, n_files: int) -> Told:
        """Say what MLflow has, of so many points and files that were here before."""
        n_points, n_files = n_points - len(self.points), n_files - len(self.files)
        return Told(self.run_id, self.has_params, self.is_closed, n_points, n_files)

    def note_told(self, told: Told) -> None:
        """Take note of what MLflow has by now."""
        self.run_id, self.has_params = told.run_id, told.has_params
        self.is_closed = told.is_closed
        del self.points[: told.n_points], self.files[: told.n_files]

    def bring_up_to_date(self, client: MlflowClient, parent: Parent) -> None:
        """Tell MLflow everything it does not know yet; raises what MLflow raises."""
        run_id = self.run_id = self.run_id or self._create(client, parent)
        has_ended = self.end_ms is not None  # before points: those of the end are there by now
        status = self._status_tags() if has_ended != self.is_closed else []
        for params, points in self._untold() or ([((), ())] if status else []):
            client.log_batch(run_id, [one.as_metric() for one in points], params, status)
            del self.points[: len(points)]
        self.has_params = True
        if has_ended and not self.is_closed:
            client.set_terminated(run_id, run_status(self.status), self.end_ms)
        elif not has_ended and self.is_closed:
            client.update_run(run_id, status="RUNNING")
        self.is_closed = has_ended
        while self.files:
            client.log_artifact(run_id, self.files[0])
            del self.files[0]

    def _untold(self) -> list[tuple[Sequence[Param], Sequence[Point]]]:
        """Return parameters and metrics in as few calls as MLflow takes them."""
        params = [Param(name, value) for name, value in self.params.items()]
        nothing: Sequence[Any] = ()  # Any: of parameters or of points
        return list(
            zip_longest(
                _pieces(nothing if self.has_params else params, _PARAMS_A_CALL),
                _pieces(list(self.points), _METRICS_A_CALL),
                fillvalue=nothing,
            )
        )

    def _status_tags(self) -> list[RunTag]:
        tags = {STATUS_TAG: self.status}
        if self.reason is not None:
            tags[REASON_TAG] = self.reason[:_TAG_LENGTH]
        return tags_of(tags)

    def _create(self, client: MlflowClient, parent: Parent) -> str:
        if self.may_exist:
            for run in children_of(client, parent, f"tags.`{TRIAL_TAG}` = '{self.trial}'"):
                self.is_closed = self.end_ms is None and run.info.status != "RUNNING"
                return str(run.info.run_id)
        self.may_exist = True
        tags = {PARENT_TAG: parent.run_id, TRIAL_TAG: str(self.trial), STATUS_TAG: "running"}
        tags |= {f"ragsearch.varied.{name}": value for name, value in self.varied.items()}
        run = client.create_run(
            parent.experiment_id,
            start_time=self.start_ms,
            tags=tags,
            run_name=f"trial {self.trial}",
        )
        return str(run.info.run_id)


def children_of(client: MlflowClient, parent: Parent, also: str) -> Iterator[Run]:
    """Find the child runs of a search that fulfil one more condition."""
    token = None
    while True:
        page = client.search_runs(
            [parent.experiment_id],
            f"tags.`{PARENT_TAG}` = '{parent.run_id}' and {also}",
            ViewType.ACTIVE_ONLY,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def tags_of(values: Mapping[str, object]) -> list[RunTag]:
    """Make MLflow's tags of names and values."""
    return [RunTag(name, str(value)) for name, value in values.items()]


def _pieces(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
