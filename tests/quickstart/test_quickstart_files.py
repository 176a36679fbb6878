"""The shipped quickstart files keep what their README promises."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    RagSequenceForGeneration,
    RagTokenizer,
)

import ragsearch

QUICKSTART = Path(ragsearch.__file__).parent / "quickstart"
DATA, MODELS = QUICKSTART / "data", QUICKSTART / "models"
SPLITS = ("train", "val", "test")
PARTS = ("question_encoder", "context_encoder", "generator")
FACT = {
    "id": "xx-geography-0",
    "title": "Ruritania - Geography",
    "text": "Coastline: 4,711 km. Climate: temperate. Highest point: Mount Zenda 2,345 m.",
}

Row = dict[str, Any]


def read(name: str) -> list[Row]:
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def countries(rows: list[Row]) -> set[str]:
    return {row["id"].split("-")[0] for row in rows}


@pytest.fixture(scope="module")
def passages() -> dict[str, Row]:
    rows = read("passages")
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "passage ids repeat"
    return found


@pytest.fixture(scope="module")
def questions() -> dict[str, list[Row]]:
    return {split: read(split) for split in SPLITS}


def test_no_country_is_in_two_splits(questions):
    train, val, test = (countries(questions[split]) for split in SPLITS)

    assert min(len(train), len(val), len(test)) > 20
    assert train.isdisjoint(val | test)
    assert val.isdisjoint(test)


def test_question_ids_are_unique(questions):
    ids = [row["id"] for split in SPLITS for row in questions[split]]

    assert len(ids) > 6000
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("split", SPLITS)
def test_every_gold_passage_states_the_first_answer(questions, passages, split):
    silent = [
        row["id"]
        for row in questions[split]
        if not any(row["answers"][0] in passages[place]["text"] for place in row["passage_ids"])
    ]

    assert silent == []


@pytest.mark.parametrize("split", SPLITS)
def test_answers_have_at_most_six_words(questions, split):
    answers = [answer for row in questions[split] for answer in row["answers"]]

    assert answers
    assert max(len(answer.split()) for answer in answers) <= 6
    assert all(answer == answer.strip() != "" for answer in answers)


def test_texts_carry_no_markup_and_no_half_brackets(passages):
    texts = [row["text"] for row in passages.values()]
    marked = [text for text in texts if not set("<>()[]{}").isdisjoint(text)]

    assert len(passages) > 1500
    assert marked == []


@pytest.mark.parametrize("split", SPLITS)
def test_the_first_rows_are_a_fair_sample(questions, split):
    first = questions[split][:200]

    assert len({row["id"].split("-", 1)[1] for row in first}) > 30  # of 40 relations
    assert len(countries(first)) > 0.6 * len(countries(questions[split]))


def test_the_rag_checkpoint_stays_small():
    sizes = {part: (MODELS / part / "model.safetensors").stat().st_size for part in PARTS}

    assert sizes["generator"] <= 8e6
    assert sizes["question_encoder"] + sizes["generator"] <= 16e6


def test_nothing_shipped_is_a_pickle():
    files = [path for path in MODELS.rglob("*") if path.is_file()]

    assert files
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_tokenizers_hold_no_name_that_training_countries_never_mention(questions, passages):
    known = countries(questions["train"])
    told = [row for row in passages.values() if row["id"].split("-")[0] in known]
    text = " ".join(row["title"] + row["text"] for row in told)
    names = _names(questions["val"]) | _names(questions["test"])
    unknown = {name for name in names if name not in text}
    bpe = AutoTokenizer.from_pretrained(MODELS / "generator").get_vocab()
    wordpiece = AutoTokenizer.from_pretrained(MODELS / "question_encoder").get_vocab()

    assert len(unknown) > 10
    assert [
        name for name in unknown if f"\u0120{name}" in bpe or name.lower() in wordpiece
    ] == []


def test_the_generator_tokenizer_ends_texts_and_gives_them_back():
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "generator")
    text = "Côte d'Ivoire - Geography / Total area: 322,463 sq km. // How large is it?"

    ids = tokenizer(text).input_ids

    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert ids[-1] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_pair_finds_the_passage_of_a_country_it_never_saw(passages):
    question_tokenizer = AutoTokenizer.from_pretrained(MODELS / "question_encoder")
    context_tokenizer = AutoTokenizer.from_pretrained(MODELS / "context_encoder")
    question_encoder = DPRQuestionEncoder.from_pretrained(MODELS / "question_encoder")
    context_encoder = DPRContextEncoder.from_pretrained(MODELS / "context_encoder")
    rows = [*list(passages.values())[::10], FACT]
    titles, texts = [row["title"] for row in rows], [row["text"] for row in rows]

    with torch.no_grad():
        query = question_encoder(
            **question_tokenizer("How long is the coastline of Ruritania?", return_tensors="pt")
        ).pooler_output
        vectors = context_encoder(
            **context_tokenizer(titles, texts, padding=True, return_tensors="pt")
        ).pooler_output

    assert rows[int((query @ vectors.T).argmax())] == FACT


@pytest.mark.parametrize("lowered", [False, True])
def test_the_generator_copies_the_answer_of_a_passage_it_never_saw(lowered):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "generator")
    model = AutoModelForSeq2SeqLM.from_pretrained(MODELS / "generator")
    question = "How long is the coastline of Ruritania?"
    asked = question.lower() if lowered else question
    context = f"{FACT['title']} / {FACT['text']} // {asked}"

    ids = model.generate(**tokenizer([context], return_tensors="pt"), max_new_tokens=20)

    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "4,711 km"


def test_the_parts_make_a_rag_checkpoint_that_survives_saving(tmp_path):
    model = RagSequenceForGeneration.from_pretrained_question_encoder_generator(
        str(MODELS / "question_encoder"), str(MODELS / "generator")
    )
    tokenizers = [AutoTokenizer.from_pretrained(MODELS / part) for part in PARTS[::2]]
    model.save_pretrained(tmp_path)
    RagTokenizer(*tokenizers).save_pretrained(tmp_path)

    loaded = RagSequenceForGeneration.from_pretrained(tmp_path)
    tokenizer = RagTokenizer.from_pretrained(tmp_path)

    assert loaded.config.generator.bos_token_id is None
    assert tokenizer.generator("4,711 km").input_ids == tokenizers[1]("4,711 km").input_ids
    assert all(
        torch.equal(value, loaded.state_dict()[name])
        for name, value in model.state_dict().items()
    )


def _names(rows: list[Row]) -> set[str]:
    """Return the capitalised words inside questions: their countries."""
    words = (word for row in rows for word in row["question"].rstrip("?").split()[1:])
    return {word for word in words if word.istitle() and len(word) > 5}
