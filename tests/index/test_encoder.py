"""Texts become the vectors Transformers gives them, whatever else is in the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, DPRContextEncoder

from ragsearch.errors import BadInputError
from ragsearch.index.encoder import (
    TextEncoder,
    load_text_model,
    load_tokenizer,
    pool,
    resolve_pooling,
)
from tests.tiny import Tiny

TITLES = ["Aland", "", "Bexdo - People", "C"]
TEXTS = ["Capital: Bexo.", "one", "a much longer text " * 9, "Coastline: 12 km."]


def test_dpr_vectors_are_its_pooled_output(tiny: Tiny) -> None:
    encoder = TextEncoder.load(tiny.context_encoder)
    model = DPRContextEncoder.from_pretrained(tiny.context_encoder).eval()
    tokens = AutoTokenizer.from_pretrained(tiny.context_encoder)(
        TITLES, TEXTS, padding=True, return_tensors="pt"
    )

    vectors = encoder.encode_passages(TITLES, TEXTS)

    expected = model(**tokens).pooler_output.detach().numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert encoder.pooling == "pooler"
    assert encoder.dimension == 32


@pytest.mark.parametrize("name", ["question_encoder", "context_encoder"])
def test_each_dpr_folder_opens_as_what_it_is(tiny: Tiny, name: str) -> None:
    model, _ = load_text_model(getattr(tiny, name))

    kind = "Question" if name == "question_encoder" else "Context"
    assert type(model).__name__ == f"DPR{kind}Encoder"
    assert not model.training


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls"])
def test_padding_changes_no_vector(tiny: Tiny, pooling: str) -> None:
    encoder = TextEncoder.load(tiny.bert, pooling=pooling)

    together = encoder.encode_passages(TITLES, TEXTS, batch_size=4)
    alone = encoder.encode_passages(TITLES, TEXTS, batch_size=1)

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_mean_leaves_padding_out(tiny: Tiny) -> None:
    model = AutoModel.from_pretrained(tiny.bert, add_pooling_layer=False).eval()
    tokens = AutoTokenizer.from_pretrained(tiny.bert)("Aland", "one", return_tensors="pt")

    vector = TextEncoder.load(tiny.bert).encode_passages(["Aland", "B"], ["one", "two " * 9])[0]

    expected = model(**tokens).last_hidden_state[0].mean(dim=0).detach().numpy()
    np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_normalised_vectors_have_length_one(tiny: Tiny) -> None:
    encoder = TextEncoder.load(tiny.bert, normalise=True)

    lengths = np.linalg.norm(encoder.encode_passages(TITLES, TEXTS), axis=1)

    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_questions_and_no_texts_are_embedded_too(tiny: Tiny) -> None:
    encoder = TextEncoder.load(tiny.question_encoder)

    assert encoder.encode_questions(["How long?", "Who?"]).shape == (2, 32)
    assert encoder.encode_passages([], []).shape == (0, 32)


def test_pooling_keeps_gradients(tiny: Tiny) -> None:
    model, pooling = load_text_model(tiny.bert)
    tokens = load_tokenizer(tiny.bert)(
        ["How?", "How long is it?"], padding=True, return_tensors="pt"
    )

    pool(model(**tokens), tokens.attention_mask, pooling, normalise=True).sum().backward()

    assert model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_half_precision_weights_are_computed_in_float32(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file(
        {key: value.half() for key, value in weights.items()},
        model / "model.safetensors",
        {"format": "pt"},
    )

    loaded, _ = load_text_model(model)

    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_resolving_takes_models_and_configs(tiny: Tiny) -> None:
    model, _ = load_text_model(tiny.bert)

    assert resolve_pooling(model, "auto") == "mean"
    assert (
        resolve_pooling(AutoConfig.from_pretrained(tiny.question_encoder), "auto") == "pooler"
    )


def test_a_longer_text_than_the_model_reads_is_refused(tiny: Tiny) -> None:
    encoder = TextEncoder.load(tiny.bert)

    with pytest.raises(BadInputError, match="max_length: reads 256 tokens at most, not 257"):
        encoder.encode_passages(TITLES, TEXTS, max_length=257)
    with pytest.raises(BadInputError, match="lower max_length"):
        encoder.encode_questions(TITLES, max_length=512)


def test_a_generator_is_no_text_encoder(tiny: Tiny) -> None:
    with pytest.raises(BadInputError, match="a t5 model is no text encoder"):
        load_text_model(tiny.t5)


def test_damaged_weights_are_refused(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])

    with pytest.raises(BadInputError, match="model: cannot be loaded as a text encoder: "):
        load_text_model(model)


def test_missing_weights_are_refused(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})

    with pytest.raises(BadInputError, match=r"lacks 1 weights, such as embeddings\.word"):
        load_text_model(model)


def test_a_pooler_that_was_never_saved_is_refused(tiny: Tiny) -> None:
    with pytest.raises(
        BadInputError, match="has no trained pooler; choose pooling mean or cls"
    ):
        load_text_model(tiny.bert, pooling="pooler")


def test_a_tokenizer_of_five_tokens_is_refused(model: Path) -> None:
    made_up = json.loads((model / "tokenizer.json").read_text())
    vocabulary = made_up["model"]["vocab"]
    made_up["model"]["vocab"] = {word: vocabulary[word] for word in list(vocabulary)[:5]}
    (model / "tokenizer.json").write_text(json.dumps(made_up))

    with pytest.raises(BadInputError, match="its tokenizer knows only 5 tokens"):
        load_tokenizer(model)


def test_a_tokenizer_larger_than_the_model_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))

    with pytest.raises(BadInputError, match=r"its tokenizer has \d+ tokens, the model 100"):
        load_tokenizer(model)


def test_code_from_a_model_folder_never_runs(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (model / "config.json").write_text(
        json.dumps(config | {"model_type": "own", "auto_map": code})
    )
    (model / "own.py").write_text(f"open({str(model / 'ran')!r}, 'w')")

    with pytest.raises(BadInputError, match="cannot be loaded as a text encoder"):
        load_text_model(model)
    assert not (model / "ran").exists()


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a copy of the tiny BERT, to be damaged."""
    return Path(shutil.copytree(tiny.bert, tmp_path / "model"))
