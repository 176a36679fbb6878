"""What the generator reads: one string a passage, ending with the question.

The format is Transformers' own (`title / text // question` after a prefix, if any), so that an
exported model reads the same in stock code. Two things differ from `postprocess_docs` of
`RagRetriever`: the question is the user's text, not a lower-cased decode of its tokens, and a
context that is too long loses the last tokens of its passage, never the question.

A context has two halves, divided before the space that the separator of passage and question
begins with. A tokenizer that never joins what a space divides reads each half as if it stood
alone: the tokens of a passage are then the same before every question, and can be kept.

Axes: B questions, K passages per question, S context tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ragsearch.errors import RagsearchError
from ragsearch.index.store import Passage
from ragsearch.spec import TrialSection

_ANY_QUESTION = "What?"
_Ids = Int64[np.ndarray, " _"]


class InseparableError(RagsearchError):
    """The tokens of a passage depend on the question that follows it."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of a batch, passage by passage within question by question."""

    input_ids: Int64[Tensor, "BK S"]
    attention_mask: Int64[Tensor, "BK S"]

    def rows(self, rows: Int64[Tensor, " R"]) -> "Contexts":
        """Return some of the contexts, no wider than the longest of them."""
        mask = self.attention_mask[rows]
        width = int(mask.sum(dim=-1).max())
        return Contexts(self.input_ids[rows, :width], mask[:, :width])


class _Halves(NamedTuple):
    head: str
    """Prefix, title and text of the passage."""
    tail: str
    """The separator and the question."""

    @property
    def text(self) -> str:
        return self.head + self.tail


class _Context(NamedTuple):
    text: str
    ids: list[int]


@dataclass(frozen=True)
class ContextBuilder:
    """Joins questions and passages, and tokenises them for the generator."""

    tokenizer: PreTrainedTokenizerBase
    """A fast one: its offsets tell where a passage ends."""
    max_length: int
    """Tokens a context may have."""
    prefix: str = ""
    """Stands before each context."""
    title_separator: str = " / "
    """Stands between title and text of a passage."""
    doc_separator: str = " // "
    """Stands between passage and question; empty where no passage is ever read."""

    @classmethod
    def of_trial(
        cls, tokenizer: PreTrainedTokenizerBase, trial: TrialSection
    ) -> "ContextBuilder":
        """Return what builds the contexts of a trial that reads passages."""
        model = trial.model
        return cls(
            tokenizer,
            trial.train.max_context_length,
            model.prefix,
            model.title_separator,
            model.doc_separator,
        )

    def build(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage | None]]
    ) -> Contexts:
        """Return one context for each passage; no passage gives the question alone."""
        parts = _pairs(questions, passages)
        whole = self._ids([self._halves(*part).text for part in parts])
        return self._padded(
            ids if len(ids) <= self.max_length else self._shorten(*part).ids
            for part, ids in zip(parts, whole, strict=True)
        )

    def join(
        self,
        questions: Sequence[str],
        heads: Sequence[Sequence[Integer[np.ndarray, " _"] | None]],
    ) -> Contexts:
        """Return the contexts that `build` would, without a text of a passage.

        Args:
            questions: What is asked.
            heads: Of each question's passages what `heads` returned; None for no passage.
        """
        tails = map(np.array, self._ids([self._tail(question) for question in questions]))
        return self._padded(
            self._joined(question, tail, self._empty if head is None else head)
            for question, tail, found in zip(questions, tails, heads, strict=True)
            for head in found
        )

    def heads(self, passages: Sequence[Passage]) -> list[list[int]]:
        """Return passages as the tokens that their contexts begin with, whatever is asked.

        Raises:
            InseparableError: If the tokens depend on the question.
        """
        if not self._divides:
            raise InseparableError(
                f"doc_separator {self.doc_separator!r} does not begin with a space before "
                "other signs"
            )
        before, tail = self._n_before, self._ids([self._tail(_ANY_QUESTION)])[0]
        after = tail[before:]
        whole = self._ids([self._halves(one, _ANY_QUESTION).text for one in passages])
        for passage, ids in zip(passages, whole, strict=True):
            if len(ids) < len(tail) or ids[-len(after) :] != after:
                raise InseparableError(
                    "the generator's tokenizer reads a question differently after passage "
                    f"{passage.id!r}"
                )
        return [ids[before : len(ids) - len(after)] for ids in whole]

    def texts(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage | None]]
    ) -> list[str]:
        """Return what `build` makes tokens of, without what it cuts from passages."""
        parts = _pairs(questions, passages)
        texts = [self._halves(*part).text for part in parts]
        return [
            text if len(ids) <= self.max_length else self._shorten(*part).text
            for part, text, ids in zip(parts, texts, self._ids(texts), strict=True)
        ]

    def _shorten(self, passage: Passage | None, question: str) -> _Context:
        """Cut tokens from the end of the passage until the question has room.

        Returns:
            A context of `max_length` tokens; a question that fills it by itself is cut.
        """
        halves = self._halves(passage, question)
        ids, offsets, seam = self._divided(halves)
        kept = seam - (len(ids) - self.max_length)
        if kept - self._n_before <= len(self._empty):
            alone = self._halves(None, question).text
            return _Context(alone, self._truncated(alone))
        head = halves.text[: offsets[kept][0]]
        if self._divides:  # the space before a token belongs to it
            head = head.removesuffix(" ")
        return _Context(head + halves.tail, ids[:kept] + ids[seam:])

    def _joined(
        self, question: str, tail: _Ids, head: Integer[np.ndarray, " _"]
    ) -> _Ids | list[int]:
        room = self.max_length - len(tail)
        if len(head) > room and room <= len(self._empty):
            return self._truncated(self._halves(None, question).text)
        before = self._n_before
        return np.concatenate([tail[:before], head[:room], tail[before:]])

    def _divided(self, halves: _Halves) -> tuple[list[int], list[tuple[int, int]], int]:
        """Return tokens, their places in the text, and how many come before the tail's."""
        tokens = self.tokenizer(halves.text, return_offsets_mapping=True, verbose=False)
        ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
        end = len(ids) - self._n_special + self._n_before
        own = range(self._n_before, end)
        seam = next((n for n in own if offsets[n][1] > len(halves.head)), end)
        return ids, offsets, seam

    @cached_property
    def _empty(self) -> _Ids:
        """The tokens that stand before a question without a passage: those of the prefix."""
        ids, _, seam = self._divided(self._halves(None, _ANY_QUESTION))
        return np.array(ids[self._n_before : seam], dtype=np.int64)

    @cached_property
    def _special(self) -> list[int]:
        """Which tokens of a text are special: 1, or 0 for its own."""
        mask: list[int] = self.tokenizer("a", return_special_tokens_mask=True)[
            "special_tokens_mask"
        ]
        return mask

    @property
    def _n_special(self) -> int:
        return sum(self._special)

    @property
    def _n_before(self) -> int:
        """Special tokens before a text."""
        return self._special.index(0)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        # not verbose: a text longer than the model reads is cut in the next step
        tokens = self.tokenizer(texts, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = tokens["input_ids"]
        return ids

    def _truncated(self, text: str) -> list[int]:
        tokens = self.tokenizer(text, truncation=True, max_length=self.max_length)
        ids: list[int] = tokens["input_ids"]
        return ids

    def _padded(self, contexts: Iterable[_Ids | list[int]]) -> Contexts:
        rows = list(contexts)
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        input_ids[mask] = np.concatenate(rows)
        return Contexts(torch.from_numpy(input_ids), torch.from_numpy(mask).long())

    @property
    def _divides(self) -> bool:
        """The separator has a space that divides passages from whatever is asked."""
        return self.doc_separator.startswith(" ") and not self.doc_separator.isspace()

    def _halves(self, passage: Passage | None, question: str) -> _Halves:
        start = f"{self.prefix}{self._passage_text(passage)}"
        if not self._divides:
            head = _single_spaced(start)
            whole = _single_spaced(f"{start}{self.doc_separator}{question}")
            return _Halves(head, whole[len(head) :])
        n_spaces = len(self.doc_separator) - len(self.doc_separator.lstrip(" "))
        # of the spaces that end a passage and begin a separator, the last is the tail's
        head = _single_spaced(start + n_spaces * " ").removesuffix(" ")
        return _Halves(head, self._tail(question))

    def _passage_text(self, passage: Passage | None) -> str:
        if passage is None:
            return ""
        title = passage.title.removeprefix('"').removesuffix('"')
        return f"{title}{self.title_separator}{passage.text}"

    def _tail(self, question: str) -> str:
        return _single_spaced(f" {self.doc_separator.lstrip(' ')}{question}")


def _pairs(
    questions: Sequence[str], passages: Sequence[Sequence[Passage | None]]
) -> list[tuple[Passage | None, str]]:
    return [
        (passage, question)
        for question, found in zip(questions, passages, strict=True)
        for passage in found
    ]


def _single_spaced(text: str) -> str:
    return text.replace("  ", " ")  # as Transformers has it
