"""Searches whose MLflow server dies: for a while, and for good."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ragsearch.search.record import SearchRecord, Status
from tests.command import ragsearch
from tests.search.conftest import space_content
from tests.search.interrupted import cut_short, runs_of, search_of, without_times

pytestmark = [pytest.mark.ray, pytest.mark.long]

N_TRIALS, N_EPOCHS = 3, 2
START_S = 60.0


class Server:
    """MLflow's server over the database of a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._folder, self._process = folder, None

    def start(self, _search: object = None) -> None:
        """Start it, and wait until it answers."""
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        files = ["--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *store, *files],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, "MLflow's server does not start"
            assert time.monotonic() < deadline, "MLflow's server does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(self.uri + "/health"):
            return True
        return False

    def kill(self, _search: object = None) -> None:
        """Kill it, and whatever it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def die_and_come_back(self, _search: object = None) -> None:
        """Be away for as long as a start takes."""
        self.kill()
        self.start()


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    made = Server(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def write_space(tiny, folder: Path, uri: str) -> None:
    content = space_content(
        tiny,
        trial={
            "train": {"max_epochs": N_EPOCHS, "max_context_length": 64},
            "decode": {"max_length": 4},
        },
        objectives=[{"metric": "val/nll", "goal": "min"}],
        search={"scheduler": {"name": "none"}},
        budget={"trials": N_TRIALS},
        resources={"max_concurrent": 1},
        tracking={"uri": uri},
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))


def expect_all_in_mlflow(folder: Path, record: SearchRecord) -> None:
    """Expect of every trial one run, that has each metric of each epoch once, and its end."""
    found = runs_of(folder, record)
    assert found.keys() == {"search", *(f"trial {number}" for number in record.trials)}
    for number, trial in record.trials.items():
        status, ours, _, points = found[f"trial {number}"]
        assert (status, ours) == ("FINISHED", str(trial.status))
        for epoch in trial.epochs:
            for key, value in without_times(epoch).items():
                told = [at for step, at in points.get(key, ()) if step == epoch["epoch"]]
                assert told == ([pytest.approx(value)] if "/" in key else [])
        assert {len(each) for each in points.values()} == {len(trial.epochs)}


def test_a_server_that_dies_costs_a_search_nothing_if_it_comes_back(tiny, tmp_path, server):
    write_space(tiny, tmp_path, server.uri)

    ended = cut_short(
        tmp_path, "space.yaml", at="trial 0 epoch 2/", by=server.die_and_come_back
    )

    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said
    record = search_of(tmp_path)
    assert record.status is Status.FINISHED
    expect_all_in_mlflow(tmp_path, record)


def test_what_a_server_that_stays_away_missed_is_told_when_the_search_is_extended(
    tiny, tmp_path, server
):
    write_space(tiny, tmp_path, server.uri)

    ended = cut_short(tmp_path, "space.yaml", at="trial 1 epoch 1/", by=server.kill)
    alone = search_of(tmp_path)
    server.start()
    ragsearch("run", "--add-trials", "1", cwd=tmp_path)

    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said
    assert "does not take metrics, will retry" in ended.said
    assert "they are in the search folder" in ended.said
    assert alone.status is Status.FINISHED
    assert [len(trial.epochs) for trial in alone.trials.values()] == N_TRIALS * [N_EPOCHS]
    record = search_of(tmp_path)
    assert len(record.trials) == N_TRIALS + 1
    expect_all_in_mlflow(tmp_path, record)
