"""Signs of retrieval collapse: a question encoder that finds the same for every question.

While it is trained, a question encoder can come to find a few passages whatever is asked; the
generator then learns to do without them, and nothing pulls the encoder back. Exact match shows
that late, these figures early. All are of the passages that the generator reads, the first
`n_docs`, over all questions of a validation:

- `unique_passage_ratio`: different passages among all that were found. 1 where no passage was
  found twice; 1 / questions where all have the same ones. It falls with `n_docs` and the number
  of questions even in health, so compare it between trials that have both in common.
- `top1_concentration`: share of questions whose first passage is the most frequent first one.
- `prior_entropy`: mean entropy, in nats, of p(passage | question), what RAG weighs passages by
  before it sees an answer: from 0, where one passage has all the weight, to log `n_docs`.
- `posterior_entropy`: the same of p(passage | question, first answer), of answered questions:
  near that of the prior where the generator tells no passage from another, as it does once it
  has learnt to do without them.
- `hit_overlap`: mean share of a question's passages that were found for it before training too;
  only where that is known, as it is inside a trial.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import torch

from ragsearch.data.questions import Question
from ragsearch.index.store import Passage
from ragsearch.training.evaluation import Example, Retrieval, entropy, find
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.workers import Workers

Hits = list[str]
"""Ids of the passages of one question, best first."""


@torch.no_grad()
def hits_of(pipeline: Pipeline, batches: Iterable[Sequence[Question]]) -> list[Hits]:
    """Return what is found for each question now, the model being in evaluation mode."""
    n_docs = pipeline.model.trial.retrieval.n_docs
    found = (find(pipeline, batch).first(n_docs).passages for batch in batches)
    return [_ids(row) for row in chain.from_iterable(found)]


def collapse_signs(
    retrievals: Sequence[Retrieval],
    before: Sequence[Hits] | None = None,
    workers: Workers = Workers(),
) -> dict[str, float]:
    """Return the signs, over the questions of all workers.

    Args:
        retrievals: What was found for this worker's questions.
        before: What was found for them before training, by whom that is known.
        workers: Who validates together, each some of the questions.
    """
    known = [[]] * len(retrievals) if before is None else before
    mine = [
        (_ids(one.passages), then, prior_entropy(one.doc_scores), _posterior_entropy(one))
        for one, then in zip(retrievals, known, strict=True)
    ]
    rows = workers.gather(mine)
    hits = [now for now, *_ in rows]
    firsts = Counter(ids[0] for ids in hits if ids)
    n_found, n_questions = sum(map(len, hits)), len(hits)
    signs = {
        "unique_passage_ratio": len(set(chain.from_iterable(hits))) / max(1, n_found),
        "top1_concentration": max(firsts.values(), default=0) / n_questions,
        "prior_entropy": math.fsum(prior for _, _, prior, _ in rows) / n_questions,
    }
    posteriors = [posterior for *_, posterior in rows if posterior is not None]
    if len(posteriors) == n_questions:
        signs["posterior_entropy"] = math.fsum(posteriors) / n_questions
    if before is None:
        return signs
    overlaps = math.fsum(_overlap(now, then) for now, then, *_ in rows)
    return signs | {"hit_overlap": overlaps / n_questions}


def prior_entropy(doc_scores: Sequence[float]) -> float:
    """Return the entropy of what passages of such scores weigh, in nats."""
    return entropy(torch.tensor(doc_scores, dtype=torch.float64))


def _posterior_entropy(one: Retrieval) -> float | None:
    return one.posterior_entropy if isinstance(one, Example) else None


def _ids(passages: Iterable[Passage | None]) -> Hits:
    return [passage.id for passage in passages if passage is not None]


def _overlap(now: Hits, before: Hits) -> float:
    """Return which share of what is found now was found before; 1 where nothing is found."""
    return sum(one in before for one in now) / len(now) if now else 1.0
