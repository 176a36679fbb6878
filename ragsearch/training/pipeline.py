"""A question's way through the model: vector, hits, contexts, logits.

Training, validation, `eval` and `ask` all go this way, so that they agree. A document score has
the value the retriever computed and the gradient of an inner product with the live question
vector: that is the path by which the question encoder learns.

Axes: B questions, K passages per question, S context tokens, T answer tokens, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.store import Passage
from ragsearch.retrieval.retriever import Retriever
from ragsearch.training.contexts import ContextBuilder, Contexts
from ragsearch.training.encoded import encoder_states
from ragsearch.training.loss import DivergedError
from ragsearch.training.model import RagModel, TrialModel, shift_right
from ragsearch.training.tokens import PassageTokens

_N_KEPT = 65_536  # vectors of questions: 200 MB at 768 dimensions


class Found(NamedTuple):
    """What the retriever says of a batch of questions."""

    hits: Hits
    passages: list[list[Passage | None]]
    """Empty where only their ids were asked for."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the retriever found for a batch of questions."""

    ids: Int64[np.ndarray, "B K"]
    """Numbers of the passages, best first; -1 where there are fewer than asked for."""
    passages: list[list[Passage | None]]
    """The same passages, None for -1; empty where only ids were asked for."""
    doc_scores: Float[Tensor, "B K"]
    """Inner products of question and passage; -inf where there is no passage."""

    def first(self, n_docs: int) -> "Retrieved":
        """Return the best passages of each question only."""
        passages = [row[:n_docs] for row in self.passages]
        return Retrieved(self.ids[:, :n_docs], passages, self.doc_scores[:, :n_docs])

    def at(self, temperature: float) -> "Retrieved":
        """Return the same passages, their scores divided by a temperature."""
        return Retrieved(self.ids, self.passages, self.doc_scores / temperature)


@dataclass(frozen=True, slots=True)
class Labels:
    """Answers as the tokens the generator should write."""

    ids: Int64[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    def of(self, questions: Int64[Tensor, " R"]) -> "Labels":
        """Return the answers to some questions, no wider than the longest of them."""
        mask = self.mask[questions]
        width = int(mask.sum(dim=-1).max())
        return Labels(self.ids[questions, :width], mask[:, :width])


@dataclass
class Pipeline:
    """A model joined to a retriever."""

    model: TrialModel
    retriever: Retriever | None
    """None lets the generator answer from the question alone; only a RAG model has one."""
    tokens: PassageTokens | None = None
    """The retriever's passages as the generator reads them, where somebody tokenised them."""
    waits_s: list[float] = field(default_factory=list, init=False)
    """Seconds each call waited for hits and passages, until whoever reads them clears them."""
    contexts: ContextBuilder = field(init=False)
    _frozen_vectors: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.contexts = self.model.context_builder()

    def retrieve(
        self,
        questions: Sequence[str],
        n_docs: int,
        ahead: Future[Found] | None = None,
        *,
        texts: bool = True,
    ) -> Retrieved:
        """Encode the questions and find their best passages.

        Args:
            questions: What to find passages for.
            n_docs: Passages a question.
            ahead: What `request` gave for these questions: its passages are waited for and
                scored by the question encoder as it is now.
            texts: Whether the passages' texts are needed; `read` does without where their
                tokens are there.

        Returns:
            `n_docs` passages a question, fewer only as `None`.

        Raises:
            DivergedError: If the question encoder gives vectors that are no numbers.
        """
        if self.retriever is None:
            scores = torch.zeros(len(questions), 1, device=self.model.network.device)
            nothing = np.full((len(questions), 1), -1, dtype=np.int64)
            return Retrieved(nothing, [[None] for _ in questions], scores)
        vectors = self._encode(questions)
        queries = _queries(vectors)
        started = time.perf_counter()
        if ahead is None:
            found = self._find(self.retriever, queries, n_docs, texts=texts)
        else:
            found = ahead.result()
        self.waits_s.append(time.perf_counter() - started)
        is_stale = ahead is not None and not self.is_frozen
        scores = document_scores(vectors, found.hits, is_stale=is_stale)
        return Retrieved(found.hits.ids, found.passages, scores)

    def request(self, questions: Sequence[str], n_docs: int) -> Future[Found] | None:
        """Have passages found by a thread, for questions that `retrieve` is given later.

        Their texts are fetched only where `read` needs them.

        The encoder reads them without dropout and without gradient, and draws no random number.

        Returns:
            What to give `retrieve`; None where nobody retrieves.

        Raises:
            DivergedError: If the question encoder gives vectors that are no numbers.
        """
        if self.retriever is None:
            return None
        with torch.no_grad(), _evaluating(self._rag.question_encoder):
            queries = _queries(self._encode(questions))
        return self._thread.submit(self._find, self.retriever, queries, n_docs, texts=False)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="retrieval")

    def close(self) -> None:
        """Wait for a search that nobody waits for any more; may be called twice."""
        if "_thread" in self.__dict__:
            self._thread.shutdown(cancel_futures=True)

    @property
    def is_frozen(self) -> bool:
        """The question encoder gives a question the same vector whenever it is asked."""
        is_trained = not self.model.trial.model.freeze_question_encoder
        return not (is_trained or self._rag.question_encoder.training)

    @property
    def _rag(self) -> RagModel:
        assert isinstance(self.model, RagModel), "who retrieves has a question encoder"
        return self.model

    def _encode(self, questions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Return the questions' vectors; a frozen encoder reads each question once, and alone.

        Its batch would move the last bits of a vector. Alone they are the same in every trial,
        so what one trial found for a question is what the next one would find.
        """
        if not questions and self.retriever is not None:
            return torch.zeros(0, self.retriever.dimension, device=self.model.network.device)
        if not self.is_frozen:
            return self._rag.encode_questions(questions)
        vectors = [self._frozen_vector(question) for question in questions]
        return torch.stack(vectors).to(self.model.network.device)

    def _frozen_vector(self, question: str) -> Float[Tensor, " D"]:
        vector = self._frozen_vectors.get(question)
        if vector is None:
            with torch.no_grad():
                vector = self._rag.encode_questions([question])[0].cpu()
            if len(self._frozen_vectors) < _N_KEPT:
                self._frozen_vectors[question] = vector
        return vector

    def _find(
        self,
        retriever: Retriever,
        queries: Float[np.ndarray, "B D"],
        n_docs: int,
        *,
        texts: bool,
    ) -> Found:
        asked = self.model.trial.retrieval
        hits = retriever.retrieve(queries, n_docs, Knobs(asked.ef_search, asked.nprobe))
        if not texts and self.tokens is not None:
            return Found(hits, [])
        known = hits.ids >= 0
        found = iter(retriever.passages(hits.ids[known]))
        return Found(hits, [[next(found) if there else None for there in row] for row in known])

    def read(self, questions: Sequence[str], retrieved: Retrieved) -> Contexts:
        """Return what the generator reads, on its device."""
        if self.tokens is None:
            contexts = self.contexts.build(questions, retrieved.passages)
        else:
            contexts = self.contexts.join(questions, self.tokens.take(retrieved.ids))
        device = self.model.network.device
        return Contexts(contexts.input_ids.to(device), contexts.attention_mask.to(device))

    def labels(self, answers: Sequence[str]) -> Labels:
        """Return answers as tokens, end token included."""
        if not answers:
            nothing = torch.zeros(0, 1, dtype=torch.int64, device=self.model.network.device)
            return Labels(nothing, nothing.bool())
        tokens = self.model.generator_tokenizer(
            list(answers),
            padding=True,
            truncation=True,
            max_length=self.model.trial.train.max_target_length,
            return_tensors="pt",
        ).to(self.model.network.device)
        return Labels(tokens["input_ids"], tokens["attention_mask"].bool())

    def logits(
        self, contexts: Contexts, doc_scores: Float[Tensor, "B K"], labels: Labels
    ) -> Float[Tensor, "BK T V"]:
        """Return the generator's logits on every context, teacher-forced on the labels."""
        n_docs = doc_scores.shape[1]
        generator = self.model.in_step(self.model.generator)
        written = shift_right(self.model, labels.ids).repeat_interleave(n_docs, dim=0)
        logits: Tensor = generator(
            encoder_outputs=BaseModelOutput(encoder_states(self.model, contexts)),
            attention_mask=contexts.attention_mask,
            # no view: of one, torch compiles for the shape of what it is a view of, too
            decoder_input_ids=written.clone(),
            use_cache=False,
        ).logits
        return logits


def _queries(vectors: Float[Tensor, "B D"]) -> Float[np.ndarray, "B D"]:
    queries = vectors.detach().float().cpu().numpy()
    if not np.isfinite(queries).all():
        raise DivergedError(
            "the question encoder gives vectors that are not finite; try a lower learning rate"
        )
    return queries


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, whichever of its modules have it on."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def document_scores(
    vectors: Float[Tensor, "B D"], hits: Hits, *, is_stale: bool = False
) -> Float[Tensor, "B K"]:
    """Return the hits' scores, -inf where there is no passage, with gradients to the questions.

    The value is the retriever's, bit for bit: a pool sends vectors in half precision, which is
    enough for a gradient and too coarse to score by. Hence the straight-through form (Bengio et
    al. 2013, arXiv 1308.3432): value of one, gradient of the other.

    Args:
        vectors: Of the questions, as they are now.
        hits: What was found for them.
        is_stale: The hits were found for older vectors: the value is the inner product, too.
    """
    found = torch.tensor(hits.ids >= 0, device=vectors.device)
    scores = torch.tensor(hits.scores, device=vectors.device).masked_fill(~found, 0.0)
    if vectors.requires_grad or is_stale:
        documents = torch.tensor(hits.vectors, device=vectors.device).float()
        # No matrix product: autocast would round it to bfloat16.
        live = (vectors.float()[:, None] * documents).sum(dim=-1)
        scores = live if is_stale else scores + (live - live.detach())
    # An approximate index may find nothing at all: the question alone is read then.
    found[:, 0] |= ~found.any(dim=1)
    return scores.masked_fill(~found, -torch.inf)
