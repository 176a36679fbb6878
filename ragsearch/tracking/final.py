"""A trial trained again with another seed, as a child run of its search's run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Param

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
        """Create the run and write all of it, unless it is there; raises what MLflow raises."""
        is_this = f"tags.`{FINAL_TAG}` = '{self.trial}' and tags.`{SEED_TAG}` = '{self.seed}'"
        known = children_of(client, parent, is_this)
        if any(run.data.tags[STATUS_TAG] == self.status for run in known):
            return
        tags = {
            PARENT_TAG: parent.run_id,
            FINAL_TAG: str(self.trial),
            SEED_TAG: str(self.seed),
            STATUS_TAG: self.status,
        }
        run = client.create_run(parent.experiment_id, tags=tags, run_name=self.name)
        run_id = str(run.info.run_id)
        params = [Param(key, str(value)) for key, value in self.params.items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])
        for epoch in self.epochs:
            self._log(client, run_id, epoch, int(epoch["epoch"]))
        kept = {f"final/{name}": value for name, value in self.scores.items()}
        self._log(client, run_id, kept, 0)
        if self.reason:
            client.log_batch(run_id, tags=tags_of({REASON_TAG: self.reason}))
        client.set_terminated(run_id, run_status(self.status))

    @staticmethod
    def _log(
        client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int
    ) -> None:
        now_ms = int(time.time() * 1000)
        points = [
            Point(key, value, now_ms, step).as_metric()
            for key, value in metrics.items()
            if "/" in key
        ]
        client.log_batch(run_id, metrics=points)
