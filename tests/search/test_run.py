"""Searches over tiny models, each in a process of its own, as the command runs them."""

import json
import signal
import subprocess
import time

import pytest
import yaml
from mlflow import MlflowClient

from ragsearch.search.record import SearchRecord, Status
from tests.command import command, environment, try_ragsearch
from tests.search.conftest import space_content

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE_S = 180


def _only_search(folder):
    (found,) = (folder / "runs").glob("tiny-*")
    return SearchRecord.load(found)


def _statuses(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    return sorted(run.info.status for run in runs)


def test_ctrl_c_ends_the_trials_and_keeps_what_was_done(tiny, tmp_path):
    content = space_content(tiny, trial={"train": {"max_epochs": 10_000}})
    content["trial"] |= {"retrieval": {"n_docs": 2}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))
    with subprocess.Popen(
        command("run", "space.yaml"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        said = ""
        while "trial 0 epoch 1/" not in said and time.monotonic() < deadline:
            said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, said + rest
    assert "was interrupted; see `ragsearch trials" in rest
    record = _only_search(tmp_path)
    assert record.status is Status.INTERRUPTED
    assert record.trials[0].status is Status.INTERRUPTED
    assert record.trials[0].epochs
    assert (record.folder / record.trials[0].checkpoint / "model.safetensors").is_file()
    assert set(_statuses(tmp_path)) == {"KILLED"}


def test_a_search_whose_trials_all_fail_says_why_and_exits_4(tiny, tmp_path):
    content = space_content(tiny, space={}, budget={"trials": 1})
    content["trial"]["optim"] = {"learning_rate": 1.0e30, "max_grad_norm": 1.0e30}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 4, done.stderr
    assert "try a lower learning rate" in done.stderr
    assert "Traceback" not in done.stderr
    record = _only_search(tmp_path)
    assert record.trials[0].status is Status.DIVERGED
    assert _statuses(tmp_path) == ["FAILED", "FAILED"]
    (snapshot,) = record.tune_folder.glob("experiment_state-*.json")  # which Tune insists on
    assert json.loads(snapshot.read_text())["trial_data"] == []


def test_a_mistake_ends_the_run_before_anything_is_written(tiny, tmp_path):
    content = space_content(tiny)
    content["trial"] |= {"retrieval": {"n_docs": 41}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 2
    assert "trial.retrieval.n_docs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]
