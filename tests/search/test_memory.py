"""A trial that takes more memory than its node has, on a Ray that watches over it."""

import time

import psutil
import pytest
from ray import tune
from typing_extensions import override

from ragsearch.search.cluster import cluster
from ragsearch.search.ending import crash_of, ending_of
from ragsearch.search.experiment import Experiment
from ragsearch.search.record import Status
from ragsearch.search.trainable import TrialJob

pytestmark = [pytest.mark.ray, pytest.mark.long]  # and it takes 7 GB

BLOCK, ROOM, HOG = 200 * 2**20, 4 * 2**30, 35  # bytes, bytes for all others, blocks


def take_memory(config, job):  # noqa: ARG001 (as a trial is called)
    """Take more than there is room for, and report nothing before."""
    kept = []
    for number in range(HOG if config["is_hungry"] else 1):
        kept.append(bytes([number]) * BLOCK)
        time.sleep(0.05)
    time.sleep(3 if config["is_hungry"] else 0)
    tune.report({"taken": len(kept)})


class Told(tune.Callback):
    """Keeps what Tune tells of trials."""

    def __init__(self):
        self.crashes, self.endings = [], {}

    @override
    def on_trial_recover(self, iteration, trials, trial, **info):
        if trial.config["is_hungry"]:  # what else runs on the machine may cost the other one
            self.crashes.append(crash_of(trial))

    @override
    def on_trial_error(self, iteration, trials, trial, **info):
        self.endings[trial.config["is_hungry"]] = ending_of(trial, failed=True)

    @override
    def on_trial_complete(self, iteration, trials, trial, **info):
        self.endings[trial.config["is_hungry"]] = trial.last_result["taken"]


class Never(tune.Stopper):
    """Stops nothing."""

    @override
    def __call__(self, trial_id, result):
        return False

    @override
    def stop_all(self):
        return False


def test_a_trial_killed_for_memory_is_retried_then_infeasible_and_the_others_go_on(
    space_of, tmp_path, monkeypatch
):
    memory = psutil.virtual_memory()
    if memory.available < HOG * BLOCK + ROOM:
        pytest.skip(f"{memory.available / 1e9:.0f} GB of free memory are too little for this")
    limit = (memory.total - memory.available + ROOM) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    told = Told()
    job = TrialJob(space_of(resources={"retries": 1}), {}, tmp_path)
    with cluster("local", num_cpus=1):
        Experiment(
            tmp_path / "tune",
            take_memory,
            job,
            stop=Never(),
            callbacks=[told],
            folder_name=lambda trial: str(trial.config["is_hungry"]),
        ).run(tune.TuneConfig(), {"is_hungry": tune.grid_search([True, False])})

    killed = "Ray killed it as its node ran low on memory"
    (crash,) = told.crashes
    assert crash.startswith(killed)
    assert told.endings[True].status is Status.INFEASIBLE
    assert told.endings[True].reason.startswith(f"out of memory: {killed} (")
    assert told.endings[False] == 1
