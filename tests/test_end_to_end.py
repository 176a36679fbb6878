"""The main job as a user does it: run, look, export, score, ask, load in stock Transformers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient

from tests.command import CHECKOUT, environment, ragsearch

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMOKE = CHECKOUT / "search_spaces" / "smoke.yaml"
VAL = CHECKOUT / "ragsearch" / "quickstart" / "data" / "val.jsonl"
N_VAL = 32


class Smoke(NamedTuple):
    """A finished search."""

    folder: Path
    """Where the commands ran."""
    said: str
    """What `run` printed."""

    def trials(self):
        """Return the leaderboard."""
        return json.loads(ragsearch("trials", "--json", cwd=self.folder))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    return Smoke(folder, ragsearch("run", SMOKE, cwd=folder))


@pytest.fixture(scope="module")
def bundle(smoke):
    ragsearch("export", "--to", "best", "--hf-retriever", cwd=smoke.folder)
    return smoke.folder / "best"


def test_a_run_ends_with_the_table_the_best_trial_and_what_to_do_next(smoke):
    assert "0 (baseline)" in smoke.said
    assert "best    trial" in smoke.said
    assert f"mlflow ui --backend-store-uri sqlite:///{smoke.folder}/mlflow.db" in smoke.said
    assert "ragsearch export" in smoke.said


def test_the_leaderboard_has_every_trial_and_the_baseline_first(smoke):
    trials = smoke.trials()["trials"]

    assert [trial["trial"] for trial in trials] == [0, 1, 2, 3]
    assert trials[0]["status"] == "finished"
    assert trials[0]["params"]["optim.learning_rate"] == 1.0e-3
    for trial in trials:
        assert trial["status"] in {"finished", "stopped_early"}
        assert {"val/em", "val/f1", "val/nll", "val/recall_at_5", "train/loss"} <= set(
            trial["metrics"]
        )


def test_mlflow_shows_the_trials_below_their_search(smoke):
    client = MlflowClient(f"sqlite:///{smoke.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]

    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    for trial in smoke.trials()["trials"]:
        child = next(
            run for run in children if run.data.tags["ragsearch.trial"] == str(trial["trial"])
        )
        ended = {"finished": "FINISHED", "stopped_early": "KILLED"}[trial["status"]]
        assert child.info.status == ended
        assert float(child.data.params["optim.learning_rate"]) == pytest.approx(
            trial["params"]["optim.learning_rate"]
        )
        history = client.get_metric_history(child.info.run_id, "val/em")
        assert max(point.value for point in history) == trial["metrics"]["val/em"]
        assert [point.step for point in history] == list(range(1, len(history) + 1))


def test_the_export_scores_what_its_search_said(smoke, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    trial = smoke.trials()["trials"][manifest["trial"]]

    shown = ragsearch(
        "eval", bundle, "--data", VAL, "--limit", N_VAL, "--json", cwd=smoke.folder
    )

    (scores,) = json.loads(shown)["rows"]
    for name in ("em", "f1", "rouge_l", "nll", "recall_at_1", "recall_at_5", "mrr_at_10"):
        assert scores[name] == pytest.approx(trial["metrics"][f"val/{name}"], abs=1e-6)


def test_stock_transformers_gives_the_same_answers(smoke, bundle):
    questions = [json.loads(line)["question"] for line in VAL.read_text().splitlines()[:20]]
    asked = ragsearch("ask", bundle, *questions, "--json", cwd=smoke.folder)
    (smoke.folder / "asked.json").write_text(asked)

    script = CHECKOUT / "scripts" / "stock_check.py"
    options = ["--hf-retriever", "--data", VAL, "--limit", str(N_VAL)]
    done = subprocess.run(
        [sys.executable, script, bundle, "asked.json", *options],
        cwd=smoke.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert "same answers: 20 of 20" in done.stdout, done.stdout + done.stderr
    assert "end to end, as it is: exact match" in done.stdout


def test_an_occupied_folder_is_not_exported_into(smoke, bundle):
    from ragsearch import export_best
    from ragsearch.errors import BadInputError

    before = sorted(bundle.rglob("*"))

    with pytest.raises(BadInputError, match="best"):
        export_best(None, bundle, output=smoke.folder / "runs")
    assert sorted(bundle.rglob("*")) == before
