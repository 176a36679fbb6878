import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.spec import METRICS
from ragsearch.training.decode import generate_answers
from ragsearch.training.evaluation import (
    Retrieval,
    evaluate,
    evaluate_batch,
    retrieve,
    summarise,
    summarise_retrieval,
    weights,
)
from ragsearch.training.model import assemble
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial


@pytest.fixture
def pipeline(make_trial: MakeTrial, retriever: FakeRetriever) -> Pipeline:
    model = assemble(make_trial(train__eval_batch_size=3))
    model.network.train(mode=False)
    return Pipeline(model, retriever)


def test_an_example_has_the_passages_answered_from_and_their_scores(
    pipeline: Pipeline, val: list[Question]
) -> None:
    examples = evaluate_batch(pipeline, val[:2])

    found = pipeline.retrieve([question.question for question in val[:2]], 3)
    contexts = pipeline.read([question.question for question in val[:2]], found)
    answers = generate_answers(pipeline.model, contexts, found.doc_scores)
    assert [example.prediction for example in examples] == answers
    assert [example.passages for example in examples] == found.passages
    assert examples[1].doc_scores == pytest.approx(found.doc_scores[1].tolist(), rel=1e-5)
    assert all(example.nll > 0 and example.n_tokens >= 2 for example in examples)


def test_examples_do_not_depend_on_the_batch_they_come_in(
    pipeline: Pipeline, val: list[Question]
) -> None:
    batches = list(evaluate(pipeline, val))
    one = [example for question in val for example in evaluate_batch(pipeline, [question])]

    assert [example.question for example in batches] == val
    assert [example.prediction for example in batches] == [
        example.prediction for example in one
    ]
    nll = [example.nll for example in one]
    assert [example.nll for example in batches] == pytest.approx(nll, rel=1e-5)


def test_evaluating_switches_dropout_off(pipeline: Pipeline, val: list[Question]) -> None:
    pipeline.model.network.train()

    list(evaluate(pipeline, val[:1]))

    assert not any(module.training for module in pipeline.model.network.modules())


def test_the_gold_passage_is_ranked_among_ten_however_few_are_read(
    pipeline: Pipeline, val: list[Question]
) -> None:
    found = pipeline.retrieve([val[0].question], 10).passages[0]
    gold = found[7]
    assert gold is not None
    question = replace(val[0], passage_ids=(gold.source_id,))

    example = evaluate_batch(pipeline, [question])[0]

    assert example.rank == 7
    assert len(example.passages) == 3
    recall = {name: value for name, value in summarise([example]).items() if "recall" in name}
    assert recall == {"recall_at_1": 0.0, "recall_at_5": 0.0, "recall_at_10": 1.0}


def test_without_gold_passages_the_first_with_the_answer_counts(
    pipeline: Pipeline, val: list[Question]
) -> None:
    passage = pipeline.retrieve([val[0].question], 10).passages[0][2]
    assert passage is not None
    answer = passage.text.rpartition(":")[2].strip(" .")
    question = replace(val[0], answers=(answer,), passage_ids=())

    assert evaluate_batch(pipeline, [question])[0].rank == 2


def test_a_gold_passage_that_was_not_found_has_no_rank(
    pipeline: Pipeline, val: list[Question]
) -> None:
    question = replace(val[0], passage_ids=("nowhere",))

    assert evaluate_batch(pipeline, [question])[0].rank is None


def test_nll_is_averaged_over_tokens_and_the_rest_over_questions(
    pipeline: Pipeline, val: list[Question]
) -> None:
    examples = evaluate_batch(pipeline, val[:2])
    examples = [
        replace(examples[0], nll=2.0, n_tokens=1, em=1.0, f1=1.0, rouge_l=0.5),
        replace(examples[1], nll=4.0, n_tokens=5, em=0.0, f1=0.5, rouge_l=0.0),
    ]

    summary = summarise(examples)

    assert (summary["nll"], summary["em"], summary["f1"]) == (1.0, 0.5, 0.75)
    assert summary["rouge_l"] == 0.25
    assert {f"val/{name}" for name in summary} == set(METRICS)


def test_the_reciprocal_rank_is_that_of_the_first_relevant_passage(
    pipeline: Pipeline, val: list[Question]
) -> None:
    found = pipeline.retrieve([val[0].question], 12).passages[0]
    gold = [replace(val[0], passage_ids=(found[place].source_id,)) for place in (1, 3, 11)]
    lost = replace(val[0], passage_ids=("nowhere",))

    retrievals = list(retrieve(pipeline, [*gold, lost], 12))

    assert [retrieval.rank for retrieval in retrievals] == [1, 3, 11, None]
    assert summarise_retrieval(retrievals, (4, 10)) == {
        "recall_at_4": 0.5, "recall_at_10": 0.5, "mrr_at_10": (1 / 2 + 1 / 4) / 4,
    }  # fmt: skip
    assert summarise_retrieval(retrievals, (12,))["recall_at_12"] == 0.75


def test_precision_counts_each_gold_title_once(pipeline: Pipeline, val: list[Question]) -> None:
    found = pipeline.retrieve([val[0].question], 6).passages[0]
    twice = [found[0], found[0]._replace(id="other"), *found[1:]]
    titles = (found[0].title, found[3].title, "Nowhere")
    asked = Question("1", val[0].question, (), (), titles)

    retrieval = Retrieval(asked, twice, [0.0] * len(twice), 3)

    assert [retrieval.precision(k) for k in (1, 2, 5)] == [1.0, 0.5, 0.4]
    assert retrieval.rank == 0
    assert Retrieval(asked, twice[2:], [0.0] * 5, 3).rank == 2


def test_what_is_retrieved_is_what_is_answered_from(
    pipeline: Pipeline, val: list[Question]
) -> None:
    retrievals, examples = list(retrieve(pipeline, val, 10)), list(evaluate(pipeline, val))

    assert [one.found for one in retrievals] == [one.found for one in examples]
    assert [one.passages for one in retrievals] == [one.passages for one in examples]
    assert summarise_retrieval(retrievals).items() <= summarise(examples).items()


def test_nothing_has_no_summary() -> None:
    assert summarise([]) == {}


def test_missing_passages_weigh_nothing_and_are_not_read(
    make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    """B11: stock takes the last passage of the corpus for each one missing."""
    few = FakeRetriever(retriever.passages(range(2)), retriever._vectors[:2])
    model = assemble(make_trial(retrieval__n_docs=4))
    model.network.train(mode=False)
    whole, part = Pipeline(model, few), Pipeline(model, few)

    found = whole.retrieve([val[0].question], 4)
    example = evaluate_batch(whole, val[:1])[0]

    assert found.passages[0][2:] == [None, None]
    assert weights(found)[0][2:] == [0.0, 0.0]
    assert sum(weights(found)[0]) == pytest.approx(1.0)
    assert example.doc_scores[2:] == [-math.inf, -math.inf]
    two = part.retrieve([val[0].question], 2)
    answer = generate_answers(model, part.read([val[0].question], two), two.doc_scores)
    assert [example.prediction] == answer


class NothingFound(FakeRetriever):
    """An approximate index may look at no passage at all."""

    def __init__(self, like: FakeRetriever) -> None:
        super().__init__([], like._vectors[:0])


def test_a_question_without_any_passage_is_answered_alone(
    make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    model = assemble(make_trial())
    model.network.train(mode=False)

    nothing = evaluate_batch(Pipeline(model, NothingFound(retriever)), val[:2])
    alone = evaluate_batch(Pipeline(model, None), val[:2])

    assert predictions(nothing) == predictions(alone)
    assert [example.nll for example in nothing] == pytest.approx([e.nll for e in alone])
    assert alone[0].passages == [None]
    assert all(math.isfinite(example.nll) for example in nothing)


def predictions(examples: Sequence[object]) -> list[str]:
    return [example.prediction for example in examples]


def test_gradients_reach_the_question_encoder_through_the_scores(
    pipeline: Pipeline, val: list[Question]
) -> None:
    scores = pipeline.retrieve([val[0].question], 3).doc_scores

    torch.log_softmax(scores, dim=-1)[0, 0].backward()

    words = pipeline.model.question_encoder.get_input_embeddings().weight
    assert words.grad is not None
    assert words.grad.abs().sum() > 0
