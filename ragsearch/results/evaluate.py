"""Bundles scored on questions: answers end to end, or passages alone.

On the search's own validation questions the scores are the search's. Each bundle is loaded,
asked and let go before the next: they share nothing but the questions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ragsearch.data.questions import Question, read_questions
from ragsearch.errors import BadInputError, Mistake
from ragsearch.results.answering import (
    asking,
    open_its_index,
    open_pipeline,
    trial_threads,
)
from ragsearch.results.bundle import open_bundle
from ragsearch.results.predictions import prediction_of, read_predictions
from ragsearch.training import evaluation
from ragsearch.training.collapse import collapse_signs
from ragsearch.training.evaluation import Example, Retrieval, validation_arithmetic
from ragsearch.training.metrics import RECALL_AT

Data = Path | str | Sequence[Question]
"""A file of questions, or questions."""
_ANSWER_SCORES = ("em", "f1", "rouge_l", "nll")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a bundle on questions."""

    bundle: str
    """The folder, as it was given."""
    summary: dict[str, float]
    """Average scores by name, and `n`, the number of questions."""
    examples: Sequence[Retrieval]
    """Each question, in the order of the file; `Example`s where it was answered."""
    retrieves: bool = True
    """Whether there was an index."""

    def predictions(self) -> list[dict[str, object]]:
        """Give one row a question: what was said, what was meant, from which passages."""
        row = partial(prediction_of, self.bundle, retrieves=self.retrieves)
        return [row(example) for example in self.examples]

    def row(self) -> dict[str, object]:
        """Give the scores as a row of a table of bundles."""
        return {"bundle": self.bundle, **self.summary}


def evaluate(
    bundle: Path | str,
    data: Data,
    *,
    index: Path | None = None,
    no_retrieval: bool = False,
    limit: int | None = None,
    retrieval: Mapping[str, int] | None = None,
) -> Evaluation:
    """Return the scores of a bundle's answers to questions.

    Args:
        bundle: Folder written by `ragsearch export`.
        data: Questions with answers.
        index: Where the bundle's index lies; where it lay at the export by default.
        no_retrieval: Whether to answer from the question alone; there is no recall then.
        limit: Use only the first so many questions, as `data.n_val` of a space file does.
        retrieval: `n_docs`, `ef_search` and `nprobe` to ask with instead of the trial's own;
            nothing is trained or loaded for it.

    Returns:
        `em`, `f1`, `rouge_l`, `nll` a token, and with an index `recall_at_k`, `mrr_at_k` and
        the signs of retrieval collapse (`training.collapse`).

    Raises:
        BadInputError: If the bundle, the questions or the index cannot be used.
    """
    questions = _read(data, limit)
    if not all(question.answers for question in questions):
        what = "has questions without answers; only --mode retrieval does without"
        raise BadInputError.single("--gold-format", what)
    opened = open_bundle(bundle)
    found = None if no_retrieval else open_its_index(opened, index, verify=True)
    pipeline = asking(open_pipeline(opened, found), found, retrieval or {})
    with trial_threads(opened), validation_arithmetic(pipeline):
        examples = list(evaluation.evaluate(pipeline, questions))
    summary = _summary(examples, () if found is None else RECALL_AT)
    return Evaluation(str(bundle), summary, examples, retrieves=found is not None)


def evaluate_retrieval(
    bundle: Path | str,
    data: Data,
    *,
    index: Path | None = None,
    limit: int | None = None,
    retrieval: Mapping[str, int] | None = None,
    at: Sequence[int] = (),
) -> Evaluation:
    """Return how well a bundle finds passages; its generator is neither read nor run.

    Args:
        bundle: Folder written by `ragsearch export`.
        data: Questions with gold passage ids, titles or answers.
        index: Where the bundle's index lies; where it lay at the export by default.
        limit: Use only the first so many questions.
        retrieval: `n_docs`, `ef_search` and `nprobe`, as in `evaluate`.
        at: Each k of the scores; 1, 5 and 10 by default.

    Returns:
        `precision_at_k` if every question has gold titles, `recall_at_k`, `mrr_at_k` and the
        signs of retrieval collapse.

    Raises:
        BadInputError: If the bundle, the questions or the index cannot be used, or a k is
            more than the index holds.
    """
    questions, opened = _read(data, limit), open_bundle(bundle)
    found = open_its_index(opened, index, verify=True)
    if found is None:
        what = "answers without passages, so there is nothing to score; leave it out"
        raise BadInputError.single(bundle, what)
    n_passages, ks = found.manifest.n_passages, tuple(at) or RECALL_AT
    if at and max(at) > n_passages:
        what = f"asks for {max(at)} passages, but the index holds {n_passages}; ask for fewer"
        raise BadInputError.single("--k", what)
    pipeline = open_pipeline(opened, found, encoder_only=True)
    pipeline = asking(pipeline, found, retrieval or {})
    depth = max(pipeline.model.trial.retrieval.n_docs, *ks)
    with trial_threads(opened), validation_arithmetic(pipeline):
        examples = list(evaluation.retrieve(pipeline, questions, depth))
    return Evaluation(str(bundle), _summary(examples, ks), examples)


def evaluate_all(
    bundles: Sequence[Path],
    questions: Sequence[Question],
    evaluate_one: Callable[[Path, Sequence[Question]], Evaluation],
) -> list[Evaluation]:
    """Return the scores of several bundles, one after another, on the same questions.

    Args:
        bundles: Folders written by `ragsearch export`, each once.
        questions: What to ask them.
        evaluate_one: `evaluate` or `evaluate_retrieval`, its options filled in.

    Raises:
        BadInputError: With everything wrong with any of the bundles, before one is asked.
    """
    mistakes: list[Mistake] = []
    for number, bundle in enumerate(bundles):
        if bundle in bundles[:number]:
            mistakes.append(Mistake(str(bundle), "", "is given twice; give each bundle once"))
        try:
            open_bundle(bundle)
        except BadInputError as error:
            mistakes += error.mistakes
    if mistakes:
        raise BadInputError(mistakes)
    return [evaluate_one(bundle, questions) for bundle in bundles]


def score_predictions(predictions: Path, at: Sequence[int] = ()) -> list[Evaluation]:
    """Return the scores of each bundle in a file of predictions, without model or index.

    The scores are computed anew from the texts; NLL is the one the model gave.

    Args:
        predictions: A file that `write_predictions` wrote.
        at: Each k of retrieval scores; by default those of 1, 5 and 10 that the file reaches.

    Raises:
        BadInputError: If it is no such file, or a k is more than the passages it has.
    """
    evaluations = []
    for bundle, (scored, depth) in read_predictions(predictions).items():
        if at and max(at) > depth:
            what = (
                f"asks for {max(at)} passages, but {predictions} has {depth} a question; ask "
                "for fewer, or evaluate the bundle again"
            )
            raise BadInputError.single("--k", what)
        ks = tuple(at) or tuple(k for k in RECALL_AT if k <= depth)
        evaluations.append(Evaluation(bundle, _summary(scored, ks), scored, depth > 0))
    return evaluations


def _summary(scored: Sequence[Retrieval], at: Sequence[int]) -> dict[str, float]:
    """Return average scores; of retrieval at each k, and none of it without a k."""
    answered = [one for one in scored if isinstance(one, Example)]
    said = evaluation.summarise(answered, recall=False)
    summary = {name: said[name] for name in _ANSWER_SCORES if name in said}
    ks = sorted(set(at))
    if ks and not answered and all(one.question.titles for one in scored):
        summary |= {
            f"precision_at_{k}": math.fsum(one.precision(k) for one in scored) / len(scored)
            for k in ks
        }
    if ks:
        summary |= evaluation.summarise_retrieval(scored, ks) | collapse_signs(scored)
    return summary | {"n": len(scored)}


def _read(data: Data, limit: int | None) -> Sequence[Question]:
    if isinstance(data, Path | str):
        return read_questions(Path(data), limit)
    return data[:limit]
