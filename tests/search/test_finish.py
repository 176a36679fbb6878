"""A search to its very end: rungs on some questions, rescored, trained again, compared."""

import json
from typing import NamedTuple

import pytest
import yaml
from mlflow import MlflowClient

from ragsearch.search.record import SearchRecord
from tests.command import ragsearch, try_ragsearch
from tests.search.conftest import space_content

pytestmark = [pytest.mark.ray, pytest.mark.long]

SCORES = ("em", "f1", "rouge_l", "nll", "recall_at_1", "recall_at_5", "mrr_at_10")


class Finished(NamedTuple):
    """A search that went through all of it."""

    folder: object
    said: str

    @property
    def record(self):
        """Read its record, as it is now."""
        (found,) = (self.folder / "runs").glob("tiny-*")
        return SearchRecord.load(found)

    def shown(self):
        """Ask for its trials as data."""
        return json.loads(ragsearch("trials", "--json", cwd=self.folder))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finish")
    content = space_content(
        tiny,
        trial={
            "optim": {"learning_rate": 0.01, "effective_batch": 8},
            "train": {"max_epochs": 2, "max_context_length": 64},
            "decode": {"max_length": 6},
        },
        data={"train": str(tiny.train), "val": str(tiny.val), "test": str(tiny.train)}
        | {"n_test": 6},
        objectives=[{"metric": "val/nll", "goal": "min"}],
        search={"algorithm": "random", "scheduler": {"name": "asha", "rung_examples": 3}},
        rescore={"retrieval.n_docs": {"ordinal": [1, 2]}}
        | {"decode.document_temperature": {"choice": [0.1, 10.0]}},
        final={"top_k": 1, "seeds": [1, 2]},
        budget={"trials": 2},
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))
    return Finished(folder, ragsearch("run", "space.yaml", cwd=folder))


def test_epochs_before_the_last_are_validated_on_some_questions(finished):
    for trial in finished.record.trials.values():
        for epoch in trial.epochs:
            is_last = epoch["epoch"] == 2
            assert epoch["val/n"] == (8 if is_last else 3)
            assert ("rung/val/nll" in epoch) == is_last


def test_the_best_models_are_scored_under_every_setting_of_rescore(finished):
    record = finished.record
    best, baseline = record.ranked()[0], record.trials[0]

    for trial in (best, baseline):
        values = [one.values for one in trial.rescored]
        assert values[0] == {}
        assert len(values) == 5  # 2 x 2, and as it was trained
        assert all(one.metrics["val/n"] == 8 for one in trial.rescored)
        setting = record.best_setting(trial)
        assert setting.metrics["val/nll"] == min(o.metrics["val/nll"] for o in trial.rescored)
    whole = baseline.epochs[-1]
    if record.best_epoch(baseline) is whole:
        for name in SCORES:
            assert baseline.rescored[0].metrics[f"val/{name}"] == pytest.approx(
                whole[f"val/{name}"], abs=1e-6
            )


def test_the_best_and_the_baseline_are_trained_with_every_seed_and_tested(finished):
    record = finished.record
    best = record.ranked()[0].trial

    asked = {(run.trial, run.seed) for run in record.final}
    assert asked == {(trial, seed) for trial in {best, 0} for seed in (1, 2)}
    for run in record.final:
        assert run.status == "finished"
        assert [epoch["val/n"] for epoch in run.epochs] == [8, 8]
        assert run.test["test/n"] == 6
        rows = (record.folder / "test" / f"{run.name}.jsonl").read_text().splitlines()
        assert len({json.loads(row)["id"] for row in rows}) == 6
    losses = {run.seed: run.epochs[0]["train/loss"] for run in record.final if not run.trial}
    assert losses[1] != losses[2]
    assert set(record.trials) == {0, 1}


def test_the_comparison_is_shown_in_words_and_as_data(finished):
    final = finished.shown()["final"]

    assert final["metric"] == "test/nll"
    assert (final["n_questions"], final["seeds"]) == (6, [1, 2])
    assert "final   6 test questions, seeds 1, 2" in finished.said
    for difference in final["differences"]:
        assert difference["verdict"] in finished.said
    for one in final["finalists"]:
        assert one["test"]["low"] <= one["test"]["value"] <= one["test"]["high"]


def test_the_export_is_the_winner_and_scores_what_the_search_said(finished):
    record, val = finished.record, finished.record.folder / "resolved.json"
    data = json.loads(val.read_text())["data"]
    ragsearch("export", "--to", "best", cwd=finished.folder)

    manifest = json.loads((finished.folder / "best" / "manifest.json").read_text())
    said = ragsearch("eval", "best", "--data", data["val"], "--json", cwd=finished.folder)

    (scores,) = json.loads(said)["rows"]
    assert manifest["trial"] == finished.shown()["final"]["winner"]
    assert manifest["seed"] in {1, 2}
    assert manifest["configuration"]["decode"]["document_temperature"] in {0.1, 1.0, 10.0}
    for name in SCORES:
        assert scores[name] == pytest.approx(manifest["metrics"][f"val/{name}"], abs=1e-6)
    ragsearch("export", "--trial", "0", "--to", "zero", cwd=finished.folder)
    said = ragsearch("eval", "zero", "--data", data["val"], "--json", cwd=finished.folder)
    (scores,) = json.loads(said)["rows"]
    setting = record.best_setting(record.trials[0])
    for name in SCORES:
        assert scores[name] == pytest.approx(setting.metrics[f"val/{name}"], abs=1e-6)


def test_mlflow_has_the_final_runs_apart_from_the_trials(finished):
    client = MlflowClient(f"sqlite:///{finished.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    trials = client.search_runs([experiment], "tags.`ragsearch.trial` != ''")
    final = client.search_runs([experiment], "tags.`ragsearch.final` != ''")
    (parent,) = client.search_runs([experiment], "tags.`ragsearch.search` != ''")

    assert len(trials) == 2
    assert len(final) == len(finished.record.final)
    for run in final:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics["final/test/n"] == 6
    zero = next(run for run in trials if run.data.tags["ragsearch.trial"] == "0")
    assert zero.data.metrics["rescored/val/n"] == 8
    history = client.get_metric_history(zero.info.run_id, "val/n")
    assert [point.value for point in history] == [3, 8]
    assert "final/trial_0/test/nll_low" in parent.data.metrics


def test_a_finished_search_can_be_compared_with_more_seeds(finished):
    before = {run.name: run.test for run in finished.record.final}

    said = ragsearch("final", "-o", "final.seeds=[1, 2, 3]", "--json", cwd=finished.folder)

    final = json.loads(said)["final"]
    assert final["seeds"] == [1, 2, 3]
    after = {run.name: run.test for run in finished.record.final}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) * 3 // 2


def test_what_would_change_the_search_itself_is_refused(finished):
    done = try_ragsearch("final", "-o", "trial.optim.learning_rate=1", cwd=finished.folder)

    assert done.returncode == 2
    assert "-o trial.optim.learning_rate: the search has ended; what can be set" in done.stderr


def test_final_runs_for_which_there_is_no_room_are_left_for_another_time(finished):
    before = {run.name: run.test for run in finished.record.final}
    seeds = "final.seeds=[1, 2, 3, 4]"

    said = ragsearch("final", "-o", seeds, "-o", "budget.disk=0.001MB", cwd=finished.folder)

    full = finished.record
    left = [run for run in full.final if run.seed == 4]
    assert {run.status for run in left} == {"interrupted"}
    assert all("above budget.disk (0.001MB)" in run.reason for run in left)
    assert f"left out: trial 0, seed 4: interrupted, {left[0].reason}" in said
    kept = [run.trial for run in full.final if run.checkpoint]
    assert sorted(kept) == sorted({run.trial for run in full.final})  # the best seed of each
    ragsearch("final", "-o", seeds, cwd=finished.folder)
    after = {run.name: run.test for run in finished.record.final}
    assert {name: after[name] for name in before} == before
    assert all(after.values())
    assert len(after) == len(before) + len(left)
