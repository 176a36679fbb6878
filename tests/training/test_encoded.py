"""Contexts encoded once give what each would give alone."""

from dataclasses import replace

import pytest
import torch

from ragsearch.data.questions import Question
from ragsearch.training import encoded as encoding
from ragsearch.training.contexts import Contexts
from ragsearch.training.encoded import Encoded, encode_contexts
from ragsearch.training.model import RagModel, assemble
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial


@pytest.fixture(params=["t5", "bart"])
def model(request: pytest.FixtureRequest, make_trial: MakeTrial) -> RagModel:
    model = assemble(make_trial(request.param))
    model.network.train(mode=False)
    return model


@pytest.fixture
def contexts(model: RagModel, retriever: FakeRetriever, train: list[Question]) -> Contexts:
    pipeline = Pipeline(model, retriever)
    texts = ["Why?", *(question.question for question in train[:3])]
    return pipeline.read(texts, pipeline.retrieve(texts, 3))


@torch.no_grad()
def test_contexts_encoded_by_length_have_the_states_of_one_batch(
    model: RagModel, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_contexts(model, contexts)
    monkeypatch.setattr(encoding, "_ROWS_A_GROUP", 5)
    grouped = encode_contexts(model, contexts)

    assert len(grouped.layers) == len(whole.layers) == 2
    there = contexts.attention_mask.bool()
    torch.testing.assert_close(grouped.states[there], whole.states[there])
    for one, other in zip(grouped.layers, whole.layers, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(
                mine.transpose(1, 2)[there], theirs.transpose(1, 2)[there]
            )


@torch.no_grad()
def test_the_logits_of_encoded_contexts_are_those_of_the_generator(
    model: RagModel, contexts: Contexts
) -> None:
    rows = torch.tensor([4, 0, 4])
    labels = torch.tensor([[17, 30, 5], [9, 9, 9], [17, 31, 5]])
    start = torch.full((3, 1), model.generator.config.decoder_start_token_id)

    found = encode_contexts(model, contexts).logits(labels, rows)

    expected = model.generator(
        input_ids=contexts.input_ids[rows],
        attention_mask=contexts.attention_mask[rows],
        decoder_input_ids=torch.cat([start, labels[:, :-1]], dim=1),
    ).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoder_that_keeps_no_keys_apart_reads_the_states(
    model: RagModel, contexts: Contexts
) -> None:
    known = encode_contexts(model, contexts)
    bare: Encoded = replace(known, layers=())
    labels = torch.full((len(contexts.input_ids), 2), 7)

    torch.testing.assert_close(bare.logits(labels), known.logits(labels))
    assert bare.cache(2) is None
    assert known.cache(2) is not None
