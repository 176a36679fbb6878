"""A search whose trials differ in what they do: with retrieval or without it."""

import json

import pytest
import yaml
from mlflow import MlflowClient

from tests.command import ragsearch
from tests.search.conftest import space_content

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_trials_with_and_without_retrieval_share_a_search(tiny, tmp_path):
    content = space_content(
        tiny,
        trial={
            "optim": {"learning_rate": 1.0e-12, "effective_batch": 8},
            "train": {"max_epochs": 3, "early_stopping_patience": 1, "profile": True},
            "decode": {"max_length": 2},
        },
        space={"model.type": {"choice": ["rag_sequence", "closed_book"]}},
        search={"algorithm": "random", "scheduler": {"name": "none"}},
        budget={"trials": 4},
    )
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(content))

    ragsearch("run", file, cwd=tmp_path)

    trials = json.loads(ragsearch("trials", "--json", cwd=tmp_path))["trials"]
    kinds = {trial["trial"]: trial["params"]["model.type"] for trial in trials}
    assert set(kinds.values()) == {"rag_sequence", "closed_book"}
    (tokens,) = (tmp_path / "runs" / "tokens").iterdir()  # of the trials that read passages
    assert {file.name for file in tokens.iterdir()} == {"ids.uint16", "offsets.int64"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment], "tags.`ragsearch.trial` != ''")
    runs = {run.data.tags["ragsearch.trial"]: run for run in runs}
    for trial in trials:
        run, is_closed = runs[str(trial["trial"])], kinds[trial["trial"]] == "closed_book"
        # the second epoch is no better than the first, and patience is at an end
        assert (trial["status"], run.data.tags["ragsearch.status"]) == ("finished", "finished")
        assert trial["metrics"]["epoch"] == 1
        assert len(client.get_metric_history(run.info.run_id, "val/em")) == 2
        assert ("val/recall_at_5" in trial["metrics"]) != is_closed
        assert ("retrieval/p95_ms" in trial["metrics"]) != is_closed
        assert (run.data.params["model.question_encoder"] == "None") == is_closed
        (trace,) = client.list_artifacts(run.info.run_id)
        assert trace.path == "trace.json.gz"
        assert trace.file_size > 0
    closed = next(number for number, kind in kinds.items() if kind == "closed_book")
    ragsearch("export", "--trial", str(closed), "--to", "closed", cwd=tmp_path)
    said = ragsearch("ask", "closed", "Which city?", "--json", cwd=tmp_path)
    assert json.loads(said)["passages"] == []
