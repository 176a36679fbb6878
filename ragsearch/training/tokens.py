"""Passages as the tokens a generator reads, made once and mapped by every trial of a node.

In: the passages of an index and a `ContextBuilder`. Out: a folder named by both, `ids` one
passage after another and `offsets` where each begins, and from it the tokens by number. Knows
no texts once it is written; a trial that finds no such folder reads texts instead.

Axes: B questions, K passages per question.
"""

import hashlib
import json
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer

from ragsearch.index.build import Report, written_to
from ragsearch.index.open import PassageIndex
from ragsearch.index.place import building, locked
from ragsearch.index.store import Passage, PassageStore, windows
from ragsearch.retrieval.retriever import Retriever
from ragsearch.training.contexts import ContextBuilder, InseparableError

_FORMAT = 1
_OFFSETS = "offsets.int64"
_TYPES: dict[str, type[np.uint16 | np.int32]] = {
    "ids.uint16": np.uint16,
    "ids.int32": np.int32,
}
"""Of token ids, by the file that holds them: two bytes where they are enough."""
_PASSAGES_A_WINDOW = 1024


class PassageTokens:
    """The tokens of passages by number, from an open folder."""

    def __init__(
        self, ids: Integer[np.ndarray, " all"], offsets: Int64[np.ndarray, " ends"]
    ) -> None:
        # plain arrays: a slice of a memory map costs ten times as much
        self._ids, self._offsets = ids.view(np.ndarray), offsets.view(np.ndarray)

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._offsets) - 1

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return self._ids.nbytes + self._offsets.nbytes

    def take(
        self, numbers: Int64[np.ndarray, "B K"]
    ) -> list[list[Integer[np.ndarray, " _"] | None]]:
        """Return passages' tokens as `ContextBuilder.join` takes them; None for -1."""
        return [[self._one(number) for number in row] for row in numbers.tolist()]

    def _one(self, number: int) -> Integer[np.ndarray, " _"] | None:
        if number < 0:
            return None
        return self._ids[self._offsets[number] : self._offsets[number + 1]]


def open_tokens(
    folder: Path, retriever: Retriever, builder: ContextBuilder
) -> PassageTokens | None:
    """Return the tokens of a retriever's passages, mapped; None where this node has none.

    Args:
        folder: Where `write_tokens` put them.
        retriever: Whoever finds the passages.
        builder: How they are read.
    """
    place = _place(folder, retriever.fingerprint, builder)
    return _mapped(place, _file_of_ids(builder), retriever.n_passages)


def write_tokens(
    folder: Path,
    index: PassageIndex,
    builder: ContextBuilder,
    questions: Iterable[str],
    report: Report | None = None,
) -> PassageTokens:
    """Tokenise the passages of an index as contexts begin with them, unless that is done.

    Of two processes that do it at the same place one waits for the other; what is interrupted
    leaves nothing.

    Args:
        folder: For such tokens of any index and any tokenizer.
        index: What holds the passages.
        builder: How a trial reads them.
        questions: At least one. After one passage in a thousand the tokens of one of them are
            compared with those of the whole text.
        report: Told (passages done, passages in all) on the way.

    Returns:
        The tokens, mapped.

    Raises:
        BadInputError: If the folder cannot be written.
        InseparableError: If a passage's tokens depend on the question; nothing is written.
    """
    place, n_passages = _place(folder, index.manifest.fingerprint, builder), len(index.store)
    with written_to(place), locked(place):
        tokens = _mapped(place, _file_of_ids(builder), n_passages)
        if tokens is None:
            with building(place) as made:
                _write(made, index.store, builder, questions, report)
            tokens = _mapped(place, _file_of_ids(builder), n_passages)
    assert tokens is not None, "it was just written"
    return tokens


def _write(
    folder: Path,
    store: PassageStore,
    builder: ContextBuilder,
    questions: Iterable[str],
    report: Report | None,
) -> None:
    name, asked, end, done = _file_of_ids(builder), cycle(questions), 0, 0
    with (folder / name).open("wb") as ids, (folder / _OFFSETS).open("wb") as offsets:
        offsets.write(np.int64(0).tobytes())
        for passages in windows(store, _PASSAGES_A_WINDOW):
            heads = [np.array(head, _TYPES[name]) for head in builder.heads(passages)]
            _check(builder, next(asked), passages[0], heads[0])
            ends = end + np.cumsum([len(head) for head in heads], dtype=np.int64)
            ids.write(np.concatenate(heads).tobytes())
            offsets.write(ends.tobytes())
            end, done = int(ends[-1]), done + len(passages)
            if report:
                report(done, len(store))


def _check(
    builder: ContextBuilder, question: str, passage: Passage, head: Integer[np.ndarray, " _"]
) -> None:
    """Compare a context joined of tokens with the tokens of its text.

    Raises:
        InseparableError: If they differ.
    """
    whole, joined = builder.build([question], [[passage]]), builder.join([question], [[head]])
    if not torch.equal(whole.input_ids, joined.input_ids):
        raise InseparableError(
            f"the generator's tokenizer reads {question!r} differently after passage "
            f"{passage.id!r}"
        )


def _place(folder: Path, fingerprint: str, builder: ContextBuilder) -> Path:
    """Return where tokens lie: by the index, the tokenizer, and what a context is made of."""
    tokenizer = json.loads(builder.tokenizer.backend_tokenizer.to_str())
    made_of = {
        "format": _FORMAT,
        # of these two the last call decides, and each call sets them
        "tokenizer": tokenizer | {"truncation": None, "padding": None},
        "texts": [builder.prefix, builder.title_separator, builder.doc_separator],
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return folder / f"{fingerprint[:16]}-{digest[:16]}"


def _file_of_ids(builder: ContextBuilder) -> str:
    highest = max(builder.tokenizer.get_vocab().values())
    return next(name for name, kind in _TYPES.items() if highest <= np.iinfo(kind).max)


def _mapped(place: Path, file_of_ids: str, n_passages: int) -> PassageTokens | None:
    """Return tokens that lie at a place; None if there are none, or they are damaged."""
    try:
        ids = _array(place / file_of_ids, _TYPES[file_of_ids])
        offsets = _array(place / _OFFSETS, np.int64)
    except OSError:
        return None
    if len(offsets) != n_passages + 1 or offsets[-1] != len(ids):
        return None
    return PassageTokens(ids, offsets)


def _array(path: Path, kind: type[np.integer[Any]]) -> np.ndarray:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, kind)
    return np.memmap(path, kind, mode="r")
