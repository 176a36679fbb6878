"""Signs of retrieval collapse: by hand, and of trials that do collapse."""

import math

import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.index.store import Passage
from ragsearch.spec import ObjectiveSection
from ragsearch.training.collapse import collapse_signs, hits_of, prior_entropy
from ragsearch.training.evaluation import Example, Retrieval
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.model import assemble
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial


def retrieval(hits: str, n_read: int = 2, scores: list[float] | None = None) -> Retrieval:
    """Return what was found for a question: a letter a passage, `-` for none."""
    found = [None if one == "-" else Passage(one, one, one, one) for one in hits]
    question = Question("q", "q?", ("a",), ())
    return Retrieval(question, found, scores or [0.0] * len(hits), n_read)


def test_the_signs_of_a_few_questions_are_those_counted_by_hand() -> None:
    found = [retrieval("abx"), retrieval("acx"), retrieval("ba", scores=[9.0, -math.inf])]
    before = [["a", "b"], ["d", "c"], ["c", "d"]]

    signs = collapse_signs(found, before)

    assert signs == {
        "unique_passage_ratio": 3 / 6,  # a, b, c: what is found and not read does not count
        "top1_concentration": 2 / 3,
        "prior_entropy": pytest.approx(2 / 3 * math.log(2)),
        "hit_overlap": pytest.approx((1 + 0.5 + 0) / 3),
    }
    del signs["hit_overlap"]
    assert collapse_signs(found) == signs  # as of a model whose past is not known


def example(posterior_entropy: float | None) -> Example:
    """Return an answered question."""
    one = retrieval("ab")
    return Example(
        one.question, one.found, one.found_scores, one.n_read, "a", 1.0, 1.0, 1.0, 0.5, 2,
        posterior_entropy,
    )  # fmt: skip


def test_the_posterior_is_told_where_it_is_known_of_every_question() -> None:
    known, unknown = [example(0.25), example(0.75)], [example(0.25), example(None)]

    assert collapse_signs(known)["posterior_entropy"] == 0.5
    assert "posterior_entropy" not in collapse_signs(unknown)


def test_a_question_without_passages_has_no_first_one() -> None:
    signs = collapse_signs([retrieval("--"), retrieval("a-")], [[], ["a"]])

    assert signs["unique_passage_ratio"] == 1.0
    assert signs["top1_concentration"] == 0.5
    assert signs["hit_overlap"] == 1.0


def test_entropy_is_in_nats_and_large_where_passages_weigh_the_same() -> None:
    assert prior_entropy([5.0] * 4) == pytest.approx(math.log(4))
    assert prior_entropy([100.0, 0.0]) == pytest.approx(0.0, abs=1e-9)
    assert prior_entropy([math.log(3.0), 0.0]) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )


def fitted(
    trial: object, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> list[dict[str, float]]:
    reports: list[EpochReport] = []
    nll = ObjectiveSection(metric="val/nll", goal="min")
    fit_trial(trial, (train, val), retriever, reports.append, objective=nll, seed=3)
    return [report.metrics for report in reports]


def test_a_frozen_encoder_finds_what_it_found_before_and_has_no_gradient(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> None:
    trial = make_trial(
        model__freeze_question_encoder=True,
        optim__learning_rate=0.01,
        train__max_epochs=2,
        train__precision="bf16-mixed",
        retrieval__prefetch=1,
        decode__max_length=2,
    )

    for metrics in fitted(trial, retriever, train, val):
        assert metrics["val/hit_overlap"] == 1.0
        assert "train/question_encoder_grad_norm" not in metrics


@pytest.mark.parametrize("prefetch", [0, 1])
def test_an_encoder_that_is_driven_off_finds_other_passages_and_the_same_for_all(
    prefetch: int,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    val: list[Question],
) -> None:
    trial = make_trial(
        optim__learning_rate=1e-12,
        optim__question_encoder_lr_ratio=3e11,
        optim__schedule="constant",
        retrieval__prefetch=prefetch,
        decode__max_length=2,
    )
    still = trial.model_copy(
        update={"optim": trial.optim.model_copy(update={"question_encoder_lr_ratio": 1.0})}
    )

    (healthy,) = fitted(still, retriever, train, val)
    (collapsed,) = fitted(trial, retriever, train, val)

    assert healthy["val/hit_overlap"] == 1.0
    assert collapsed["val/hit_overlap"] < 0.5
    assert collapsed["val/unique_passage_ratio"] == pytest.approx(1 / len(val))
    assert collapsed["val/top1_concentration"] == 1.0
    assert healthy["val/unique_passage_ratio"] > collapsed["val/unique_passage_ratio"]


def test_the_hits_before_training_are_those_of_the_encoder_as_it_was(
    make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    pipeline = Pipeline(assemble(make_trial()), retriever)
    pipeline.model.stop_training()

    hits = hits_of(pipeline, [val[:3], val[3:4]])

    with torch.no_grad():
        queries = pipeline.model.encode_questions([one.question for one in val[:4]]).numpy()
    ids = retriever.retrieve(queries, 3).ids
    assert hits == [[one.id for one in retriever.passages(row)] for row in ids]


def test_the_gradient_of_the_encoder_is_measured_before_it_is_clipped(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> None:
    norms = [
        fitted(
            make_trial(
                optim__max_grad_norm=limit,
                optim__effective_batch=24,
                optim__warmup_steps=1,  # the only step, so that nothing moves
                decode__max_length=2,
            ),
            retriever,
            train,
            val[:2],
        )[0]["train/question_encoder_grad_norm"]
        for limit in (None, 1e-6)
    ]

    assert norms[0] == norms[1] > 1e-6
