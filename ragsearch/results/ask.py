"""Questions answered by a bundle, with the passages each answer comes from.

A passage's weight is p(passage | question): the softmax of the document scores, each divided by
the trial's temperature, by which the model mixes what it reads in each passage.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from ragsearch.errors import BadInputError
from ragsearch.results.answering import (
    open_its_index,
    open_pipeline,
    shares,
)
from ragsearch.results.bundle import open_bundle
from ragsearch.training.decode import generate_answers
from ragsearch.training.evaluation import validation_arithmetic
from ragsearch.training.metrics import RECALL_AT


@dataclass(frozen=True, slots=True)
class WeighedPassage:
    """A passage that was read."""

    id: str
    title: str
    text: str
    doc_score: float
    """Inner product of question and passage."""
    weight: float
    """p(passage | question)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and where it comes from."""

    question: str
    answer: str
    passages: list[WeighedPassage]
    """Best first; none if the index found none, or the model retrieves nothing."""
    contexts: list[str]
    """What the generator read, passage by passage."""
    doc_scores: list[float]
    """One a context, as the model weighs it: divided by `decode.document_temperature`."""

    def as_dict(self) -> dict[str, object]:
        """Give the answer as plain data."""
        return asdict(self)


class Answerer:
    """A bundle loaded once, to be asked many questions.

    Args:
        bundle: Folder written by `ragsearch export`.
        index: Where the bundle's index lies; where it lay at the export by default.
    """

    def __init__(self, bundle: Path | str, index: Path | None = None) -> None:
        opened = open_bundle(bundle)
        # Sizes only: reading a large index for one question would take longer than answering.
        self._pipeline = open_pipeline(opened, open_its_index(opened, index, verify=False))

    def ask(self, question: str) -> Answer:
        """Return the answer to one question, whatever else is asked.

        Raises:
            BadInputError: If the question is empty.
        """
        question = question.strip()
        if not question:
            raise BadInputError.single("question", "is empty; ask something")
        pipeline, n_docs = self._pipeline, self._pipeline.model.trial.retrieval.n_docs
        with validation_arithmetic(pipeline):
            # As many as `evaluate` fetches: an approximate index searches wider for more.
            used = pipeline.retrieve([question], max(n_docs, *RECALL_AT)).first(n_docs)
            contexts = pipeline.read([question], used)
            weighed = used.at(pipeline.model.trial.decode.document_temperature).doc_scores
            answer = generate_answers(pipeline.model, contexts, weighed)[0]
        texts = pipeline.contexts.texts([question], used.passages)
        scores = used.doc_scores[0].tolist()
        read = [place for place, score in enumerate(scores) if score > -math.inf]
        weighed_scores = weighed[0].tolist()
        weights = shares(weighed_scores)
        return Answer(
            question=question,
            answer=answer,
            passages=[
                WeighedPassage(
                    passage.id, passage.title, passage.text, scores[place], weights[place]
                )
                for place in read
                if (passage := used.passages[0][place]) is not None
            ],
            contexts=[texts[place] for place in read],
            doc_scores=[weighed_scores[place] for place in read],
        )


def ask(bundle: Path | str, question: str, index: Path | None = None) -> Answer:
    """Return a bundle's answer to one question; use `Answerer` for several.

    Args:
        bundle: Folder written by `ragsearch export`.
        question: What to ask.
        index: Where the bundle's index lies; where it lay at the export by default.
    """
    return Answerer(bundle, index).ask(question)
