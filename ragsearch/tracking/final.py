"""A trial trained again with another seed, as a child run of its search's run.

Writing it again is harmless: its run is looked up before it is created a second time, and every
metric has the time at which that run was started, so that MLflow keeps it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Param, Run

from ragsearch.tracking.child import (
    PARENT_TAG,
    REASON_TAG,
    STATUS_TAG,
    Parent,
    Point,
    children_of,
    run_status,
    tags_of,
)

FINAL_TAG = "ragsearch.final"
"""The trial that was trained again; such a run has no `ragsearch.trial`, as it is none."""
SEED_TAG = "ragsearch.seed"
_PARAMS_A_CALL = 100


@dataclass(frozen=True)
class FinalChild:
    """What is known of a run that has ended."""

    trial: int
    seed: int
    status: str
    reason: str | None
    params: Mapping[str, object]
    """The whole configuration under dotted names."""
    epochs: Sequence[Mapping[str, float]]
    """Metrics of each validation, its `epoch` among them."""
    scores: Mapping[str, float]
    """`val/...` and `test/...` of the model that was kept."""

    @property
    def name(self) -> str:
        """What MLflow shows."""
        return f"final: trial {self.trial}, seed {self.seed}"

    def write(self, client: MlflowClient, parent: Parent) -> None:
        """Write all of it that is not there yet; raises what MLflow raises."""
        run = self._known(client, parent) or self._create(client, parent)
        if run.data.tags[STATUS_TAG] == self.status:
            return
        run_id, start_ms = str(run.info.run_id), run.info.start_time
        params = [Param(key, str(value)) for key, value in self.params.items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])
        for epoch in self.epochs:
            self._log(client, run_id, epoch, start_ms, int(epoch["epoch"]))
        kept = {f"final/{name}": value for name, value in self.scores.items()}
        self._log(client, run_id, kept, start_ms, 0)
        client.set_terminated(run_id, run_status(self.status))
        if REASON_TAG in run.data.tags and not self.reason:
            client.delete_tag(run_id, REASON_TAG)
        # last: whoever finds it need not look at the rest
        reason = {REASON_TAG: self.reason} if self.reason else {}
        client.log_batch(run_id, tags=tags_of({**reason, STATUS_TAG: self.status}))

    def _known(self, client: MlflowClient, parent: Parent) -> Run | None:
        is_this = f"tags.`{FINAL_TAG}` = '{self.trial}' and tags.`{SEED_TAG}` = '{self.seed}'"
        return next(children_of(client, parent, is_this), None)

    def _create(self, client: MlflowClient, parent: Parent) -> Run:
        tags = {
            PARENT_TAG: parent.run_id,
            FINAL_TAG: str(self.trial),
            SEED_TAG: str(self.seed),
            STATUS_TAG: "running",
        }
        return client.create_run(parent.experiment_id, tags=tags, run_name=self.name)

    @staticmethod
    def _log(
        client: MlflowClient,
        run_id: str,
        metrics: Mapping[str, float],
        time_ms: int,
        step: int,
    ) -> None:
        points = [
            Point(key, value, time_ms, step).as_metric()
            for key, value in metrics.items()
            if "/" in key
        ]
        client.log_batch(run_id, metrics=points)
