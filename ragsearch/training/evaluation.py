"""Scores of a model on questions, one example at a time and as a summary.

Validation inside a trial, `ragsearch eval` and the search's figures all come from here.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ragsearch.data.questions import Question
from ragsearch.index.store import Passage
from ragsearch.training.contexts import Contexts
from ragsearch.training.decode import generate_answers
from ragsearch.training.encoded import Encoded, encode_contexts
from ragsearch.training.loss import marginal_loss
from ragsearch.training.metrics import (
    RECALL_AT,
    contains_answer,
    exact_match,
    f1,
    rouge_l,
)
from ragsearch.training.model import TrialModel
from ragsearch.training.pipeline import Labels, Pipeline, Retrieved
from ragsearch.training.workers import Workers

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Retrieval:
    """What was found for one question."""

    question: Question
    found: list[Passage | None]
    """Best first, as deep as recall is measured; None where there is no passage."""
    found_scores: list[float]
    """Their inner products with the question; -inf where there is no passage."""
    n_read: int
    """How many of them the generator reads: the first so many."""
    temperature: float = field(default=1.0, kw_only=True)
    """What their scores are divided by before they become weights."""

    @property
    def passages(self) -> list[Passage | None]:
        """The passages answered from."""
        return self.found[: self.n_read]

    @property
    def doc_scores(self) -> list[float]:
        """The scores of the passages answered from."""
        return self.found_scores[: self.n_read]

    @property
    def rank(self) -> int | None:
        """Place of the first relevant passage, from 0; None if it is not among those found.

        Relevant is a passage with a gold id, or else with a gold title, or else with an answer.
        """
        relevant = (place for place, one in enumerate(self.found) if self._is_relevant(one))
        return next(relevant, None)

    def _is_relevant(self, passage: Passage | None) -> bool:
        gold = self.question
        if passage is None:
            return False
        if gold.passage_ids:
            return passage.source_id in gold.passage_ids
        if gold.titles:
            return passage.title in gold.titles
        return contains_answer(f"{passage.title} {passage.text}", gold.answers)

    def precision(self, k: int) -> float:
        """Return the share of gold titles among the first k passages, counting each title once.

        As `eval_rag.py` defines it: |titles of the first k, and gold| / k.
        """
        titles = {passage.title for passage in self.found[:k] if passage is not None}
        return len(titles & set(self.question.titles)) / k


@dataclass(frozen=True)
class Example(Retrieval):
    """One question answered and scored."""

    prediction: str
    em: float
    f1: float
    rouge_l: float
    nll: float
    """-log p(first answer | question), in nats."""
    n_tokens: int
    """Tokens of the first answer."""
    posterior_entropy: float | None = None
    """Entropy of p(passage | question, first answer), in nats; None where it was not kept."""


def find(pipeline: Pipeline, questions: Sequence[Question]) -> Retrieved:
    """Return what is found for questions, as deep as validation looks."""
    texts = [question.question for question in questions]
    return pipeline.retrieve(texts, max(pipeline.model.trial.retrieval.n_docs, *RECALL_AT))


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch of questions with their passages encoded: what all ways to decode have in common.

    Axes: B questions, K passages read a question, T answer tokens, V vocabulary.
    """

    questions: Sequence[Question]
    found: Retrieved
    """As deep as validation looks."""
    n_docs: int
    contexts: Contexts
    labels: Labels
    """The first answers."""
    encoded: Encoded
    logits: Float[Tensor, "BK T V"]
    """Of the labels, on every context."""


def read_batch(pipeline: Pipeline, questions: Sequence[Question], found: Retrieved) -> Reading:
    """Return questions read with the passages found for them; the model is not training.

    Args:
        pipeline: Its trial says how many passages are read.
        questions: At least one.
        found: What `find` gave for them.
    """
    used = found.first(pipeline.model.trial.retrieval.n_docs)
    n_docs = used.doc_scores.shape[1]
    contexts = pipeline.read([question.question for question in questions], used)
    labels = pipeline.labels([question.answers[0] for question in questions])
    encoded = encode_contexts(pipeline.model, contexts)
    logits = encoded.logits(labels.ids.repeat_interleave(n_docs, dim=0))
    return Reading(questions, found, n_docs, contexts, labels, encoded, logits)


def answer_batch(model: TrialModel, reading: Reading) -> list[Example]:
    """Return questions answered as a model's trial decodes, and scored."""
    found, temperature = reading.found, model.trial.decode.document_temperature
    doc_scores = found.first(reading.n_docs).at(temperature).doc_scores
    labels, encoded = reading.labels, replace(reading.encoded, model=model)
    loss = marginal_loss(model.kind, reading.logits, doc_scores, labels.ids, labels.mask)
    predictions = generate_answers(model, reading.contexts, doc_scores, encoded)
    return [
        Example(
            question=question,
            found=found.passages[number],
            found_scores=found.doc_scores[number].tolist(),
            n_read=reading.n_docs,
            temperature=temperature,
            prediction=prediction,
            em=exact_match(prediction, question.answers),
            f1=f1(prediction, question.answers),
            rouge_l=rouge_l(prediction, question.answers),
            nll=float(loss.nll[number]),
            n_tokens=int(loss.n_tokens[number]),
            posterior_entropy=entropy(loss.joint[number]),
        )
        for number, (question, prediction) in enumerate(
            zip(reading.questions, predictions, strict=True)
        )
    ]


def entropy(log_weights: Float[Tensor, " K"]) -> float:
    """Return the entropy of softmax(log weights) in nats; -inf, no passage, adds nothing."""
    probabilities: Float[Tensor, " K"] = torch.softmax(log_weights.double(), dim=-1)
    return float(torch.special.entr(probabilities).sum())


@torch.no_grad()
def evaluate_batch(pipeline: Pipeline, questions: Sequence[Question]) -> list[Example]:
    """Return the questions answered and scored; the model must be in evaluation mode."""
    found = find(pipeline, questions)
    if not questions:  # a worker without a share: it retrieved only to meet the others
        return []
    return answer_batch(pipeline.model, read_batch(pipeline, questions, found))


@contextmanager
def validation_arithmetic(pipeline: Pipeline) -> Iterator[None]:
    """Compute as the validation of the pipeline's trial did: its autocast, no gradients."""
    dtype = _AUTOCAST.get(pipeline.model.trial.train.precision)
    device = pipeline.model.network.device.type
    with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        yield


def evaluate(pipeline: Pipeline, questions: Sequence[Question]) -> Iterator[Example]:
    """Yield questions answered and scored, in batches of the trial's `eval_batch_size`."""
    pipeline.model.network.train(mode=False)
    for batch in batches(pipeline, questions):
        yield from evaluate_batch(pipeline, batch)


@torch.no_grad()
def retrieve(
    pipeline: Pipeline, questions: Sequence[Question], depth: int
) -> Iterator[Retrieval]:
    """Yield what is found for questions; the generator is not run.

    Args:
        pipeline: With a retriever.
        questions: In batches of the trial's `eval_batch_size`.
        depth: Passages a question, at least as many as the trial reads.
    """
    pipeline.model.network.train(mode=False)
    for batch in batches(pipeline, questions):
        found = pipeline.retrieve([question.question for question in batch], depth)
        n_read = pipeline.model.trial.retrieval.n_docs
        rows = zip(batch, found.passages, found.doc_scores.tolist(), strict=True)
        temperature = pipeline.model.trial.decode.document_temperature
        yield from (Retrieval(*row, n_read, temperature=temperature) for row in rows)


def batches(pipeline: Pipeline, questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Yield questions as many at a time as validation holds."""
    size = pipeline.model.trial.train.eval_batch_size
    yield from (questions[start : start + size] for start in range(0, len(questions), size))


def summarise(
    examples: Sequence[Example], *, recall: bool = True, workers: Workers = Workers()
) -> dict[str, float]:
    """Return average scores of examples.

    Args:
        examples: What was answered.
        recall: Whether passages were retrieved, of which there may be recall.
        workers: Who answered together, each some of the examples.

    Returns:
        `em`, `f1`, `rouge_l`, `nll` a token, and `recall_at_k` and `mrr_at_k`.
    """
    sums = {
        "em": math.fsum(example.em for example in examples),
        "f1": math.fsum(example.f1 for example in examples),
        "rouge_l": math.fsum(example.rouge_l for example in examples),
        **(_sums_of_ranks(examples, RECALL_AT) if recall else {}),
    }
    n, nll, n_tokens, *totals = workers.total(
        float(len(examples)),
        math.fsum(example.nll for example in examples),
        math.fsum(example.n_tokens for example in examples),
        *sums.values(),
    )
    if not n:
        return {}
    averages = {name: total / n for name, total in zip(sums, totals, strict=True)}
    return averages | {"nll": nll / n_tokens}


def summarise_retrieval(
    retrievals: Sequence[Retrieval], at: Sequence[int] = RECALL_AT
) -> dict[str, float]:
    """Return how often and how far up relevant passages were found.

    Args:
        retrievals: At least one.
        at: Each k.

    Returns:
        `recall_at_k`, the share of questions with a relevant passage among the first k; and
        for the largest k `mrr_at_k`, the mean of 1 / (place of the first one), 0 where there
        is none.
    """
    sums = _sums_of_ranks(retrievals, at)
    return {name: total / len(retrievals) for name, total in sums.items()}


def _sums_of_ranks(retrievals: Sequence[Retrieval], at: Sequence[int]) -> dict[str, float]:
    ranks = [retrieval.rank for retrieval in retrievals]
    sums: dict[str, float] = {
        f"recall_at_{k}": math.fsum(rank is not None and rank < k for rank in ranks) for k in at
    }
    deepest = max(at)
    reciprocal = (1 / (rank + 1) for rank in ranks if rank is not None and rank < deepest)
    sums[f"mrr_at_{deepest}"] = math.fsum(reciprocal)
    return sums


def weights(retrieved: Retrieved) -> list[list[float]]:
    """Return p(passage | question) of each passage, 0.0 where there is none."""
    return torch.softmax(retrieved.doc_scores, dim=-1).tolist()
