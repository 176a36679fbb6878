"""Passages tokenised once: kept whole or not at all, and read as their texts would be."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from ragsearch.data.questions import Question
from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index
from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.spec import IndexSection, ObjectiveSection, TrialSection
from ragsearch.training.contexts import ContextBuilder, InseparableError
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.tokens import open_tokens, write_tokens
from tests.tiny import Tiny
from tests.training.conftest import MakeTrial
from tests.training.tokenizers import across_spaces_tokenizer

QUESTIONS = ["what?"]


@pytest.fixture(scope="module")
def index(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    return build_index(settings, tmp_path_factory.mktemp("indexes") / "tiny")


@pytest.fixture(scope="module")
def builder(tiny: Tiny) -> ContextBuilder:
    return ContextBuilder(AutoTokenizer.from_pretrained(tiny.bart), max_length=64)


@pytest.fixture
def opened(index: PassageIndex) -> Callable[..., object]:
    """Return a function that opens what was written for a builder."""

    def open_(folder: Path, builder: ContextBuilder) -> object:
        return open_tokens(folder, InProcessRetriever(index), builder)

    return open_


def test_kept_tokens_are_those_of_the_passages(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    told = []

    tokens = write_tokens(tmp_path, index, builder, QUESTIONS, lambda *n: told.append(n))

    found = np.array([[3, 39], [-1, 0]])
    passages = [index.store.take([3, 39]), [None, index.store.take([0])[0]]]
    questions = ["how long?", "which city?"]
    joined = builder.join(questions, tokens.take(found))
    assert torch.equal(joined.input_ids, builder.build(questions, passages).input_ids)
    assert len(tokens) == 40
    assert told == [(40, 40)]


def test_two_bytes_a_token_are_enough_for_a_small_vocabulary(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(builder.tokenizer.name_or_path)
    tokens = []
    for n_tokens in (2**16, 2**16 + 1):
        tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), n_tokens)])
        read = replace(builder, tokenizer=tokenizer)
        tokens.append(write_tokens(tmp_path, index, read, QUESTIONS))

    small, large = (one.take(np.array([[5]]))[0][0] for one in tokens)
    assert (small.itemsize, large.itemsize) == (2, 4)
    assert small.tolist() == large.tolist()


def test_what_is_there_is_not_written_again(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    write_tokens(tmp_path, index, builder, QUESTIONS)
    told = []

    write_tokens(tmp_path, index, builder, QUESTIONS, lambda *n: told.append(n))

    assert told == []
    assert [path.name.count("-") for path in tmp_path.iterdir()] == [1]  # no lock, no leftover


def test_another_reading_of_passages_has_tokens_of_its_own(
    index: PassageIndex,
    builder: ContextBuilder,
    opened: Callable[..., object],
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    write_tokens(tmp_path, index, builder, QUESTIONS)
    builder.build(["long " * 99], [[None]])  # sets truncation in the tokenizer

    others = [
        replace(builder, tokenizer=AutoTokenizer.from_pretrained(tiny.t5)),
        replace(builder, prefix="answer: "),
        replace(builder, title_separator=": "),
        replace(builder, doc_separator=" | "),
    ]
    assert [opened(tmp_path, one) for one in others] == [None] * 4
    assert opened(tmp_path, replace(builder, max_length=32)) is not None
    other = InProcessRetriever(
        replace(index, manifest=replace(index.manifest, fingerprint="f"))
    )
    assert open_tokens(tmp_path, other, builder) is None


@pytest.mark.parametrize("file", ["ids.uint16", "offsets.int64"])
def test_damaged_tokens_are_not_read_and_written_again(
    file: str,
    index: PassageIndex,
    builder: ContextBuilder,
    opened: Callable[..., object],
    tmp_path: Path,
) -> None:
    write_tokens(tmp_path, index, builder, QUESTIONS)
    (path,) = tmp_path.glob(f"*/{file}")
    path.write_bytes(path.read_bytes()[:-8])

    found = opened(tmp_path, builder)
    write_tokens(tmp_path, index, builder, QUESTIONS)

    assert found is None
    assert opened(tmp_path, builder) is not None


def test_of_two_writers_one_waits_for_the_other(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    waiting = threading.Thread(
        target=lambda: write_tokens(tmp_path, index, builder, QUESTIONS, report)
    )

    def report(*done: int) -> None:
        told.append(done)
        if not waiting.ident:
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()

    write_tokens(tmp_path, index, builder, QUESTIONS, report)
    waiting.join()

    assert told == [(40, 40)]


def test_interrupted_writing_leaves_nothing(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path, index, builder, QUESTIONS, stop)

    assert list(tmp_path.iterdir()) == []


def test_tokens_that_depend_on_the_question_are_not_kept(
    index: PassageIndex, tmp_path: Path
) -> None:
    builder = ContextBuilder(across_spaces_tokenizer(), 64)

    with pytest.raises(InseparableError, match="a question differently after passage 'c0-"):
        write_tokens(tmp_path, index, builder, QUESTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_question_whose_context_is_not_that_of_its_parts_keeps_none(
    index: PassageIndex, tiny: Tiny, tmp_path: Path
) -> None:
    class Changing(ContextBuilder):
        """Reads a question with a mark otherwise when a passage stands before it."""

        def _ids(self, texts: list[str]) -> list[list[int]]:
            return super()._ids([
                text.replace("!", "") if text.startswith(" //") else text for text in texts
            ])

    builder = Changing(AutoTokenizer.from_pretrained(tiny.bart), 64)

    with pytest.raises(InseparableError, match="reads 'what!' differently after passage 'c0-"):
        write_tokens(tmp_path, index, builder, ["what!"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(
    index: PassageIndex, builder: ContextBuilder, tmp_path: Path
) -> None:
    (tmp_path / "tokens").touch()

    with pytest.raises(BadInputError, match="cannot be written"):
        write_tokens(tmp_path / "tokens", index, builder, QUESTIONS)


class Untold(InProcessRetriever):
    """Counts the passages whose texts it was asked for."""

    n_texts = 0

    def passages(self, ids: np.ndarray) -> list:
        """Return passages by id."""
        self.n_texts += len(ids)
        return super().passages(ids)


@pytest.fixture
def questions(
    train: list[Question], val: list[Question]
) -> tuple[list[Question], list[Question]]:
    return train[:8], val[:4]


def fitted(
    trial: TrialSection,
    questions: tuple[list[Question], list[Question]],
    retriever: Untold,
    tokens: Path | None,
) -> list[dict[str, float]]:
    reports: list[EpochReport] = []
    objective = ObjectiveSection(metric="val/nll", goal="min")
    fit_trial(
        trial, questions, retriever, reports.append, objective=objective, seed=3, tokens=tokens
    )
    return [
        {name: one.metrics[name] for name in one.metrics if name.startswith(("train/", "val/"))}
        for one in reports
    ]


@pytest.mark.parametrize(
    ("generator", "settings"),
    [
        ("t5", {"train__max_context_length": 40}),
        ("bart", {"retrieval__prefetch": 1, "model__type": "rag_token"}),
    ],
)
def test_a_trial_has_the_same_figures_with_and_without_kept_tokens(
    generator: str,
    settings: dict[str, object],
    make_trial: MakeTrial,
    index: PassageIndex,
    questions: tuple[list[Question], list[Question]],
    tmp_path: Path,
) -> None:
    trial = make_trial(
        generator,
        **{"train__max_epochs": 2, "optim__effective_batch": 4, "regularisation__dropout": 0.1}
        | settings,
    )
    tokenizer = AutoTokenizer.from_pretrained(trial.model.generator)
    write_tokens(tmp_path, index, ContextBuilder.of_trial(tokenizer, trial), QUESTIONS)
    texts, tokens = Untold(index), Untold(index)

    one = fitted(trial, questions, texts, None)
    other = fitted(trial, questions, tokens, tmp_path)

    assert one == other
    # before training and for recall of two epochs; none to train on
    assert tokens.n_texts == 3 * 4 * 10
    assert texts.n_texts == tokens.n_texts + 2 * 8 * trial.retrieval.n_docs
