"""A model without retrieval, from its trial to an answer."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from ragsearch.errors import BadInputError
from ragsearch.results.ask import Answerer
from ragsearch.results.evaluate import evaluate, evaluate_retrieval
from ragsearch.results.export import export_best
from ragsearch.results.leaderboard import rows
from ragsearch.spec import TrialSection
from ragsearch.training.model import load
from tests.results.conftest import SearchOf
from tests.results.searches import Settings

QUESTION = "What is the capital of Baba?"
CLOSED_BOOK = Settings("closed_book")


@pytest.fixture(scope="module")
def bundle(made: SearchOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to: Path = tmp_path_factory.mktemp("closed") / "best"
    return export_best(made(CLOSED_BOOK).folder, to).folder


def test_the_bundle_is_a_plain_seq2seq_model_without_an_index(bundle: Path):
    stock = AutoModelForSeq2SeqLM.from_pretrained(bundle).state_dict()

    for name, weight in load(bundle).network.state_dict().items():
        assert torch.equal(weight, stock[name])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["index"], manifest["pooling"]) == (None, None)
    assert {"tokenizer.json", "model.safetensors"} <= manifest["sha256"].keys()
    configuration = TrialSection.model_validate(manifest["configuration"])
    assert configuration.model.question_encoder is None


def test_a_closed_book_bundle_scores_what_its_search_said(fitted: SearchOf, tmp_path: Path):
    record = fitted(CLOSED_BOOK)
    exported = export_best(record.folder, tmp_path / "best")
    data = json.loads((record.folder / "resolved.json").read_text())["data"]

    scores = evaluate(exported.folder, data["val"], limit=data["n_val"]).summary

    said = record.trials[0].epochs[-1]
    assert "val/recall_at_5" not in said
    assert scores.keys() == {"em", "f1", "rouge_l", "nll", "n"}
    for name in ("em", "f1", "nll"):
        assert scores[name] == pytest.approx(said[f"val/{name}"], abs=1e-6)


def test_the_card_of_a_closed_book_model_runs_and_gives_our_answer(
    bundle: Path, capsys: pytest.CaptureFixture[str]
):
    answer = Answerer(bundle).ask(QUESTION)
    card = (bundle / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL))

    exec(code.replace("DIR", str(bundle)).replace("your question", QUESTION), {})

    assert capsys.readouterr().out.strip() == answer.answer
    assert answer.passages == []
    assert answer.contexts == [QUESTION]
    assert "closed-book model" in card
    assert "index" not in card


def test_an_index_for_a_closed_book_bundle_is_refused(bundle: Path, tmp_path: Path):
    with pytest.raises(BadInputError, match="answers without passages; leave --index out"):
        Answerer(bundle, tmp_path)


def test_a_retriever_for_a_closed_book_bundle_is_refused(made: SearchOf, tmp_path: Path):
    what = "--hf-retriever: the trial retrieves nothing, so there is no index to write"
    with pytest.raises(BadInputError, match=what):
        export_best(made(CLOSED_BOOK).folder, tmp_path / "best", hf_retriever=True)


def test_the_table_has_no_recall_where_nothing_is_retrieved(fitted: SearchOf):
    (row,) = rows(fitted(CLOSED_BOOK))

    assert row["val/recall_at_5"] is None
    assert isinstance(row["val/em"], float)


def test_a_card_says_where_only_one_of_two_models_has_recall(bundle: Path):
    from ragsearch.results.bundle import open_bundle
    from ragsearch.results.card import _scores

    manifest = open_bundle(bundle).manifest
    manifest.metrics["val/recall_at_5"] = 0.75  # type: ignore[index]

    table = list(_scores(manifest, {"val/em": 0.25, "val/nll": 3.0}))

    assert "| val/recall_at_5 | 0.7500 | none |" in table


def test_retrieval_of_a_closed_book_bundle_is_refused(bundle: Path):
    with pytest.raises(BadInputError, match="answers without passages, so there is nothing"):
        evaluate_retrieval(bundle, [])
