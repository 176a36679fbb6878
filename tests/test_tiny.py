"""The tiny models everything else is tested with are real, loadable and deterministic."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from tests.tiny import Tiny, tiny_corpus, tiny_dpr, tiny_questions

ANY_TEXT = "Every ASCII sign: ~!@#$%^&*()_+{}|:<>?`-=[]\\;',./ and 0123456789 Xyzzy"


@pytest.mark.parametrize("name", ["question_encoder", "context_encoder", "bert"])
def test_encoders_know_every_ascii_sign(tiny: Tiny, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(getattr(tiny, name))

    ids = tokenizer(ANY_TEXT).input_ids

    assert tokenizer.unk_token_id not in ids
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_generator_tokenizers_round_trip_any_text(tiny: Tiny, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(getattr(tiny, name))

    ids = tokenizer(f"{ANY_TEXT} Québec ☃").input_ids

    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{ANY_TEXT} Québec ☃"


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_generators_learn_and_generate(tiny: Tiny, name: str) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(getattr(tiny, name))
    tokenizer = AutoTokenizer.from_pretrained(getattr(tiny, name))
    batch = tokenizer(["How long?"], return_tensors="pt")

    model(**batch, labels=batch.input_ids).loss.backward()
    answer = model.generate(**batch, max_length=5)

    assert any(weight.grad is not None for weight in model.parameters())
    assert answer[0, 0] == model.config.decoder_start_token_id
    assert len(tokenizer) <= model.config.vocab_size


def test_both_dpr_encoders_share_their_weights(tiny: Tiny) -> None:
    question = DPRQuestionEncoder.from_pretrained(tiny.question_encoder)
    context = DPRContextEncoder.from_pretrained(tiny.context_encoder)
    batch = AutoTokenizer.from_pretrained(tiny.question_encoder)("How?", return_tensors="pt")

    asked, found = question(**batch).pooler_output, context(**batch).pooler_output

    assert asked.shape == (1, 32)
    assert torch.equal(asked, found)


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        tiny_dpr(tmp_path / folder, seed=seed)
        tiny_corpus(tmp_path / folder, seed=seed)

    def content(folder: str, file: str) -> bytes:
        return (tmp_path / folder / file).read_bytes()

    for file in ("model.safetensors", "tokenizer.json", "corpus.jsonl"):
        assert content("one", file) == content("two", file)
    assert content("one", "model.safetensors") != content("three", "model.safetensors")


def test_building_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    tiny_dpr(tmp_path)

    assert torch.equal(torch.rand(1), expected)


def test_gold_passages_state_the_answers(tiny: Tiny) -> None:
    passages = {row["id"]: row["text"] for row in _rows(tiny.corpus)}
    questions = _rows(tiny.train) + _rows(tiny.val)

    assert len(passages) == 40
    assert len(questions) == 32
    for row in questions:
        assert row["answers"][0] in passages[row["passage_ids"][0]]


def test_more_questions_than_facts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="only 20 facts"):
        tiny_questions(tmp_path, n=10)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
