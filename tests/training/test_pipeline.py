"""A question's way to its document scores: whose value, whose gradient, encoded how often."""

import numpy as np
import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.index.hits import Hits, Knobs
from ragsearch.training.model import assemble, generation_config
from ragsearch.training.module import RagModule
from ragsearch.training.pipeline import Pipeline, document_scores
from tests.training.conftest import FakeRetriever, MakeTrial


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_labels_end_once_and_are_padded_with_the_generators_padding(
    generator: str, make_trial: MakeTrial
) -> None:
    """B18: T5's tokenizer ends a text by itself. B15: no -100, an index of no embedding."""
    model = assemble(make_trial(generator))
    ends = model.generator.config.eos_token_id

    labels = Pipeline(model, None).labels(["Ba", "Babex dofin gake"])

    assert (labels.ids == ends).sum(dim=1).tolist() == [1, 1]
    last = labels.mask.sum(dim=1, keepdim=True) - 1
    assert labels.ids.gather(1, last).flatten().tolist() == [ends, ends]
    assert set(labels.ids[~labels.mask].tolist()) == {model.generator.config.pad_token_id}


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_training_starts_answers_with_the_token_that_generation_starts_from(
    generator: str, make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    """B33: the original trained BART on <s> and generated from </s>."""
    model = assemble(make_trial(generator))
    pipeline = Pipeline(model, retriever)
    begun: list[int] = []
    model.generator.get_decoder().register_forward_pre_hook(
        lambda _, __, told: begun.append(int(told["input_ids"][0, 0])), with_kwargs=True
    )
    found = pipeline.retrieve(["which city?"], 1)
    contexts = pipeline.read(["which city?"], found)

    pipeline.logits(contexts, found.doc_scores, pipeline.labels(["Baba"]))
    model.generator.generate(
        contexts.input_ids,
        attention_mask=contexts.attention_mask,
        generation_config=generation_config(model),
    )

    assert begun[0] == begun[1] == model.generator.config.decoder_start_token_id


def test_what_the_generator_is_to_write_is_no_view(
    make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    """Of a view torch compiles for the shape of the whole, too: again for most batches."""
    model = assemble(make_trial("bart"))
    pipeline = Pipeline(model, retriever)
    is_view: list[bool] = []
    model.generator.register_forward_pre_hook(
        lambda _, __, told: is_view.append(told["decoder_input_ids"]._is_view()),
        with_kwargs=True,
    )
    questions = ["which city?", "which river?"]
    found = pipeline.retrieve(questions, 3)

    labels = pipeline.labels(["Baba", "Do"])
    pipeline.logits(pipeline.read(questions, found), found.doc_scores, labels)

    assert is_view == [False]


class HalfPrecision(FakeRetriever):
    """Sends vectors as a pool does: coarse, beside scores that are not."""

    def retrieve(self, queries: np.ndarray, n_docs: int, *rest: object) -> Hits:
        """Return exact scores and rounded vectors."""
        hits = super().retrieve(queries, n_docs, *rest)
        return hits._replace(vectors=hits.vectors.astype(np.float16).astype(np.float32))


@pytest.fixture
def halved(retriever: FakeRetriever) -> HalfPrecision:
    return HalfPrecision(retriever._passages, retriever._vectors)


def test_a_document_score_has_the_hits_value_and_the_vectors_gradient() -> None:
    random = np.random.default_rng(3)
    questions = torch.tensor(random.standard_normal((2, 4), np.float32), requires_grad=True)
    vectors = random.standard_normal((2, 3, 4), np.float32).astype(np.float16)
    hits = Hits(
        np.array([[4, 2, 7], [1, 3, -1]]),
        np.array([[1.1, 0.3, -0.7], [2.5, 0.1, -np.inf]], np.float32),
        vectors.astype(np.float32),
    )

    scores = document_scores(questions, hits)
    scores[:, 1].sum().backward()

    np.testing.assert_array_equal(scores.detach().numpy(), hits.scores)
    assert questions.grad is not None
    np.testing.assert_array_equal(questions.grad.numpy(), hits.vectors[:, 1])


def test_a_missing_passage_sends_no_gradient() -> None:
    questions = torch.ones(1, 2, requires_grad=True)
    hits = Hits(
        np.array([[3, -1]]),
        np.array([[2.0, -np.inf]], np.float32),
        np.ones((1, 2, 2), np.float32),
    )

    torch.log_softmax(document_scores(questions, hits), dim=-1)[0, 0].backward()

    assert questions.grad is not None
    assert questions.grad.tolist() == [[0.0, 0.0]]


def test_vectors_in_half_precision_change_no_score(
    make_trial: MakeTrial, retriever: FakeRetriever, halved: HalfPrecision, val: list[Question]
) -> None:
    model = assemble(make_trial())
    texts = [question.question for question in val]

    model.network.train(mode=False)
    exact, coarse = (Pipeline(model, one).retrieve(texts, 5) for one in (retriever, halved))

    assert torch.equal(exact.doc_scores, coarse.doc_scores)


class Asked(FakeRetriever):
    """Remembers how it was asked."""

    def retrieve(self, queries: np.ndarray, n_docs: int, *rest: object) -> Hits:
        """Return the nearest passages."""
        self.rest = rest
        return super().retrieve(queries, n_docs)


@pytest.mark.parametrize("settings", [{}, {"retrieval__ef_search": 7, "retrieval__nprobe": 3}])
def test_the_knobs_of_a_trial_go_with_every_call(
    settings: dict[str, int], make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    asked = Asked(retriever._passages, retriever._vectors)

    Pipeline(assemble(make_trial(**settings)), asked).retrieve(["What is new?"], 2)

    assert asked.rest == (Knobs(*settings.values()),)


@pytest.fixture
def frozen(make_trial: MakeTrial, retriever: FakeRetriever) -> Pipeline:
    model = assemble(make_trial(model__freeze_question_encoder=True))
    model.network.train(mode=False)
    return Pipeline(model, retriever)


def test_a_frozen_encoder_gives_a_question_the_same_bits_in_every_batch(
    frozen: Pipeline, val: list[Question]
) -> None:
    texts = [question.question for question in val]

    together = frozen.retrieve(texts, 5).doc_scores
    fresh = Pipeline(frozen.model, frozen.retriever)
    alone = [fresh.retrieve([text], 5).doc_scores for text in reversed(texts)]

    assert torch.equal(together, torch.cat(alone[::-1]))


def test_a_frozen_encoder_reads_a_question_once(frozen: Pipeline, val: list[Question]) -> None:
    texts = [question.question for question in val]
    frozen.retrieve(texts, 5)
    read: list[object] = []
    frozen.model.question_encoder.register_forward_hook(lambda *call: read.append(call))

    frozen.retrieve([*texts, "What is new?"], 5)

    assert len(read) == 1


def test_an_encoder_with_dropout_on_is_not_taken_for_frozen(frozen: Pipeline) -> None:
    frozen.model.question_encoder.train()

    assert not frozen.is_frozen


def test_the_times_of_retrieval_are_those_of_the_epochs_training(
    make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    module = RagModule(Pipeline(assemble(make_trial()), retriever))
    module.pipeline.waits_s.append(1e6)  # of the validation before

    module.on_train_epoch_start()
    module._losses.append((1.0, 1))
    module.pipeline.waits_s += [0.001] * 95 + [0.5] * 5
    module._epoch_started -= 10.0
    module.on_validation_epoch_start()

    assert module.epoch_metrics["retrieval/p95_ms"] == pytest.approx(25.95)
    assert module.epoch_metrics["time/retrieval_share"] == pytest.approx(0.2595, rel=1e-2)
