"""Scores of a model on questions, one example at a time and as a summary.

Validation inside a trial, `ragsearch eval` and the search's figures all come from here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ragsearch.data.questions import Question
from ragsearch.index.store import Passage
from ragsearch.training.decode import generate_answers
from ragsearch.training.encoded import encode_contexts
from ragsearch.training.loss import marginal_loss
from ragsearch.training.metrics import RECALL_AT, contains_answer, exact_match, f1
from ragsearch.training.pipeline import Pipeline, Retrieved


@dataclass(frozen=True, slots=True)
class Example:
    """One question answered and scored."""

    question: Question
    prediction: str
    contexts: list[str]
    passages: list[Passage | None]
    """The passages answered from, best first."""
    doc_scores: list[float]
    """Their inner products with the question."""
    em: float
    f1: float
    nll: float
    """-log p(first answer | question), in nats."""
    n_tokens: int
    """Tokens of the first answer."""
    rank: int | None
    """Place of the first relevant passage, from 0; None if it is not among those retrieved."""


@torch.no_grad()
def evaluate_batch(pipeline: Pipeline, questions: Sequence[Question]) -> list[Example]:
    """Return the questions answered and scored; the model must be in evaluation mode."""
    asked = pipeline.model.trial.retrieval.n_docs
    texts = [question.question for question in questions]
    found = pipeline.retrieve(texts, max(asked, *RECALL_AT))
    used = found.first(asked)
    n_docs = used.doc_scores.shape[1]
    contexts = pipeline.read(texts, used)
    labels = pipeline.labels([question.answers[0] for question in questions])
    encoded = encode_contexts(pipeline.model, contexts)
    loss = marginal_loss(
        pipeline.model.kind,
        encoded.logits(labels.ids.repeat_interleave(n_docs, dim=0)),
        used.doc_scores,
        labels.ids,
        labels.mask,
    )
    predictions = generate_answers(pipeline.model, contexts, used.doc_scores, encoded)
    return [
        Example(
            question=question,
            prediction=prediction,
            contexts=contexts.texts[number * n_docs : (number + 1) * n_docs],
            passages=used.passages[number],
            doc_scores=used.doc_scores[number].tolist(),
            em=exact_match(prediction, question.answers),
            f1=f1(prediction, question.answers),
            nll=float(loss.nll[number]),
            n_tokens=int(loss.n_tokens[number]),
            rank=_rank(question, found.passages[number]),
        )
        for number, (question, prediction) in enumerate(
            zip(questions, predictions, strict=True)
        )
    ]


def evaluate(pipeline: Pipeline, questions: Sequence[Question]) -> Iterator[Example]:
    """Yield questions answered and scored, in batches of the trial's `eval_batch_size`."""
    size = pipeline.model.trial.train.eval_batch_size
    pipeline.model.network.train(mode=False)
    for start in range(0, len(questions), size):
        yield from evaluate_batch(pipeline, questions[start : start + size])


def summarise(examples: Sequence[Example]) -> dict[str, float]:
    """Return average scores of examples: `em`, `f1`, `nll` a token, `recall_at_k`."""
    n = len(examples)
    if not n:
        return {}
    summary = {
        "em": math.fsum(example.em for example in examples) / n,
        "f1": math.fsum(example.f1 for example in examples) / n,
        "nll": math.fsum(example.nll for example in examples)
        / sum(example.n_tokens for example in examples),
    }
    for k in RECALL_AT:
        hits = sum(example.rank is not None and example.rank < k for example in examples)
        summary[f"recall_at_{k}"] = hits / n
    return summary


def _rank(question: Question, passages: Sequence[Passage | None]) -> int | None:
    """Return the place of the first passage with the gold id, or else with the answer."""
    for place, passage in enumerate(passages):
        if passage is None:
            continue
        if question.passage_ids:
            relevant = passage.source_id in question.passage_ids
        else:
            relevant = contains_answer(f"{passage.title} {passage.text}", question.answers)
        if relevant:
            return place
    return None


def weights(retrieved: Retrieved) -> list[list[float]]:
    """Return p(passage | question) of each passage, 0.0 where there is none."""
    return torch.softmax(retrieved.doc_scores, dim=-1).tolist()
