import json
from pathlib import Path

import pytest
import torch

from ragsearch.results.ask import Answerer
from ragsearch.results.evaluate import evaluate
from ragsearch.results.export import export_best
from tests.results.conftest import BundleOf, SearchOf
from tests.results.searches import Settings, write_rows
from tests.tiny import Tiny


def read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


FITTED = [
    Settings("rag_sequence", "t5", max_epochs=3),
    Settings("rag_token", "bart", max_epochs=8, n_val=5, num_beams=1),
    Settings("rag_sequence", "bart", max_epochs=8, precision="bf16-mixed"),
]


@pytest.mark.parametrize(
    "settings", FITTED, ids=lambda s: f"{s.kind}-{s.generator}-{s.precision}"
)
def test_an_exported_model_scores_what_the_search_said(
    settings: Settings, fitted: SearchOf, tmp_path: Path
):
    record = fitted(settings)
    bundle = export_best(record.folder, tmp_path / "best")
    data = json.loads((record.folder / "resolved.json").read_text())["data"]

    found = evaluate(bundle.folder, data["val"], limit=settings.n_val)

    said = {
        name.removeprefix("val/"): value
        for name, value in bundle.manifest.metrics.items()
        if name.startswith("val/")
    }
    assert found.summary == said | {"n": settings.n_val}
    assert found.summary["em"] > 0.5  # it has learnt what there was to learn


def test_the_threads_of_the_caller_are_left_as_they_were(exported: BundleOf, tiny: Tiny):
    torch.set_num_threads(2)

    evaluate(exported(Settings()).folder, tiny.val, limit=1)

    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_predictions_hold_what_was_said_and_read(
    exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    bundle = exported(Settings())

    evaluate(bundle.folder, tiny.val).write_predictions(tmp_path / "predictions.jsonl")

    written = read_rows(tmp_path / "predictions.jsonl")
    asked = read_rows(tiny.val)
    assert [row["id"] for row in written] == [row["id"] for row in asked]
    assert [row["answers"] for row in written] == [row["answers"] for row in asked]
    answerer = Answerer(bundle.folder)
    for row in written:
        answer = answerer.ask(row["question"])
        assert row["prediction"] == answer.answer
        assert [passage["id"] for passage in row["passages"]] == [
            passage.id for passage in answer.passages
        ]
        assert sum(passage["weight"] for passage in row["passages"]) == pytest.approx(1.0)


def test_without_retrieval_no_index_is_needed_and_no_recall_reported(
    exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    bundle = exported(Settings())

    found = evaluate(bundle.folder, tiny.val, index=tmp_path / "none", no_retrieval=True)

    assert found.summary.keys() == {"em", "f1", "nll", "n"}
    assert next(found.predictions())["passages"] == []
    assert found.examples[0].contexts == [f" // {found.examples[0].question.question}"]


def test_recall_is_by_gold_passages(exported: BundleOf, tmp_path: Path):
    bundle = exported(Settings())
    found = Answerer(bundle.folder).ask("What is the capital of Babex?").passages
    row = {"question": "What is the capital of Babex?", "answers": ["none"]}
    data = write_rows(
        tmp_path / "gold.jsonl",
        [{**row, "passage_ids": [found[0].id]}, {**row, "passage_ids": [found[2].id]}],
    )

    summary = evaluate(bundle.folder, data).summary

    assert (summary["recall_at_1"], summary["recall_at_5"]) == (0.5, 1.0)
    assert summary["n"] == 2
