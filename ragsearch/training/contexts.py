"""What the generator reads: one string a passage, ending with the question.

The format is Transformers' own (`title / text // question`), so that an exported model reads
the same in stock code. Two things differ from `RagRetriever.postprocess_docs`: the question is
the user's text, not a lower-cased decode of its tokens, and a context that is too long loses
the end of its passage, never the question.

Axes: B questions, K passages per question, S context tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ragsearch.index.store import Passage

TITLE_SEPARATOR = " / "
DOC_SEPARATOR = " // "


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of a batch, passage by passage within question by question."""

    texts: list[str]
    input_ids: Int64[Tensor, "BK S"]
    attention_mask: Int64[Tensor, "BK S"]


@dataclass(frozen=True, slots=True)
class ContextBuilder:
    """Joins questions and passages, and tokenises them for the generator."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Tokens a context may have."""

    def build(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage | None]]
    ) -> Contexts:
        """Write one context for each passage; no passage gives the question alone."""
        texts = [
            self._fit(_head(passage), question)
            for question, found in zip(questions, passages, strict=True)
            for passage in found
        ]
        tokens = self.tokenizer(
            texts,
            padding=True,
            truncation=True,  # only a question that fills everything by itself is cut here
            max_length=self.max_length,
            return_tensors="pt",
        )
        return Contexts(texts, tokens["input_ids"], tokens["attention_mask"])

    def _fit(self, head: str, question: str) -> str:
        text = _join(head, question)
        surplus = self._n_tokens(text) - self.max_length
        while surplus > 0 and head:
            ends = self.tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)
            keep = max(len(ends["input_ids"]) - surplus, 0)
            head = head[: ends["offset_mapping"][keep][0]].rstrip() if keep else ""
            text = _join(head, question)
            surplus = self._n_tokens(text) - self.max_length
        return text

    def _n_tokens(self, text: str) -> int:
        # A token holds at least one byte, and special tokens are few: short texts surely fit.
        if len(text.encode()) + 4 <= self.max_length:
            return 0
        return len(self.tokenizer(text)["input_ids"])


def _head(passage: Passage | None) -> str:
    if passage is None:
        return ""
    title = passage.title.removeprefix('"').removesuffix('"')
    return f"{title}{TITLE_SEPARATOR}{passage.text}"


def _join(head: str, question: str) -> str:
    return f"{head}{DOC_SEPARATOR}{question}".replace("  ", " ")
