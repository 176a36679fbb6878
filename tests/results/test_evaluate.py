import json
from pathlib import Path

import pytest
import torch

from ragsearch.data.gold import Gold, read_judged
from ragsearch.data.questions import read_questions
from ragsearch.errors import BadInputError
from ragsearch.results.ask import Answerer
from ragsearch.results.evaluate import evaluate, evaluate_all, evaluate_retrieval
from ragsearch.results.export import export_best
from ragsearch.spec import METRICS, SIGNS
from tests.results.conftest import BundleOf, SearchOf
from tests.results.searches import Settings, write_rows
from tests.tiny import Tiny

FITTED = [
    Settings("rag_sequence", "t5", max_epochs=3),
    Settings("rag_token", "bart", max_epochs=8, n_val=5, num_beams=1),
    Settings("rag_sequence", "bart", max_epochs=8, precision="bf16-mixed"),
]

OF_TRIALS = {"val/hit_overlap", "train/question_encoder_grad_norm"}
"""Signs of collapse that compare with what was before, and those of training."""
SHOWN_SIGNS = {name.removeprefix("val/") for name in {*SIGNS} - OF_TRIALS}


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
        if name in {*METRICS, *SIGNS} - OF_TRIALS
    }
    assert "unique_passage_ratio" in said
    assert found.summary == said | {"n": settings.n_val}
    assert found.summary["em"] > 0.5  # it has learnt what there was to learn


def test_the_threads_of_the_caller_are_left_as_they_were(exported: BundleOf, tiny: Tiny):
    torch.set_num_threads(2)

    evaluate(exported(Settings()).folder, tiny.val, limit=1)

    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_without_retrieval_no_index_is_needed_and_no_recall_reported(
    exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    bundle = exported(Settings())

    found = evaluate(bundle.folder, tiny.val, index=tmp_path / "none", no_retrieval=True)

    assert found.summary.keys() == {"em", "f1", "rouge_l", "nll", "n"}
    assert found.predictions()[0]["passages"] == []


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


def test_a_bundle_is_scored_with_fewer_or_more_passages_than_its_trial_read(
    exported: BundleOf, tiny: Tiny
):
    bundle = exported(Settings())

    own, same, one = (
        evaluate(bundle.folder, tiny.val, retrieval=retrieval)
        for retrieval in (None, {"n_docs": 3}, {"n_docs": 1})
    )

    assert own.summary == same.summary
    assert [len(example.passages) for example in one.examples] == [1] * 8
    assert [example.passages[0] for example in own.examples] == [
        example.passages[0] for example in one.examples
    ]


APPROXIMATE = Settings(faiss='"IVF8,Flat"', nprobe=1)


def test_a_bundle_asks_as_its_trial_did_and_otherwise_when_told_to(
    exported: BundleOf, tiny: Tiny
):
    bundle = exported(APPROXIMATE).folder

    own = evaluate(bundle, tiny.val)
    thorough = evaluate(bundle, tiny.val, retrieval={"nprobe": 8})

    assert own.summary == evaluate(bundle, tiny.val, retrieval={"nprobe": 1}).summary
    exact = evaluate(exported(Settings()).folder, tiny.val)
    assert [example.passages for example in thorough.examples] == [
        example.passages for example in exact.examples
    ]
    assert [example.passages for example in own.examples] != [
        example.passages for example in exact.examples
    ]
    answer = Answerer(bundle).ask(own.examples[0].question.question)
    assert [passage.id for passage in answer.passages] == [
        passage.id for passage in own.examples[0].passages if passage is not None
    ]


@pytest.mark.parametrize(
    ("retrieval", "message"),
    [
        (
            {"ef_search": 64},
            "--ef-search: the index is Flat, which has no use for it; leave it",
        ),
        ({"nprobe": 2}, "--nprobe: the index is Flat, which has no use for it; leave it out"),
        (
            {"n_docs": 41},
            "--n-docs: asks for 41 passages, but the index holds 40; ask for fewe",
        ),
        ({"n_docs": 0}, "--n-docs: must be at least 1, not 0"),
    ],
)
def test_what_the_index_has_no_use_for_is_refused(
    exported: BundleOf, tiny: Tiny, retrieval: dict[str, int], message: str
):
    with pytest.raises(BadInputError, match=message):
        evaluate(exported(Settings()).folder, tiny.val, retrieval=retrieval)


def test_without_retrieval_there_is_nothing_to_ask_otherwise(exported: BundleOf, tiny: Tiny):
    with pytest.raises(
        BadInputError, match="--n-docs: is of no use without retrieval; drop it"
    ):
        evaluate(
            exported(Settings()).folder, tiny.val, no_retrieval=True, retrieval={"n_docs": 2}
        )


def test_retrieval_alone_finds_what_answers_are_read_from(exported: BundleOf, tiny: Tiny):
    bundle = exported(Settings()).folder

    alone, whole = evaluate_retrieval(bundle, tiny.val), evaluate(bundle, tiny.val)

    assert [one.found for one in alone.examples] == [one.found for one in whole.examples]
    scores = {"recall_at_1", "recall_at_5", "recall_at_10", "mrr_at_10", "n"} | SHOWN_SIGNS
    scores -= {"posterior_entropy"}  # which only answers tell
    assert alone.summary == {name: whole.summary[name] for name in scores}


def test_precision_is_by_titles_as_in_the_original(exported: BundleOf, tmp_path: Path):
    bundle = exported(Settings()).folder
    found = Answerer(bundle).ask("What is the capital of Babex?").passages
    asked = tmp_path / "questions.txt"
    asked.write_text("What is the capital of Babex?\nWhat is the capital of Babex?\n")
    gold = tmp_path / "gold.tsv"
    gold.write_text(f"{found[0].title}\t{found[2].title}\nNowhere\n")

    questions = read_judged(asked, Gold("titles", gold))
    summary = evaluate_retrieval(bundle, questions, at=[3, 1]).summary

    assert {name: summary[name] for name in summary if name not in SHOWN_SIGNS} == {
        "precision_at_1": 1 / 2,
        "precision_at_3": (2 / 3) / 2,
        "recall_at_1": 0.5,
        "recall_at_3": 0.5,
        "mrr_at_3": 0.5,
        "n": 2,
    }
    assert (summary["unique_passage_ratio"], summary["top1_concentration"]) == (0.5, 1.0)
    with pytest.raises(BadInputError, match="--gold-format: has questions without answers"):
        evaluate(bundle, questions)


def test_more_passages_than_the_index_holds_are_refused(exported: BundleOf, tiny: Tiny):
    with pytest.raises(
        BadInputError, match="--k: asks for 41 passages, but the index holds 40"
    ):
        evaluate_retrieval(exported(Settings()).folder, tiny.val, at=[1, 41])


def test_bundles_share_nothing_but_the_questions(exported: BundleOf, tiny: Tiny):
    bundles = [exported(Settings(kind)).folder for kind in ("rag_sequence", "rag_token")]
    questions = read_questions(tiny.val)

    together = evaluate_all(bundles, questions, evaluate)

    alone = [evaluate(bundle, tiny.val) for bundle in reversed(bundles)]
    assert [one.summary for one in together] == [one.summary for one in reversed(alone)]
    assert together[0].summary["nll"] != together[1].summary["nll"]
    assert [one.row()["bundle"] for one in together] == [str(bundle) for bundle in bundles]


def test_all_that_is_wrong_with_bundles_is_told_before_one_is_asked(
    exported: BundleOf, tmp_path: Path
):
    good = exported(Settings()).folder

    with pytest.raises(BadInputError) as caught:
        evaluate_all([tmp_path, good, good], [], evaluate)

    empty, twice = map(str, caught.value.mistakes)
    assert empty.startswith(f"{tmp_path}: no manifest.json here")
    assert twice == f"{good}: is given twice; give each bundle once"
