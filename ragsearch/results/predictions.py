"""Predictions in a file: each question with its answer, its passages and its scores.

In: what evaluation made of each question. Out: a JSON-lines or Parquet file, and the same back
again, scored anew from its texts. Needs no model and no index.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ragsearch.data.questions import Question
from ragsearch.data.rows import MistakeList, Row, open_rows, place_at
from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.store import Passage
from ragsearch.results.answering import shares
from ragsearch.training.evaluation import Example, Retrieval
from ragsearch.training.metrics import exact_match, f1, rouge_l

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class FoundPassage:
    """A passage that was found."""

    id: str
    source_id: str
    """Id of its text in the corpus."""
    title: str
    text: str
    doc_score: float
    """Inner product with the question."""
    weight: float | None
    """p(passage | question) among those the model reads; None where it did not read it."""


@dataclass(frozen=True)
class Prediction:
    """A row of the file; what it says of an answer is None where only retrieval was scored."""

    bundle: str
    """Whose prediction it is: the folder as it was given."""
    id: str
    question: str
    answers: list[str]
    depth: int
    """Passages that were asked for, of which fewer may have been found; 0 without retrieval."""
    passages: list[FoundPassage]
    """Best first."""
    titles: list[str] = field(default_factory=list)
    """Gold titles, where the data names them."""
    passage_ids: list[str] = field(default_factory=list)
    """Gold ids, where the data names them."""
    rank: int | None = None
    """Place of the first relevant passage, from 1; None where none was found."""
    prediction: str | None = None
    em: float | None = None
    f1: float | None = None
    rouge_l: float | None = None
    nll: float | None = None
    """-log p(first answer | question), in nats."""
    n_tokens: int | None = None
    """Tokens of the first answer."""
    posterior_entropy: float | None = None
    """Entropy of p(passage | question, first answer), in nats."""


_ROW = TypeAdapter(Prediction)


def prediction_of(bundle: str, scored: Retrieval, *, retrieves: bool) -> dict[str, object]:
    """Return the row of a scored question.

    Args:
        bundle: Who predicted.
        scored: A question with its passages; an `Example` has an answer too.
        retrieves: Whether it was asked with an index at all.
    """
    question, rank = scored.question, scored.rank
    row: dict[str, object] = {
        "bundle": bundle,
        "id": question.id,
        "question": question.question,
        "answers": list(question.answers),
        "titles": list(question.titles),
        "passage_ids": list(question.passage_ids),
        "depth": len(scored.found) if retrieves else 0,
        "rank": None if rank is None else rank + 1,
        "passages": list(_passages(scored)),
    }
    if isinstance(scored, Example):
        names = ("prediction", "em", "f1", "rouge_l", "nll", "n_tokens", "posterior_entropy")
        row |= {name: getattr(scored, name) for name in names}
    return row


def _passages(scored: Retrieval) -> Iterator[dict[str, object]]:
    weights = shares([score / scored.temperature for score in scored.doc_scores])
    for place, (passage, score) in enumerate(
        zip(scored.found, scored.found_scores, strict=True)
    ):
        if passage is not None:
            weight = weights[place] if place < scored.n_read else None
            yield passage._asdict() | {"doc_score": score, "weight": weight}


def require_new(path: Path) -> None:
    """Refuse a place where predictions cannot be written, before they are made.

    Raises:
        BadInputError: If it is taken, of another format, or in no folder.
    """
    if path.suffix not in SUFFIXES:
        what = f"has suffix '{path.suffix}'; predictions are {' or '.join(SUFFIXES)}"
        raise BadInputError.single(path, what)
    if path.exists():
        raise _taken(path)
    if not path.parent.is_dir():
        raise BadInputError.single(path, "is in no folder that exists; make it first")


def write_predictions(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write predictions to a new file; the suffix names the format.

    Raises:
        BadInputError: If the file exists.
    """
    require_new(path)
    try:
        if path.suffix == ".parquet":
            _write_parquet(path, rows)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except FileExistsError as error:
        raise _taken(path) from error


def _taken(path: Path) -> BadInputError:
    return BadInputError.single(path, "exists already; choose another file")


def _write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text, texts, number, count = pa.string(), pa.list_(pa.string()), pa.float64(), pa.int64()
    passage = pa.struct({
        "id": text, "source_id": text, "title": text, "text": text,
        "doc_score": number, "weight": number,
    })  # fmt: skip
    schema = pa.schema({
        "bundle": text, "id": text, "question": text, "answers": texts, "titles": texts,
        "passage_ids": texts, "depth": count, "rank": count, "passages": pa.list_(passage),
        "prediction": text, "em": number, "f1": number, "rouge_l": number, "nll": number,
        "n_tokens": count, "posterior_entropy": number,
    })  # fmt: skip
    with path.open("xb") as file:
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)


class ReadPredictions(NamedTuple):
    """What a file says of one bundle."""

    scored: list[Retrieval]
    """`Example`s, or of a file of retrieval only `Retrieval`s."""
    depth: int
    """Passages every question was asked for; 0 without retrieval."""


def read_predictions(path: Path) -> dict[str, ReadPredictions]:
    """Return what a file says of each question, scored anew, by bundle.

    EM, F1, ROUGE-L and ranks come from the texts; NLL, which only a model can tell, is read.

    Raises:
        BadInputError: With every mistake of the file (at most 20, and a count).
    """
    mistakes, found = MistakeList(path), dict[str, list[Prediction]]()
    for row in open_rows(path, SUFFIXES):
        read = row if isinstance(row, Mistake) else _read(path, row)
        if isinstance(read, Prediction):
            found.setdefault(read.bundle, []).append(read)
        else:
            mistakes.add(read)
    mistakes.raise_if_any()
    if not found:
        raise BadInputError.single(
            path, "holds no predictions; write some with `ragsearch eval`"
        )
    if len({row.prediction is None for rows in found.values() for row in rows}) > 1:
        what = "has rows with a prediction and rows without; score each kind by itself"
        raise BadInputError.single(path, what)
    return {
        bundle: ReadPredictions([_scored(row) for row in rows], min(row.depth for row in rows))
        for bundle, rows in found.items()
    }


def _read(path: Path, row: Row) -> Prediction | Mistake:
    try:
        read = _ROW.validate_python(row.values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = f"{first['msg'].lower()}; give a file that `ragsearch eval` wrote"
        return Mistake(place_at(path, row.mark), key, what)
    if read.prediction is not None and not (read.answers and read.n_tokens):
        what = "a row with a prediction needs answers, nll and n_tokens"
        return Mistake(place_at(path, row.mark), "prediction", what)
    return read


def _scored(row: Prediction) -> Retrieval:
    found: list[Passage | None] = [
        Passage(each.id, each.source_id, each.title, each.text) for each in row.passages
    ]
    n_missing = max(row.depth, 1) - len(found)
    question = Question(
        row.id, row.question, tuple(row.answers), tuple(row.passage_ids), tuple(row.titles)
    )
    retrieval = Retrieval(
        question,
        found + [None] * n_missing,
        [each.doc_score for each in row.passages] + [-float("inf")] * n_missing,
        sum(each.weight is not None for each in row.passages),
    )
    return retrieval if row.prediction is None else _answered(row, retrieval, row.prediction)


def _answered(row: Prediction, retrieval: Retrieval, prediction: str) -> Example:
    return Example(
        question=retrieval.question,
        found=retrieval.found,
        found_scores=retrieval.found_scores,
        n_read=retrieval.n_read,
        prediction=prediction,
        em=exact_match(prediction, row.answers),
        f1=f1(prediction, row.answers),
        rouge_l=rouge_l(prediction, row.answers),
        nll=row.nll or 0.0,
        n_tokens=row.n_tokens or 0,
        posterior_entropy=row.posterior_entropy,
    )
