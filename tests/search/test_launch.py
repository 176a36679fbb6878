"""The trials of a search on a Ray cluster of its own."""

import os
import time
from pathlib import Path

import pytest
from ray import tune

from ragsearch.search.launch import Parts, run_trials
from ragsearch.search.record import Status
from ragsearch.search.run import open_record
from ragsearch.search.space import LAST_KEY, TRIAL_KEY

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N_TRIALS = 6


def be_short(config, job):
    """Say in which process this is, and take less time than a worker takes to start."""
    Path(job.folder.parent, f"trial-{config[TRIAL_KEY]}-in-{os.getpid()}").touch()
    time.sleep(0.1)
    tune.report({"epoch": 1, "val/em": 0.5, "model_epoch": 1, LAST_KEY: True})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="trials of 1 CPU fit one by one")
def test_workers_start_together_without_a_limit_to_trials(space_of, tmp_path):
    spec = space_of(
        trial={"retrieval": {"backend": "in_process"}, "train": {"max_epochs": 1}},
        budget={"trials": N_TRIALS},
        resources={"cluster": "local"},
        tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    )
    record = open_record(spec, {}, tmp_path)

    run_trials(spec, record, {}, tmp_path, parts=Parts(be_short))

    assert record.status is Status.FINISHED
    ran = [path.name.split("-in-") for path in record.folder.glob("trial-*-in-*")]
    assert {trial for trial, _ in ran} == {f"trial-{n}" for n in range(N_TRIALS)}
    assert len({process for _, process in ran}) > 1
