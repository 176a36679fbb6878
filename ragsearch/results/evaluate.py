"""A bundle scored on questions: the figures its search reported, and more if there are more.

On the search's own validation questions the scores are the search's.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragsearch.data.questions import read_questions
from ragsearch.results.answering import (
    asking,
    open_its_index,
    open_pipeline,
    trial_threads,
    validation_arithmetic,
)
from ragsearch.results.bundle import open_bundle
from ragsearch.training import evaluation
from ragsearch.training.evaluation import Example


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a bundle on questions."""

    summary: dict[str, float]
    """`em`, `f1`, `nll` a token, `recall_at_k`, and `n`, the number of questions."""
    examples: Sequence[Example]
    """Each question, in the order of the file."""

    def predictions(self) -> Iterator[dict[str, object]]:
        """Give one row a question: what was said, what was meant, from which passages."""
        return (_row(example) for example in self.examples)

    def write_predictions(self, path: Path) -> None:
        """Write the predictions to a JSON-lines file."""
        with path.open("w", encoding="utf-8") as file:
            for row in self.predictions():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def evaluate(
    bundle: Path | str,
    data: Path | str,
    *,
    index: Path | None = None,
    no_retrieval: bool = False,
    limit: int | None = None,
    retrieval: Mapping[str, int] | None = None,
) -> Evaluation:
    """Return the scores of a bundle on the questions of a file.

    Args:
        bundle: Folder written by `ragsearch export`.
        data: Questions with answers.
        index: Where the bundle's index lies; where it lay at the export by default.
        no_retrieval: Whether to answer from the question alone; there is no recall then.
        limit: Use only the first so many questions, as `data.n_val` of a space file does.
        retrieval: `n_docs`, `ef_search` and `nprobe` to ask with instead of the trial's own;
            nothing is trained or loaded for it.

    Raises:
        BadInputError: If the bundle, the questions or the index cannot be used.
    """
    questions = read_questions(Path(data), limit)
    opened = open_bundle(bundle)
    found = None if no_retrieval else open_its_index(opened, index, verify=True)
    pipeline = asking(open_pipeline(opened, found), found, retrieval or {})
    with trial_threads(opened), validation_arithmetic(pipeline):
        examples = list(evaluation.evaluate(pipeline, questions))
    summary = evaluation.summarise(examples) | {"n": len(examples)}
    if found is None:
        summary = {name: value for name, value in summary.items() if "recall" not in name}
    return Evaluation(summary, examples)


def shares(doc_scores: Sequence[float]) -> list[float]:
    """Give p(passage | question) for the document scores of one question."""
    largest = max(doc_scores)
    grown = [math.exp(score - largest) for score in doc_scores]
    return [value / math.fsum(grown) for value in grown]


def _row(example: Example) -> dict[str, object]:
    weighed = zip(example.passages, example.doc_scores, shares(example.doc_scores), strict=True)
    return {
        "id": example.question.id,
        "question": example.question.question,
        "prediction": example.prediction,
        "answers": list(example.question.answers),
        "em": example.em,
        "f1": example.f1,
        "nll": example.nll,
        "passages": [
            {"id": passage.id, "doc_score": score, "weight": weight}
            for passage, score, weight in weighed
            if passage is not None
        ],
    }
