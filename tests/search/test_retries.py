"""Trials that crash, on a real Ray: retried from their last epoch as often as is allowed."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from mlflow import MlflowClient

from ragsearch.data.questions import read_questions
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.record import SearchRecord, Status
from ragsearch.spec import load_spec
from ragsearch.training.fit import fit_trial
from tests.command import command, environment
from tests.search.conftest import space_content
from tests.tiny import Tiny

pytestmark = [pytest.mark.ray, pytest.mark.long]

PATIENCE_S = 180
TRIAL, WORKER = "ray::ImplicitFunc", "ray::_Worker"  # as Ray names processes


def write_space(folder: Path, tiny: Tiny, trials: int = 1, **resources: object) -> None:
    content = space_content(
        tiny,
        trial={
            "retrieval": {"n_docs": 2, "backend": "in_process"},
            "train": {"max_epochs": 12, "max_context_length": 64},
            "optim": {"learning_rate": 1.0e-3, "effective_batch": 8},
            "decode": {"max_length": 4},
        },
        search={"scheduler": {"name": "none"}},
        budget={"trials": trials},
        resources=resources,
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))


@contextmanager
def searching(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command("run", "space.yaml"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def read_until(process: subprocess.Popen[str], line: str) -> str:
    """Return what a search says up to a line that matches."""
    deadline, said = time.monotonic() + PATIENCE_S, ""
    while time.monotonic() < deadline:
        said += (now := process.stderr.readline())
        if re.search(line, now):
            return said
        assert now, said
    raise TimeoutError(said)


def kill(process: subprocess.Popen[str], name: str) -> None:
    """Kill the one process of a search that Ray calls so."""
    children = psutil.Process(process.pid).children(recursive=True)
    (found,) = [
        child for child in children if child.cmdline()[:1] and name in child.cmdline()[0]
    ]
    os.kill(found.pid, signal.SIGKILL)


def record_of(folder: Path) -> SearchRecord:
    (found,) = (folder / "runs").glob("tiny-*")
    return SearchRecord.load(found)


def uninterrupted(folder: Path) -> list[dict[str, float]]:
    """Return what the search's one trial reports where nothing happens to it."""
    spec, rows = load_spec(folder / "space.yaml"), []
    (index,) = (folder / "runs" / "indexes").iterdir()
    data = spec.file.data
    torch.set_num_threads(1)  # as a trial with one core has
    fit_trial(
        spec.file.trial,
        (read_questions(Path(data.train)), read_questions(Path(data.val))),
        InProcessRetriever(open_index(index)),
        lambda state: rows.append({"epoch": state.epoch} | state.metrics),
        objective=spec.file.objectives[0],
        seed=spec.file.seed,
    )
    return rows


def timeless(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if not name.startswith(("time/", "retr"))}
        for row in rows
    ]


def epochs_in_mlflow(folder: Path, trial: int) -> list[int]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`ragsearch.trial` = '{trial}'")
    return [one.step for one in client.get_metric_history(run.info.run_id, "val/em")]


def test_a_killed_trial_ends_as_if_it_had_not_been_and_fails_when_killed_too_often(
    tiny: Tiny, tmp_path: Path
) -> None:
    write_space(tmp_path, tiny, trials=2, retries=1, max_concurrent=1)

    with searching(tmp_path) as process:
        said = read_until(process, "trial 0 epoch 2/12")
        kill(process, TRIAL)
        for place in ("trial 1 epoch 1/12", r"trial 1 epoch (?!1/)\d+/12"):
            said += read_until(process, place)
            kill(process, TRIAL)
            if "(?!" not in place:
                said += read_until(process, "trial 1 crashed")
        _, rest = process.communicate(timeout=PATIENCE_S)

    said += rest
    assert process.returncode == 0, said
    retried = re.findall(
        r"trial (\d) crashed \(its process died.*\); retried from epoch (\d+)", said
    )
    assert [number for number, _ in retried] == ["0", "1"]
    assert re.search(r"trial 1 failed: its process died.*\n.*  Failure # 1", said)
    record = record_of(tmp_path)
    finished, failed = record.trials[0], record.trials[1]
    assert (finished.status, failed.status) == (Status.FINISHED, Status.FAILED)
    assert timeless(finished.epochs) == timeless(uninterrupted(tmp_path))
    for number, trial in record.trials.items():
        epochs = [epoch["epoch"] for epoch in trial.epochs]
        assert epochs == epochs_in_mlflow(tmp_path, number) == list(range(1, len(epochs) + 1))
        (checkpoint,) = (record.folder / "tune" / f"trial-{number:04d}").glob("checkpoint_*")
        assert checkpoint == record.folder / trial.checkpoint
        assert not (checkpoint / "state").exists()  # nobody goes on from it any more


def test_a_trial_with_a_killed_worker_is_retried(tiny: Tiny, tmp_path: Path) -> None:
    write_space(tmp_path, tiny, per_trial={"workers": 2})

    with searching(tmp_path) as process:
        said = read_until(process, "trial 0 epoch 2/12")
        kill(process, WORKER)
        _, rest = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, said + rest
    assert re.search(r"trial 0 crashed \(.+\); retried from epoch \d+", said + rest)
    trial = record_of(tmp_path).trials[0]
    assert trial.status is Status.FINISHED
    assert [epoch["epoch"] for epoch in trial.epochs] == list(range(1, 13))
    losses = [epoch["train/loss"] for epoch in trial.epochs]
    assert losses[-1] < losses[0]
