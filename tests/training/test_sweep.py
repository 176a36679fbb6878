"""Settings that need no training: swept together as evaluated one by one; temperature."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.index.hits import Hits, Knobs
from ragsearch.spec import TrialSection
from ragsearch.training.evaluation import evaluate, evaluate_batch
from ragsearch.training.loss import marginal_loss
from ragsearch.training.model import assemble
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.sweep import sweep, with_trial
from tests.training.conftest import FakeRetriever, MakeTrial


class CountingRetriever(FakeRetriever):
    """Notes how deep and how hard it was asked to search."""

    def __init__(self, of: FakeRetriever) -> None:
        super().__init__(of._passages, of._vectors)
        self.searches: Counter[tuple[int, Knobs]] = Counter()

    def retrieve(
        self, queries: np.ndarray, n_docs: int, knobs: Knobs = Knobs(), *_: object
    ) -> Hits:
        """Search as any other does."""
        self.searches[n_docs, knobs] += 1
        return super().retrieve(queries, n_docs)


def with_keys(trial: TrialSection, **keys: object) -> TrialSection:
    plain = trial.model_dump()
    for path, value in keys.items():
        section, _, key = path.partition("__")
        plain[section][key] = value
    return TrialSection.model_validate(plain)


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_a_sweep_gives_each_setting_what_it_would_get_alone(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    trial = make_trial(model__type=kind, train__eval_batch_size=3)
    settings = [
        with_keys(trial, decode__num_beams=2, retrieval__n_docs=5),
        trial,
        with_keys(trial, decode__max_length=3),
        with_keys(trial, decode__document_temperature=0.1),
        with_keys(trial, retrieval__n_docs=1),
        with_keys(trial, retrieval__n_docs=12),
    ]
    asked = CountingRetriever(retriever)
    pipeline = Pipeline(assemble(trial), asked)

    swept = sweep(pipeline, settings, val[:5])

    assert asked.searches == {(10, Knobs()): 2, (12, Knobs()): 2}  # two batches
    for setting, examples in zip(settings, swept, strict=True):
        alone = Pipeline(replace(pipeline.model, trial=setting), retriever)
        assert examples == list(evaluate(alone, val[:5]))
    assert len({example.nll for examples in swept for example in examples[:1]}) >= 4


def test_a_model_that_reads_no_passages_can_be_swept(
    make_trial: MakeTrial, val: list[Question]
) -> None:
    trial = make_trial(
        model__type="closed_book", model__question_encoder=None, retrieval__n_docs=5
    )
    pipeline = Pipeline(assemble(trial), None)
    settings = [trial, with_keys(trial, decode__max_length=2)]

    swept = sweep(pipeline, settings, val[:2])

    for setting, examples in zip(settings, swept, strict=True):
        assert examples == list(evaluate(with_trial(pipeline, setting), val[:2]))
    assert swept[0][0].found == [None]


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_the_temperature_divides_document_scores_before_their_softmax(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    model = assemble(make_trial(model__type=kind, decode__document_temperature=4.0))
    model.network.train(mode=False)
    pipeline = Pipeline(model, retriever)
    texts = [question.question for question in val[:2]]

    (first, _) = evaluate_batch(pipeline, val[:2])

    with torch.no_grad():
        found = pipeline.retrieve(texts, 3)
        labels = pipeline.labels([question.answers[0] for question in val[:2]])
        logits = pipeline.logits(pipeline.read(texts, found), found.doc_scores, labels)
        cooled = marginal_loss(
            model.kind, logits, found.doc_scores / 4.0, labels.ids, labels.mask
        )
        plain = marginal_loss(model.kind, logits, found.doc_scores, labels.ids, labels.mask)
    assert first.nll == pytest.approx(float(cooled.nll[0]), rel=1e-5)
    assert first.nll != pytest.approx(float(plain.nll[0]), rel=1e-3)
    assert first.found_scores[:3] == pytest.approx(found.doc_scores[0].tolist(), rel=1e-5)


def test_a_cold_model_answers_from_its_best_passage_alone(
    make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    cold = make_trial(decode__document_temperature=1e-4)
    pipeline = Pipeline(assemble(cold), retriever)
    pipeline.model.network.train(mode=False)
    alone = with_trial(pipeline, with_keys(cold, retrieval__n_docs=1))

    nll = [example.nll for example in evaluate(pipeline, val)]

    best_only = [example.nll for example in evaluate(alone, val)]
    assert nll == pytest.approx(best_only, rel=1e-4)
