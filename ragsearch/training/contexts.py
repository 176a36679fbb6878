"""What the generator reads: one string a passage, ending with the question.

The format is Transformers' own (`title / text // question` after a prefix, if any), so that an
exported model reads the same in stock code. Two things differ from `postprocess_docs` of
`RagRetriever`: the question is the user's text, not a lower-cased decode of its tokens, and a
context that is too long loses the end of its passage, never the question.

Axes: B questions, K passages per question, S context tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ragsearch.index.store import Passage


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of a batch, passage by passage within question by question."""

    texts: list[str]
    input_ids: Int64[Tensor, "BK S"]
    attention_mask: Int64[Tensor, "BK S"]

    def rows(self, rows: Int64[Tensor, " R"]) -> "Contexts":
        """Return some of the contexts, no wider than the longest of them."""
        mask = self.attention_mask[rows]
        width = int(mask.sum(dim=-1).max())
        texts = [self.texts[row] for row in rows.tolist()]
        return Contexts(texts, self.input_ids[rows, :width], mask[:, :width])


class _Context(NamedTuple):
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class ContextBuilder:
    """Joins questions and passages, and tokenises them for the generator."""

    tokenizer: PreTrainedTokenizerBase
    """A fast one: passages are cut by its offsets."""
    max_length: int
    """Tokens a context may have."""
    prefix: str = ""
    """Stands before each context."""
    title_separator: str = " / "
    """Stands between title and text of a passage."""
    doc_separator: str = " // "
    """Stands between passage and question; empty where no passage is ever read."""

    def build(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage | None]]
    ) -> Contexts:
        """Return one context for each passage; no passage gives the question alone."""
        parts = [
            (self._head(passage), question)
            for question, found in zip(questions, passages, strict=True)
            for passage in found
        ]
        texts = [self._join(*part) for part in parts]
        contexts = [
            _Context(text, ids) if len(ids) <= self.max_length else self._shorten(*part)
            for part, text, ids in zip(parts, texts, self._ids(texts), strict=True)
        ]
        rows = [torch.tensor(context.ids) for context in contexts]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        pad = self.tokenizer.pad_token_id
        input_ids = pad_sequence(rows, batch_first=True, padding_value=pad)
        return Contexts([context.text for context in contexts], input_ids, mask)

    def _shorten(self, head: str, question: str) -> _Context:
        """Cut the passage, token by token from its end, until the question has room.

        Returns:
            A context of at most `max_length` tokens; a question that fills it by itself is cut.
        """
        ids = self._ids([self._join(head, question)])[0]
        while head and len(ids) > self.max_length:
            head = self._without_end(head, len(ids) - self.max_length)
            ids = self._ids([self._join(head, question)])[0]
        if len(ids) > self.max_length:
            text = self._join(head, question)
            ids = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        return _Context(self._join(head, question), ids)

    def _without_end(self, head: str, n_tokens: int) -> str:
        tokens = self.tokenizer(
            head, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts = [start for start, _ in tokens["offset_mapping"]]
        # a normaliser may give a token no width: at least one character goes, or none would
        end = min(starts[-n_tokens], len(head) - 1) if n_tokens < len(starts) else 0
        return head[:end].rstrip()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        # not verbose: a text longer than the model reads is cut in the next step
        tokens = self.tokenizer(texts, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = tokens["input_ids"]
        return ids

    def _head(self, passage: Passage | None) -> str:
        if passage is None:
            return ""
        title = passage.title.removeprefix('"').removesuffix('"')
        return f"{title}{self.title_separator}{passage.text}"

    def _join(self, head: str, question: str) -> str:
        text = f"{self.prefix}{head}{self.doc_separator}{question}"
        return text.replace("  ", " ")  # as Transformers has it
