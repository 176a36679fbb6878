"""A search with bad trials: one diverges, one breaks a constraint, and the search goes on."""

import json
import re

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from ragsearch.search.record import SearchRecord, Status
from ragsearch.search.study import open_storage
from tests.command import ragsearch, try_ragsearch
from tests.search.conftest import space_content

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HEALTHY, DRIVEN_OFF, BROKEN = 1.0, 3.0e11, 1.0e45  # times a learning rate of 1e-12


def content_of(tiny, **sections):
    trial = {
        "optim": {"learning_rate": 1.0e-12, "schedule": "constant", "effective_batch": 8},
        "train": {"max_epochs": 2},
        "decode": {"max_length": 2},
    }
    constraints = [{"metric": "val/hit_overlap", "min": 0.5}]
    return space_content(tiny, trial=trial, constraints=constraints, **sections)


def runs_by_trial(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment], "tags.`ragsearch.trial` != ''")
    return {int(run.data.tags["ragsearch.trial"]): run for run in runs}


def test_a_search_goes_on_without_trials_that_diverge_or_break_a_constraint(tiny, tmp_path):
    choices = [HEALTHY, DRIVEN_OFF, BROKEN]
    content = content_of(
        tiny,
        seed=3,  # which draws each choice once
        space={"optim.question_encoder_lr_ratio": {"choice": choices}},
        search={"algorithm": "random", "scheduler": {"name": "asha"}},
    )
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    said = ragsearch("run", "space.yaml", cwd=tmp_path)

    trials = json.loads(ragsearch("trials", "--json", cwd=tmp_path))["trials"]
    runs = runs_by_trial(tmp_path)
    found = {
        trial["params"]["optim.question_encoder_lr_ratio"]: (trial, runs[trial["trial"]])
        for trial in trials
    }
    assert found[HEALTHY][0]["status"] == "finished"
    assert found[HEALTHY][0]["reason"] is None
    for ratio, status, reason, n_epochs in (
        (DRIVEN_OFF, "infeasible", "val/hit_overlap was 0.* after epoch 1, below 0.5", 1),
        (BROKEN, "diverged", "question encoder gives vectors that are not finite", 0),
    ):
        trial, run = found[ratio]
        assert trial["status"] == run.data.tags["ragsearch.status"] == status
        assert trial["reason"] == run.data.tags["ragsearch.reason"]
        assert re.search(reason, trial["reason"])
        assert re.search(reason, said)
        assert run.info.status == "FAILED"
        history = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_metric_history(
            run.info.run_id, "val/hit_overlap"
        )
        assert len(history) == n_epochs
    assert "best    trial 0, val/em" in said
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    study = optuna.load_study(study_name=folder.name, storage=open_storage(folder))
    states = {trial.params["optim.question_encoder_lr_ratio"]: trial for trial in study.trials}
    assert {ratio: trial.state.name for ratio, trial in states.items()} == {
        HEALTHY: "COMPLETE",
        DRIVEN_OFF: "PRUNED",
        BROKEN: "PRUNED",
    }


def test_a_baseline_that_breaks_a_constraint_is_infeasible_at_its_end(tiny, tmp_path):
    content = content_of(tiny, space={}, budget={"trials": 1})
    content["trial"]["optim"]["question_encoder_lr_ratio"] = DRIVEN_OFF
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 4, done.stderr
    assert "is infeasible: val/hit_overlap was 0" in done.stderr
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    (trial,) = SearchRecord.load(folder).trials.values()
    assert trial.status is Status.INFEASIBLE
    assert [epoch["epoch"] for epoch in trial.epochs] == [1, 2]
    assert runs_by_trial(tmp_path)[0].data.tags["ragsearch.status"] == "infeasible"
