"""RAG-Token's answers are those of stock Transformers, from contexts encoded once."""

from dataclasses import replace

import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.training.encoded import encode_contexts
from ragsearch.training.evaluation import evaluate
from ragsearch.training.marginal import decode_marginally
from ragsearch.training.model import assemble, generation_config
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial
from tests.training.test_decode import assembled, read


@pytest.mark.parametrize("without", [{}, {"layers": ()}], ids=["keys kept", "no keys kept"])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("generator", ["t5", "bart"])
@torch.no_grad()
def test_answers_are_those_of_stock_generation(
    generator: str,
    num_beams: int,
    without: dict[str, object],
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    settings = {"model__type": "rag_token", "decode__num_beams": num_beams}
    model = assembled(make_trial, generator, **settings)
    texts = ["Why?", *(question.question for question in train[:3])]
    contexts, scores = read(Pipeline(model, retriever), texts, n_docs=3)
    scores[1, 2] = -torch.inf
    encoded = encode_contexts(model, contexts)

    answers = decode_marginally(replace(encoded, **without), scores)

    stock = model.network.generate(
        context_input_ids=contexts.input_ids,
        context_attention_mask=contexts.attention_mask,
        doc_scores=scores,
        n_docs=3,
        generation_config=generation_config(model),
    )
    assert torch.equal(answers, stock)
    assert len(answers.unique(dim=0)) > 1


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token", "closed_book"])
def test_a_validation_encodes_every_context_once(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, val: list[Question]
) -> None:
    parts = {"model__question_encoder": None} if kind == "closed_book" else {}
    model = assemble(make_trial(model__type=kind, decode__num_beams=2, **parts))
    read_rows: list[int] = []
    model.generator.get_encoder().register_forward_hook(
        lambda *call: read_rows.append(len(call[-1].last_hidden_state))
    )

    examples = list(
        evaluate(Pipeline(model, None if kind == "closed_book" else retriever), val[:4])
    )

    assert sum(read_rows) == sum(len(example.passages) for example in examples)
