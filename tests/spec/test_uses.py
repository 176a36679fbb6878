from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec
from tests.spec.spaces import VALID, write_space

CLOSED_BOOK = """\
version: 1
name: kb
data: {train: train.jsonl, val: val.jsonl}
trial:
  model: {type: closed_book, generator: models/bart}
  optim: {learning_rate: 1e-4}
budget: {trials: 4}
"""

MIXED = VALID.replace(
    "space:\n", "space:\n  model.type: {choice: [rag_sequence, closed_book]}\n"
)


def test_a_closed_book_search_needs_neither_question_encoder_nor_index(tmp_path: Path):
    spec = load_spec(write_space(tmp_path, CLOSED_BOOK))

    assert spec.file.trial.model.question_encoder is None
    assert spec.used_indexes == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.question_encoder", "models/encoder"),
        ("model.freeze_question_encoder", "true"),
        ("model.doc_separator", "' | '"),
        ("retrieval.n_docs", "3"),
        ("retrieval.backend", "in_process"),
        ("train.max_source_length", "64"),
    ],
)
def test_what_only_retrieval_has_a_use_for_is_refused_without_it(
    key: str, value: str, tmp_path: Path
):
    what = f"trial.{key}: has no use, as model.type is 'closed_book'; leave"

    with pytest.raises(BadInputError, match=what) as caught:
        load_spec(write_space(tmp_path, CLOSED_BOOK), [f"trial.{key}={value}"])

    assert len(caught.value.mistakes) == 1


def test_a_trial_without_retrieval_has_the_defaults_of_what_others_use(tmp_path: Path):
    spec = load_spec(write_space(tmp_path, MIXED))

    closed, rag = (
        spec.trial_with({"model.type": kind, "retrieval.n_docs": 3, "retrieval.index": "two"})
        for kind in ("closed_book", "rag_sequence")
    )

    assert closed.model.question_encoder is None
    assert (closed.retrieval.n_docs, closed.retrieval.index) == (5, "")
    assert closed.optim == rag.optim
    assert rag.model.question_encoder == str(tmp_path / "models" / "encoder")
    assert (rag.retrieval.n_docs, rag.retrieval.index) == (3, "two")


def test_trials_of_another_schedule_or_optimiser_say_nothing_of_cycles_and_epsilon(
    tmp_path: Path,
):
    text = VALID.replace(
        "    learning_rate: 1e-4\n",
        "    learning_rate: 1e-4\n    n_cycles: 3\n    adam_epsilon: 1e-6\n",
    ).replace(
        "space:\n",
        "space:\n  optim.schedule: {choice: [linear, cosine_with_restarts]}\n"
        "  optim.optimizer: {choice: [adamw, adafactor]}\n",
    )
    spec = load_spec(write_space(tmp_path, text))

    restarting = spec.trial_with({"optim.schedule": "cosine_with_restarts"}).optim
    factored = spec.trial_with({"optim.optimizer": "adafactor"}).optim

    assert (restarting.n_cycles, restarting.adam_epsilon) == (3, 1e-6)
    assert (factored.n_cycles, factored.adam_epsilon) == (None, None)


@pytest.mark.parametrize("text", [CLOSED_BOOK, MIXED], ids=["alone", "mixed"])
def test_the_resolved_file_of_a_search_without_retrieval_loads_as_the_same(
    text: str, tmp_path: Path
):
    spec = load_spec(write_space(tmp_path, text))
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml(), encoding="utf-8")

    assert load_spec(again).digest == spec.digest


def test_a_question_encoder_that_only_some_trials_need_is_asked_for(tmp_path: Path):
    text = MIXED.replace("    question_encoder: models/encoder\n", "    type: closed_book\n")

    what = "model.type: holds 'rag_sequence', but trial.model.question_encoder is missing; it"

    with pytest.raises(BadInputError, match=rf":26: space\.{what}") as caught:
        load_spec(write_space(tmp_path, text))

    assert len(caught.value.mistakes) == 1
