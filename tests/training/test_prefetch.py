"""Passages found one step ahead: which, scored how, and what becomes of errors."""

import threading

import numpy as np
import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.errors import PoolUnavailableError
from ragsearch.index.hits import Hits
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training import fit
from ragsearch.training.model import assemble
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.workers import Workers
from tests.training.conftest import FakeRetriever, MakeTrial


class Watched(FakeRetriever):
    """Remembers what it was asked, and in which thread."""

    def __init__(self, like: FakeRetriever, fails_at: int | None = None) -> None:
        super().__init__(like._passages, like._vectors)
        self.queries: list[np.ndarray] = []
        self.threads: list[str] = []
        self._fails_at = fails_at

    def retrieve(self, queries: np.ndarray, n_docs: int, *rest: object) -> Hits:
        """Return the nearest passages."""
        self.queries.append(queries)
        self.threads.append(threading.current_thread().name)
        if len(self.queries) == self._fails_at:
            raise PoolUnavailableError("pool 'tiny': no replica answered")
        return super().retrieve(queries, n_docs, *rest)


def trained(
    trial: TrialSection, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> list[dict[str, float]]:
    reports: list[fit.EpochReport] = []
    objective = ObjectiveSection(metric="val/nll", goal="min")
    questions = (train[:8], val[:2])
    fit.fit_trial(trial, questions, retriever, reports.append, objective=objective, seed=3)
    names = ("train/loss", "val/nll", "val/recall_at_5")
    return [{name: report.metrics[name] for name in names} for report in reports]


def test_all_steps_but_the_first_of_an_epoch_find_their_passages_ahead(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> None:
    trial = make_trial(retrieval__prefetch=1, optim__effective_batch=3, train__max_epochs=2)
    watched = Watched(retriever)

    trained(trial, watched, train, val)

    before, epoch = [False], [False, True, True, False]  # the last is the validation's
    assert [name.startswith("retrieval") for name in watched.threads] == before + epoch * 2
    assert [len(queries) for queries in watched.queries] == [2] + [3, 3, 2, 2] * 2
    assert not any(thread.name.startswith("retrieval") for thread in threading.enumerate())


def test_a_frozen_encoder_trains_to_the_same_bits_with_and_without(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> None:
    settings = {
        "model__freeze_question_encoder": True,
        "regularisation__dropout": 0.1,
        "optim__effective_batch": 3,
    }

    one, other = (
        trained(make_trial(retrieval__prefetch=n, **settings), retriever, train, val)
        for n in (0, 1)
    )

    assert one == other


def test_passages_found_ahead_are_scored_by_the_encoder_as_it_is(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    pipeline = Pipeline(assemble(make_trial()), retriever)
    pipeline.model.network.train(mode=False)
    texts = [question.question for question in train[:4]]
    old = pipeline.retrieve(texts, 3)
    ahead = pipeline.request(texts, 3)
    with torch.no_grad():
        for weight in pipeline.model.question_encoder.parameters():
            weight.mul_(0.9)

    found = pipeline.retrieve(texts, 3, ahead)
    found.doc_scores.sum().backward()
    pipeline.close()

    vectors = pipeline.model.encode_questions(texts).detach()
    numbers = [[retriever._passages.index(one) for one in row if one] for row in found.passages]
    documents = torch.tensor(retriever._vectors[numbers])
    expected = (vectors[:, None] * documents).sum(dim=-1)
    assert found.passages == old.passages
    torch.testing.assert_close(found.doc_scores.detach(), expected)
    assert not torch.equal(found.doc_scores, old.doc_scores)
    words = pipeline.model.question_encoder.get_input_embeddings().weight
    assert words.grad is not None


def test_asking_ahead_draws_no_random_number_and_leaves_dropout_on(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    pipeline = Pipeline(assemble(make_trial()), retriever)
    encoder = pipeline.model.question_encoder
    encoder.train()
    kept_off = next(module for module in encoder.modules() if not list(module.children()))
    kept_off.eval()
    state = torch.get_rng_state()

    ahead = pipeline.request([train[0].question], 2)

    assert ahead is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert [module for module in encoder.modules() if not module.training] == [kept_off]
    pipeline.close()


def test_without_a_retriever_there_is_nothing_to_ask(make_trial: MakeTrial) -> None:
    assert Pipeline(assemble(make_trial()), None).request(["Why?"], 2) is None


def test_an_error_of_the_thread_ends_the_trial_as_itself(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question], val: list[Question]
) -> None:
    trial = make_trial(retrieval__prefetch=1, optim__effective_batch=3)

    with pytest.raises(PoolUnavailableError, match="no replica answered"):
        trained(trial, Watched(retriever, fails_at=3), train, val)

    assert not any(thread.name.startswith("retrieval") for thread in threading.enumerate())


def test_the_last_step_of_an_epoch_is_followed_by_none(train: list[Question]) -> None:
    steps = fit.Steps(fit._loader(train[:7], 3), Workers())

    assert len(steps) == 3
    following = [None if step.following is None else len(step.following) for step in steps]
    assert [len(step.questions) for step in steps] == [3, 3, 1]
    assert following == [3, 1, None]
