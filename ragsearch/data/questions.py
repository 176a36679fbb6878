"""Questions with their answers, read from a file and checked.

In: a jsonl, csv, parquet or source file. Out: `Question`s in the order of the file, or every
mistake at once.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ragsearch.data.lines import read_source
from ragsearch.data.rows import (
    BadRowError,
    MistakeList,
    Row,
    as_id,
    clean,
    kind_of,
    open_rows,
    place_at,
    text_of,
)
from ragsearch.errors import BadInputError, Mistake

QUESTION_SUFFIXES = (".jsonl", ".csv", ".parquet", ".source")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, every answer that counts as right, and where the answer can be found."""

    id: str
    question: str
    answers: tuple[str, ...]
    """At least one; the first is the one to train on."""
    passage_ids: tuple[str, ...]
    """Ids of corpus rows that hold the answer; empty where the data does not say."""
    titles: tuple[str, ...] = ()
    """Titles of passages that are relevant; empty where the data does not say."""


class PlacedQuestion(NamedTuple):
    """A question and where it stands."""

    place: str
    question: Question


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Give the questions of a file.

    Answers are a list, a JSON list written as text (for csv cells), or one text.

    Args:
        path: A jsonl, csv or parquet file with `question` and `answers` and, where they
            are known, `id` (else the row's number), `passage_ids` and `titles`; or a source
            file with one question a line, and one answer a line in the target file beside it.
        limit: Read only the first so many rows.

    Returns:
        At least one question.
    """
    return [placed.question for placed in read_placed_questions(path, limit)]


def read_placed_questions(path: Path, limit: int | None = None) -> list[PlacedQuestion]:
    """Give the questions of a file as `read_questions` does, each with its place.

    Returns:
        At least one question.

    Raises:
        BadInputError: With every mistake of the file (at most 20, and a count).
    """
    return gather(path, _refuse_repeats(_read(path, limit)))


def gather(path: Path, items: Iterable[PlacedQuestion | Mistake]) -> list[PlacedQuestion]:
    """Return the questions of a file, unless there is a mistake among them.

    Raises:
        BadInputError: With every mistake, or if there is no question.
    """
    questions: list[PlacedQuestion] = []
    mistakes = MistakeList(path)
    for item in items:
        if isinstance(item, Mistake):
            mistakes.add(item)
        else:
            questions.append(item)
    mistakes.raise_if_any()
    if not questions:
        raise BadInputError([Mistake(str(path), "", "holds no questions; give at least one")])
    return questions


def _read(path: Path, limit: int | None) -> Iterator[PlacedQuestion | Mistake]:
    rows = open_rows(path, QUESTION_SUFFIXES, {".source": read_source})
    for row in islice(rows, limit):
        yield row if isinstance(row, Mistake) else _question(path, row)


def _refuse_repeats(
    items: Iterator[PlacedQuestion | Mistake],
) -> Iterator[PlacedQuestion | Mistake]:
    first_places: dict[str, str] = {}
    for item in items:
        if isinstance(item, Mistake):
            yield item
            continue
        first = first_places.setdefault(item.question.id, item.place)
        if first == item.place:
            yield item
        else:
            what = f"'{item.question.id}' already stands in {first}; ids must be unique"
            yield Mistake(item.place, "id", what)


def _question(path: Path, row: Row) -> PlacedQuestion | Mistake:
    place = place_at(path, row.mark)
    key = "question"
    try:
        text = text_of(row.values, "question")
        key = "answers"
        answers = _answers(row)
        key = "passage_ids"
        passage_ids = _passage_ids(row)
        key = "titles"
        titles = _titles(row)
        key = "id"
        given = row.values.get("id")
        row_id = str(row.number) if given is None else as_id(given)
    except BadRowError as error:
        return Mistake(place, key, str(error))
    return PlacedQuestion(place, Question(row_id, text, answers, passage_ids, titles))


def _answers(row: Row) -> tuple[str, ...]:
    if row.values.get("answers") is None:
        raise BadRowError(f"is missing; this row has {', '.join(row.values) or 'no columns'}")
    texts = [clean(item) for item in _as_list(row.values["answers"])]
    answers = tuple(text for text in texts if text)
    if not answers:
        raise BadRowError("is empty; give at least one answer or drop the row")
    return answers


def _passage_ids(row: Row) -> tuple[str, ...]:
    given = row.values.get("passage_ids")
    if given is None or given == "":
        return ()
    items = [given] if isinstance(given, int) else _as_list(given)
    return tuple(as_id(item) for item in items)


def _titles(row: Row) -> tuple[str, ...]:
    given = row.values.get("titles")
    if given is None or given == "":
        return ()
    titles = (clean(item) for item in _as_list(given))
    return tuple(title for title in titles if title)


def _as_list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise BadRowError(f"must be a list of texts, not {kind_of(value)}")
    if not value.lstrip().startswith("["):
        return [value]
    try:
        items = json.loads(value)
    except (ValueError, RecursionError) as error:
        msg = 'looks like a list but is not JSON; write it as ["one", "two"]'
        raise BadRowError(msg) from error
    return list(items)
