"""A search with two objectives, one of them measured, as the command runs it."""

import json

import pytest
import yaml
from mlflow import MlflowClient

from ragsearch.search.front import chosen, front
from ragsearch.search.record import SearchRecord
from tests.command import ragsearch, try_ragsearch
from tests.search.conftest import space_content

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LATENCY = "val/latency_ms_p95"


def test_a_search_with_two_objectives_ends_with_a_front_and_exports_the_chosen_trial(
    tiny, tmp_path
):
    content = space_content(
        tiny,
        trial={"train": {"max_epochs": 1}, "decode": {"max_length": 6}},
        objectives=[{"metric": "val/nll", "goal": "min"}, {"metric": LATENCY, "goal": "min"}],
        choose={"within": 100.0},
        space={"retrieval.n_docs": {"ordinal": [1, 8]}},
        budget={"trials": 4},
    )
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "searcher  grid, as all 2 points of the space fit into the budget" in done.stderr
    assert "scheduler none, as rungs by the first objective would cut" in done.stderr
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    record = SearchRecord.load(folder)
    assert sorted(trial.params["retrieval.n_docs"] for trial in record.trials.values()) == [
        1, 2, 8,
    ]  # fmt: skip
    on_it = {trial.trial for trial in front(record)}
    times = {n: record.best_epoch(record.trials[n])[LATENCY] for n in record.trials}
    best = chosen(record).trial
    assert times[best] == min(times.values())

    trials = json.loads(ragsearch("trials", "--json", cwd=tmp_path))
    assert trials["chosen"] == best
    assert {trial["trial"] for trial in trials["trials"] if trial["front"]} == on_it
    assert f"front   trials {', '.join(str(t.trial) for t in front(record))}" in done.stdout
    ragsearch("export", "--to", "best", cwd=tmp_path)
    assert json.loads((tmp_path / "best" / "manifest.json").read_text())["trial"] == best
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    tagged = client.search_runs([experiment], "tags.`ragsearch.front` = 'true'")
    assert {int(run.data.tags["ragsearch.trial"]) for run in tagged} == on_it
