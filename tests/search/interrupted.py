"""Searches that are cut short: how, and what there is of them afterwards."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run

from ragsearch.search.record import SearchRecord
from ragsearch.search.study import open_storage
from tests.command import command, environment

# how long Ray waits for the head of its cluster before it ends the process, in seconds
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "1"}


class Ended(NamedTuple):
    """A run that somebody cut short."""

    code: int
    said: str


def cut_short(
    folder: Path, *words: str, at: str, by: Callable[[subprocess.Popen], None]
) -> Ended:
    """Run a search until it says something, then do something to it."""
    said, is_done = "", False
    with subprocess.Popen(
        command("run", *words),
        cwd=folder,
        env=environment() | IMPATIENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # of which nothing is left below
    ) as process:
        try:
            for line in process.stderr:
                said += line
                if at in line and not is_done:
                    is_done = True
                    by(process)
            code = process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert is_done, said
    return Ended(code, said)


def kill_driver(process: subprocess.Popen) -> None:
    process.kill()


def press_ctrl_c(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)


def kill_cluster(process: subprocess.Popen) -> None:
    for pid in children_of(process.pid):
        name = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
        if Path(name).name in {"gcs_server", "raylet"}:
            os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in files for word in file.read_text().split()]


def search_of(folder: Path) -> SearchRecord:
    (found,) = (folder / "runs").glob("tiny-*")
    return SearchRecord.load(found)


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    kept = ("val/", "train/", "epoch", "rescored/", "final/", "best/val/")
    return {key: value for key, value in metrics.items() if key.startswith(kept)}


def trials_of(record: SearchRecord) -> dict[int, object]:
    """Return what the record has of trials."""
    return {
        number: (trial.params, trial.status, [without_times(epoch) for epoch in trial.epochs])
        for number, trial in sorted(record.trials.items())
    }


def study_of(record: SearchRecord) -> list[object]:
    """Return what Optuna has of trials."""
    study = optuna.load_study(study_name=record.search, storage=open_storage(record.folder))
    return [
        (trial.state, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in study.trials
        if "ragsearch.trial" in trial.user_attrs
    ]


def runs_of(folder: Path, record: SearchRecord) -> dict[str, object]:
    """Return what MLflow has of a search: of each run its end, parameters, every metric."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`ragsearch.id` = '{record.id}'")
    children = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    for key, points in metrics_of(client, parent).items():  # of searches that went on several
        assert all(one != other for one, other in pairwise(points)), f"{key} is told twice"
    found = {"search": (parent.info.status, without_times(parent.data.metrics))}
    for run in children:
        name = run.info.run_name  # of a trial, or of a final run
        assert name not in found, f"{name} has two runs"
        found[name] = (
            run.info.status,
            run.data.tags["ragsearch.status"],
            run.data.params,
            metrics_of(client, run),
        )
    return found


def metrics_of(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return every value of every metric of a run, with its step."""
    return {
        key: [
            (point.step, point.value)
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in without_times(run.data.metrics)
    }
