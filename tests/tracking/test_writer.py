"""The process that writes to MLflow: what it is told gets there, whatever ends it."""

import os
import signal
from uuid import uuid4

import psutil
import pytest
from mlflow import MlflowClient

from ragsearch.tracking.child import Child, Parent, children_of
from ragsearch.tracking.search_run import SearchRun
from ragsearch.tracking.writer import Writer


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> SearchRun:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    return SearchRun.open(uri, "kb", "kb-1", identity=uuid4().hex, params={}, tags={})


@pytest.fixture
def parent(search) -> Parent:
    """A parent run of no other test."""
    run = MlflowClient(search.uri).create_run(search.experiment_id)
    return Parent(search.experiment_id, run.info.run_id)


@pytest.fixture
def writer(search):
    made = Writer(search.uri)
    yield made
    made.close()


def child(*epochs: int) -> Child:
    made = Child(3, {"optim.learning_rate": "0.1"}, {"optim.learning_rate": "0.1"}, start_ms=5)
    for epoch in epochs:
        made.add({"epoch": epoch, "val/em": epoch / 100}, 1000.0 + epoch)
    return made


def written(search, parent):
    (run,) = children_of(MlflowClient(search.uri), parent, "tags.`ragsearch.trial` = '3'")
    points = MlflowClient(search.uri).get_metric_history(run.info.run_id, "val/em")
    return run, [(point.step, point.value, point.timestamp) for point in points]


def test_a_trial_is_written_step_by_step_and_nothing_twice(search, parent, writer):
    trial = child(1)
    writer.bring_up_to_date(trial, parent)
    assert trial.points == []
    trial.add({"epoch": 2, "val/em": 0.02}, 1002.0)
    trial.end("finished", None, 9_000)
    writer.bring_up_to_date(trial, parent)

    assert trial.is_told
    run, points = written(search, parent)
    assert run.info.run_id == trial.run_id
    assert run.data.params == {"optim.learning_rate": "0.1"}
    assert (run.info.status, run.info.end_time) == ("FINISHED", 9_000)
    assert points == [(1, 0.01, 1_001_000), (2, 0.02, 1_002_000)]


def test_a_writer_that_was_killed_is_started_again_and_finds_the_run(search, parent, writer):
    trial = child(1)
    writer.bring_up_to_date(trial, parent)
    os.kill(writer._process.pid, signal.SIGKILL)
    writer._process.wait()
    trial.run_id = None  # as if no answer had come
    trial.add({"epoch": 2, "val/em": 0.02}, 1002.0)

    writer.bring_up_to_date(trial, parent)

    _, points = written(search, parent)  # of the only run
    assert [step for step, _, _ in points] == [1, 2]


def test_what_mlflow_refuses_is_trouble_and_the_rest_is_kept(parent, writer):
    gone = Parent("4711", parent.run_id)
    trial = child(1)

    with pytest.raises(OSError, match="4711"):
        writer.bring_up_to_date(trial, gone)

    assert len(trial.points) == 1
    writer.bring_up_to_date(trial, parent)  # the process is still there
    assert trial.points == []


def test_an_mlflow_that_cannot_be_reached_is_trouble(parent, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    unreachable = Writer("http://127.0.0.1:9")
    try:
        with pytest.raises(OSError, match="port=9"):
            unreachable.bring_up_to_date(child(1), parent)
    finally:
        unreachable.close()


def test_nobody_can_read_the_uri_off_the_list_of_processes(search, parent, writer):
    writer.bring_up_to_date(child(1), parent)

    command = psutil.Process(writer._process.pid).cmdline()
    assert "ragsearch.tracking.writer" in command
    assert search.uri not in command


def test_the_process_ends_with_the_search(parent, writer):
    writer.bring_up_to_date(child(1), parent)
    process = writer._process

    process.stdin.close()  # as when our process dies

    assert process.wait(timeout=30) == 0
