import json
from pathlib import Path

import pytest

from ragsearch.data.gold import Gold, read_judged
from ragsearch.errors import BadInputError
from ragsearch.results.ask import Answerer
from ragsearch.results.evaluate import (
    Evaluation,
    evaluate,
    evaluate_retrieval,
    score_predictions,
)
from ragsearch.results.predictions import require_new, write_predictions
from tests.results.conftest import BundleOf
from tests.results.searches import Settings, write_rows
from tests.tiny import Tiny


def read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def scored(exported: BundleOf, tiny: Tiny) -> Evaluation:
    return evaluate(exported(Settings()).folder, tiny.val)


def test_predictions_hold_what_was_said_and_read(
    scored: Evaluation, tiny: Tiny, tmp_path: Path
):
    write_predictions(tmp_path / "said.jsonl", scored.predictions())

    written, asked = read_rows(tmp_path / "said.jsonl"), read_rows(tiny.val)
    for name in ("id", "answers", "passage_ids"):
        assert [row[name] for row in written] == [row[name] for row in asked]
    answerer = Answerer(scored.bundle)
    for row in written:
        answer = answerer.ask(row["question"])
        read = [passage for passage in row["passages"] if passage["weight"] is not None]
        assert row["prediction"] == answer.answer
        assert [
            (p["id"], p["title"], p["text"], p["doc_score"], p["weight"]) for p in read
        ] == [(p.id, p.title, p.text, p.doc_score, p.weight) for p in answer.passages]
        assert len(row["passages"]) == row["depth"] == 10


@pytest.mark.parametrize("name", ["said.jsonl", "said.parquet"])
def test_scores_from_a_file_are_those_of_the_model(
    name: str, exported: BundleOf, tiny: Tiny, scored: Evaluation, tmp_path: Path
):
    other = evaluate(exported(Settings("rag_token")).folder, tiny.val)
    write_predictions(tmp_path / name, [*scored.predictions(), *other.predictions()])

    again = score_predictions(tmp_path / name)

    assert [one.row() for one in again] == [scored.row(), other.row()]
    assert [one.predictions() for one in again] == [scored.predictions(), other.predictions()]


@pytest.mark.parametrize("name", ["found.jsonl", "found.parquet"])
def test_scores_of_retrieval_from_a_file_are_those_of_the_model(
    name: str, exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    asked, gold = tmp_path / "asked.txt", tmp_path / "gold.tsv"
    rows = read_rows(tiny.val)
    titles = {row["id"]: row["title"] for row in read_rows(tiny.corpus)}
    asked.write_text("".join(f"{row['question']}\n" for row in rows))
    gold.write_text("".join(f"{titles[row['passage_ids'][0]]}\tNone\n" for row in rows))
    questions = read_judged(asked, Gold("titles", gold))
    found = evaluate_retrieval(exported(Settings()).folder, questions, at=[2, 12])
    write_predictions(tmp_path / name, found.predictions())

    assert [one.row() for one in score_predictions(tmp_path / name, [2, 12])] == [found.row()]
    (again,) = score_predictions(tmp_path / name)
    assert {"recall_at_10", "precision_at_10"} <= again.summary.keys()
    with pytest.raises(BadInputError, match=r"--k: asks for 13 passages, but .* has 12 a que"):
        score_predictions(tmp_path / name, [13])


def test_scores_without_retrieval_from_a_file_have_no_recall(
    exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    said = evaluate(exported(Settings()).folder, tiny.val, no_retrieval=True)
    write_predictions(tmp_path / "said.jsonl", said.predictions())

    assert [one.row() for one in score_predictions(tmp_path / "said.jsonl")] == [said.row()]


def test_scores_follow_the_texts_in_the_file(scored: Evaluation, tmp_path: Path):
    rows = scored.predictions()
    for row in rows:
        row["answers"] = [row["prediction"] or "?"]
        row["prediction"] = row["answers"][0]
        row["em"] = 0.5  # what is written beside the texts is not believed
    again = score_predictions(write_rows(tmp_path / "said.jsonl", rows))

    assert again[0].summary["em"] == 1.0
    assert again[0].summary["nll"] == scored.summary["nll"]


def test_a_file_is_never_overwritten(scored: Evaluation, tmp_path: Path):
    for name in ("said.jsonl", "said.parquet"):
        path = tmp_path / name
        path.write_text("precious")

        with pytest.raises(BadInputError, match="exists already; choose another file"):
            write_predictions(path, scored.predictions())
        assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("said.txt", r"has suffix '.txt'; predictions are \.jsonl or \.parquet"),
        ("nowhere/said.jsonl", "is in no folder that exists; make it first"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(
    name: str, what: str, tmp_path: Path
):
    with pytest.raises(BadInputError, match=what):
        require_new(tmp_path / name)


def test_a_file_that_holds_no_predictions_is_refused(tmp_path: Path):
    (tmp_path / "said.jsonl").touch()

    with pytest.raises(BadInputError, match="holds no predictions; write some with"):
        score_predictions(tmp_path / "said.jsonl")


def test_rows_that_are_no_predictions_are_all_placed(scored: Evaluation, tmp_path: Path):
    good, bad, worse, no_tokens = (dict(scored.predictions()[0]) for _ in range(4))
    bad["answers"] = "Paris"
    del worse["passages"]
    no_tokens["n_tokens"] = None
    path = write_rows(tmp_path / "said.jsonl", [good, bad, worse, no_tokens])

    with pytest.raises(BadInputError) as caught:
        score_predictions(path)

    again = "give a file that `ragsearch eval` wrote"
    assert [str(each).replace(f"{tmp_path}/", "") for each in caught.value.mistakes] == [
        f"said.jsonl:2: answers: input should be a valid list; {again}",
        f"said.jsonl:3: passages: field required; {again}",
        "said.jsonl:4: prediction: a row with a prediction needs answers, nll and n_tokens",
    ]


def test_answers_and_mere_retrieval_are_not_scored_together(scored: Evaluation, tmp_path: Path):
    answered, found = (dict(row) for row in scored.predictions()[:2])
    del found["prediction"]
    path = write_rows(tmp_path / "said.jsonl", [answered, found])

    with pytest.raises(BadInputError, match="has rows with a prediction and rows without"):
        score_predictions(path)
