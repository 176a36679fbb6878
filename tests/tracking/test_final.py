"""Final runs in a real MLflow with SQLite: written once, however often they are told."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ragsearch.tracking.child import Parent
from ragsearch.tracking.final import FinalChild

FINAL = FinalChild(
    trial=1,
    seed=7,
    status="finished",
    reason=None,
    params={"optim.learning_rate": 0.1, "seed": 7},
    epochs=[{"epoch": 1, "val/em": 0.25}, {"epoch": 2, "val/em": 0.5}],
    scores={"val/em": 0.5, "test/em": 0.375},
)


@pytest.fixture
def client(tmp_path):
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def parent(client):
    experiment = client.create_experiment("kb")
    return Parent(experiment, client.create_run(experiment).info.run_id)


def the_run(client, parent):
    """Return the one child there is."""
    found = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    (run,) = client.search_runs([parent.experiment_id], found)
    return run


def history(client, run, key):
    return [
        (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
    ]


class Broken(MlflowClient):
    """Dies at some call that writes."""

    def __init__(self, uri, n_calls):
        super().__init__(uri)
        self.left = n_calls

    def log_batch(self, *args, **kwargs):
        """Write, or die."""
        if not self.left:
            raise MlflowException("gone")
        self.left -= 1
        super().log_batch(*args, **kwargs)


@pytest.mark.parametrize("n_calls", range(5))
def test_a_run_that_was_written_in_part_is_completed(client, parent, n_calls):
    with pytest.raises(MlflowException, match="gone"):
        FINAL.write(Broken(client.tracking_uri, n_calls), parent)

    FINAL.write(client, parent)
    FINAL.write(client, parent)

    run = the_run(client, parent)
    assert run.info.status == "FINISHED"
    assert run.data.tags["ragsearch.status"] == "finished"
    assert run.data.params == {"optim.learning_rate": "0.1", "seed": "7"}
    assert history(client, run, "val/em") == [(1, 0.25), (2, 0.5)]
    assert history(client, run, "final/test/em") == [(0, 0.375)]


def test_a_run_that_failed_and_was_tried_again_is_the_same_run(client, parent):
    failed = replace(FINAL, status="failed", reason="its process died", scores={})
    replace(failed, epochs=FINAL.epochs[:1]).write(client, parent)
    assert the_run(client, parent).data.tags["ragsearch.reason"] == "its process died"

    FINAL.write(client, parent)

    run = the_run(client, parent)
    assert (run.info.status, run.data.tags["ragsearch.status"]) == ("FINISHED", "finished")
    assert history(client, run, "val/em") == [(1, 0.25), (2, 0.5)]
    assert "ragsearch.reason" not in run.data.tags
