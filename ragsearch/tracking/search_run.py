"""The parent run of a search: opened in the driver before any trial, closed after the last.

The driver makes the database, the experiment and the parent first: processes that open a new
SQLite file at the same time break each other's migrations.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run
from mlflow.exceptions import MlflowException

from ragsearch.errors import BadInputError, Mistake
from ragsearch.tracking.child import (
    FRONT_TAG,
    STATUS_TAG,
    TRIAL_TAG,
    Parent,
    Point,
    children_of,
    run_status,
    tags_of,
)
from ragsearch.tracking.final import FinalChild
from ragsearch.tracking.trials import HowItEnded, Resolve, TrialRuns
from ragsearch.tracking.writer import TROUBLE

log = logging.getLogger(__name__)

IDENTITY_TAG = "ragsearch.id"

_SQLITE = "sqlite:///"


class SearchRun:
    """A search in MLflow; `open` makes it, `trial_runs` follows the trials, `close` ends it."""

    def __init__(self, uri: str, client: MlflowClient, parent: Parent) -> None:
        self.uri = uri
        """Tracking URI, absolute: what `mlflow ui --backend-store-uri` takes."""
        self.run_id = parent.run_id
        self.experiment_id = parent.experiment_id
        self._client, self._parent = client, parent
        self._trial_runs: TrialRuns | None = None

    @classmethod
    def open(
        cls,
        uri: str,
        experiment: str,
        name: str,
        *,
        identity: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
    ) -> "SearchRun":
        """Go on with the run, or create it; database and experiment, too, if need be.

        Args:
            uri: MLflow tracking URI; a relative SQLite path is taken from the current folder.
            experiment: Name of the experiment; searches of one name share it.
            name: Name of the run.
            identity: What no other search has, to find the run of one that was interrupted.
            params: Settings of the search, under dotted names.
            tags: More about it, to filter by.

        Returns:
            The search in MLflow; `close` must be called on it.

        Raises:
            BadInputError: If MLflow cannot be used there.
        """
        uri = absolute_uri(uri)
        try:
            client = MlflowClient(uri)
            found = _experiment(client, uri, experiment)
            parent = _parent(client, str(found.experiment_id), name, identity)
            _describe(client, parent.run_id, params, tags)
        except TROUBLE as error:
            first = str(error).strip().partition("\n")[0]
            what = f"MLflow cannot be used at {uri!r}: {first}; give another URI"
            raise BadInputError([Mistake("tracking.uri", "", what)]) from error
        return cls(uri, client, parent)

    def trial_runs(self, resolve: Resolve, how_it_ended: HowItEnded) -> TrialRuns:
        """Make the Tune callback that writes every trial into a child run."""
        self._trial_runs = TrialRuns(self.uri, self._parent, resolve, how_it_ended)
        return self._trial_runs

    @classmethod
    def find(cls, uri: str, experiment: str, identity: str) -> "SearchRun | None":
        """Return the run of a search that has ended; None, with a warning, if there is none.

        Args:
            uri: MLflow tracking URI.
            experiment: Name of the experiment.
            identity: What the run was opened with.
        """
        uri = absolute_uri(uri)
        try:
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            runs = found and client.search_runs(
                [found.experiment_id], f"tags.`{IDENTITY_TAG}` = '{identity}'"
            )
        except TROUBLE as error:
            first = str(error).strip().partition("\n")[0]
            log.warning("MLflow at %s cannot be used: %s", uri, first)
            return None
        if not runs:
            log.warning("MLflow at %s does not have the search; nothing is written there", uri)
            return None
        info = runs[0].info
        return cls(uri, client, Parent(str(info.experiment_id), str(info.run_id)))

    def add_rescored(
        self, trial: int, values: Mapping[str, object], metrics: Mapping[str, float]
    ) -> None:
        """Write under which setting a trial's model is best, and its scores, into its run."""
        self._attempt(
            lambda: self._add_rescored(trial, values, metrics), f"write what trial {trial} got"
        )

    def _add_rescored(
        self, trial: int, values: Mapping[str, object], metrics: Mapping[str, float]
    ) -> None:
        condition = f"tags.`{TRIAL_TAG}` = '{trial}'"
        for run in children_of(self._client, self._parent, condition):
            self._client.log_batch(
                run.info.run_id,
                metrics=_untold(run, metrics),
                tags=tags_of({f"ragsearch.rescored.{key}": v for key, v in values.items()}),
            )

    def add_final(self, final: FinalChild) -> None:
        """Write a run of `final`, once: a child run beside those of the trials."""
        self._attempt(
            lambda: final.write(self._client, self._parent), f"write the final run {final.name}"
        )

    def log_text(self, text: str, file: str) -> None:
        """Keep a text as an artifact of the search."""
        self._attempt(lambda: self._client.log_text(self.run_id, text, file), f"keep {file}")

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write figures of the search as a whole, such as the best trial's, if they are new."""
        self._attempt(lambda: self._log_metrics(metrics), "write metrics")

    def _log_metrics(self, metrics: Mapping[str, float]) -> None:
        untold = _untold(self._client.get_run(self.run_id), metrics)
        self._client.log_batch(self.run_id, metrics=untold)

    def mark_front(self, trials: Iterable[int]) -> None:
        """Tag the runs of the trials on the Pareto front, and those of no others."""
        numbers = set(map(str, trials))
        self._attempt(lambda: self._mark_front(numbers), "mark the Pareto front")

    def _mark_front(self, numbers: set[str]) -> None:
        for run in list(children_of(self._client, self._parent, f"tags.`{TRIAL_TAG}` != ''")):
            is_on_it = run.data.tags[TRIAL_TAG] in numbers
            if is_on_it != (FRONT_TAG in run.data.tags):
                tag = (run.info.run_id, FRONT_TAG)
                if is_on_it:
                    self._client.set_tag(*tag, "true")
                else:
                    self._client.delete_tag(*tag)

    def close(self, status: str) -> None:
        """End the search's run, and the trials' that are still open.

        Args:
            status: `finished`, `failed` or `interrupted`.
        """
        if self._trial_runs is not None:
            self._trial_runs.finish()
        self._attempt(self._close_open_children, "end the runs of open trials")
        self._attempt(lambda: self._terminate(self.run_id, status), "end the search's run")

    def _close_open_children(self) -> None:
        for run in list(children_of(self._client, self._parent, "status = 'RUNNING'")):
            self._terminate(run.info.run_id, "interrupted")

    def _terminate(self, run_id: str, status: str) -> None:
        self._client.set_tag(run_id, STATUS_TAG, status)
        self._client.set_terminated(run_id, run_status(status), int(time.time() * 1000))

    def _attempt(self, call: Callable[[], object], what: str) -> None:
        """Tracking that fails after the start must not take the search down with it."""
        try:
            call()
        except TROUBLE as error:
            log.warning("MLflow at %s: could not %s: %s", self.uri, what, error)


def _untold(run: Run, metrics: Mapping[str, float]) -> list[Metric]:
    """Return what a run does not say already: a figure that is written again is not two."""
    now_ms, told = int(time.time() * 1000), run.data.metrics
    return [
        Point(key, value, now_ms, 0).as_metric()
        for key, value in metrics.items()
        if told.get(key) != value
    ]


def _parent(client: MlflowClient, experiment_id: str, name: str, identity: str) -> Parent:
    known = client.search_runs([experiment_id], f"tags.`{IDENTITY_TAG}` = '{identity}'")
    if known:
        run_id = str(known[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {IDENTITY_TAG: identity}
        run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    return Parent(experiment_id, run_id)


def _describe(
    client: MlflowClient, run_id: str, params: Mapping[str, object], tags: Mapping[str, object]
) -> None:
    """Write settings: those that changed when the search was extended as tags, too."""
    told = client.get_run(run_id).data.params
    now = {key: str(value) for key, value in params.items()}
    changed = {
        f"ragsearch.changed.{key}": value
        for key, value in now.items()
        if key in told and told[key] != value  # MLflow keeps a parameter for good
    }
    client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in now.items() if key not in told],
        tags=tags_of({**tags, **changed, STATUS_TAG: "running"}),
    )


def absolute_uri(uri: str) -> str:
    """Make a relative SQLite path absolute; any other URI stays as it is."""
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path:
        return uri
    return f"{_SQLITE}{Path(path).absolute()}"


def _experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(
                client.create_experiment(name, artifact_location=_artifacts(uri))
            )
        except MlflowException:  # another search of this name was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        msg = f"experiment {name!r} is deleted; restore it (`mlflow experiments restore`)"
        raise MlflowException(msg)
    return found


def _artifacts(uri: str) -> str | None:
    # MLflow's own default is `./mlruns` of whichever process comes first; a server knows its
    # own place.
    if not uri.startswith(_SQLITE):
        return None
    folder = Path(uri.removeprefix(_SQLITE)).parent / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.as_uri()
