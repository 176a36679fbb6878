"""The parent run of a search, on a real MLflow with SQLite."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from ragsearch.errors import BadInputError
from ragsearch.tracking.search_run import SearchRun


def open_run(folder: Path, name: str = "kb-1") -> SearchRun:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    params, tags = {"budget.trials": 8}, {"ragsearch.version": "0"}
    return SearchRun.open(uri, "kb", name, identity=name, params=params, tags=tags)


def test_a_search_becomes_one_run_with_its_settings_and_files(tmp_path):
    search = open_run(tmp_path)
    search.log_text("name: kb\n", "space.yaml")
    search.log_metrics({"best/val/em": 0.5})
    search.close("finished")

    run = MlflowClient(search.uri).get_run(search.run_id)
    assert run.info.run_name == "kb-1"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"budget.trials": "8"}
    assert run.data.metrics == {"best/val/em": 0.5}
    assert run.data.tags["ragsearch.version"] == "0"
    assert run.data.tags["ragsearch.status"] == "finished"
    assert [item.path for item in MlflowClient(search.uri).list_artifacts(search.run_id)] == [
        "space.yaml"
    ]


def test_figures_that_are_told_again_are_written_once(tmp_path):
    search = open_run(tmp_path)
    client = MlflowClient(search.uri)
    tags = {"mlflow.parentRunId": search.run_id, "ragsearch.trial": "2"}
    trial = client.create_run(search.experiment_id, tags=tags).info.run_id

    for em in (0.25, 0.25, 0.5):
        search.log_metrics({"best/val/em": em})
        search.add_rescored(2, {"retrieval.n_docs": 3}, {"rescored/val/em": em})

    for run, key in ((search.run_id, "best/val/em"), (trial, "rescored/val/em")):
        told = client.get_metric_history(run, key)
        assert [point.value for point in told] == [0.25, 0.5]


def test_artifacts_lie_beside_the_database_wherever_the_command_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    search = SearchRun.open(
        "sqlite:///here/mlflow.db", "kb", "kb-1", identity="1", params={}, tags={}
    )

    assert search.uri == f"sqlite:///{tmp_path}/here/mlflow.db"
    experiment = MlflowClient(search.uri).get_experiment(search.experiment_id)
    assert experiment.artifact_location.startswith((tmp_path / "here/mlruns").as_uri())


def test_searches_of_one_name_share_an_experiment(tmp_path):
    first, second = open_run(tmp_path), open_run(tmp_path, "kb-2")

    assert first.experiment_id == second.experiment_id
    assert first.run_id != second.run_id


def test_the_runs_on_the_front_are_tagged_and_no_others(tmp_path):
    search = open_run(tmp_path)
    client = MlflowClient(search.uri)
    for number in range(3):
        tags = {"mlflow.parentRunId": search.run_id, "ragsearch.trial": str(number)}
        client.create_run(search.experiment_id, tags=tags)

    search.mark_front([0, 1])
    search.mark_front([1, 2])  # as a search that went on

    found = client.search_runs([search.experiment_id], "tags.`ragsearch.front` = 'true'")
    assert {run.data.tags["ragsearch.trial"] for run in found} == {"1", "2"}


@pytest.mark.parametrize(("status", "word"), [("interrupted", "KILLED"), ("failed", "FAILED")])
def test_closing_ends_what_is_still_running(tmp_path, status, word):
    search = open_run(tmp_path)
    client = MlflowClient(search.uri)
    child = client.create_run(
        search.experiment_id, tags={"mlflow.parentRunId": search.run_id}
    ).info.run_id

    search.close(status)

    assert client.get_run(search.run_id).info.status == word
    assert client.get_run(child).info.status == "KILLED"
    assert client.get_run(child).data.tags["ragsearch.status"] == "interrupted"


def test_a_deleted_experiment_is_refused(tmp_path):
    search = open_run(tmp_path)
    MlflowClient(search.uri).delete_experiment(search.experiment_id)

    with pytest.raises(BadInputError, match="experiment 'kb' is deleted; restore it"):
        open_run(tmp_path)


def test_an_unusable_uri_is_refused():
    with pytest.raises(BadInputError, match=r"tracking\.uri: MLflow cannot be used at 'nosql"):
        SearchRun.open("nosql://x", "kb", "kb-1", identity="1", params={}, tags={})


def test_a_database_that_is_lost_later_is_a_warning(tmp_path, caplog):
    search = open_run(tmp_path)
    MlflowClient(search.uri).delete_run(search.run_id)

    search.close("finished")

    assert "could not end the search's run" in caplog.text
