"""Questions and what counts as right, in one file or in two, as `eval_rag.py` reads them.

In: any file of questions, or a question a line and a file of gold beside it. Out: `Question`s,
or every mistake at once. Ids of questions in lines are line numbers.
"""

import ast
import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ragsearch.data.lines import Line, pairs_of_lines, read_lines
from ragsearch.data.questions import (
    PlacedQuestion,
    Question,
    gather,
    read_questions,
)
from ragsearch.data.rows import (
    BadRowError,
    kind_of,
    place_at,
)
from ragsearch.errors import BadInputError, Mistake

GoldFormat = Literal["qa", "ans", "titles"]
"""How a line says what is right: `qa`, the question, a tab and a Python list of answers; `ans`,
one answer; `titles`, titles of relevant passages with tabs between them."""
GOLD_FORMATS: tuple[str, ...] = get_args(GoldFormat)


class Gold(NamedTuple):
    """What counts as right, where the file of questions does not say it."""

    format: GoldFormat
    path: Path | None = None
    """A file as long as the file of questions; None for `qa`, which has the questions too."""


def read_judged(data: Path, gold: Gold | None, limit: int | None = None) -> list[Question]:
    """Return questions with what counts as right, from one file or from two.

    Args:
        data: Any file of `read_questions`; with gold beside it one question a line.
        gold: What counts as right; None where `data` says it itself.
        limit: Read only the first so many.

    Returns:
        At least one question; with titles as gold it has no answers.

    Raises:
        BadInputError: With every mistake of the files (at most 20, and a count).
    """
    if gold is None:
        return read_questions(data, limit)
    if gold.path is None and gold.format != "qa":
        what = f"is '{gold.format}', which needs a file of its own; give it with --gold"
        raise BadInputError.single("--gold-format", what)
    items = islice(_judged(data, gold), limit)
    return [placed.question for placed in gather(data, items)]


def _judged(data: Path, gold: Gold) -> Iterator[PlacedQuestion | Mistake]:
    if gold.path is None:
        for line in read_lines(data):
            yield line if isinstance(line, Mistake) else _parsed(data, line, _qa)
        return
    parse = _PARSERS[gold.format]
    for pair in pairs_of_lines(data, gold.path):
        if isinstance(pair, Mistake):
            yield pair
            continue
        asked, right = pair
        yield _of_pair(asked, _parsed(gold.path, right, parse), place_at(data, asked.number))


def _of_pair(
    asked: Line, right: PlacedQuestion | Mistake, place: str
) -> PlacedQuestion | Mistake:
    """Join a question with what is right; a gold line with a question of its own must agree."""
    if isinstance(right, Mistake):
        return right
    said = right.question
    if said.question and _words(said.question) != _words(asked.text):
        what = f"is '{said.question}', but {place} asks '{asked.text}'; the lines must agree"
        return Mistake(right.place, "question", what)
    return PlacedQuestion(place, Question(said.id, asked.text, said.answers, (), said.titles))


def _words(text: str) -> list[str]:
    return text.casefold().strip(" ?").split()


def _parsed(
    path: Path, line: Line, parse: Callable[[Line], Question]
) -> PlacedQuestion | Mistake:
    place = place_at(path, line.number)
    try:
        return PlacedQuestion(place, parse(line))
    except BadRowError as error:
        return Mistake(place, "", str(error))


def _qa(line: Line) -> Question:
    cells = next(csv.reader([line.text], delimiter="\t"))  # as pandas does: quotes and all
    if len(cells) != 2:  # noqa: PLR2004 - a question and its answers
        raise BadRowError(
            f"has {len(cells) - 1} tabs instead of one; write question, tab, ['answer', ...]"
        )
    question, answers = cells[0].strip(), _python_list(cells[1])
    if not question:
        raise BadRowError("has no question before the tab; give one or drop the line")
    return Question(str(line.number), question, answers, ())


def _python_list(text: str) -> tuple[str, ...]:
    try:
        items = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        msg = f"has {text.strip()!r} after the tab, which is no list; write ['one', \"two's\"]"
        raise BadRowError(msg) from error
    if not isinstance(items, list | tuple):
        raise BadRowError(f"has {kind_of(items)} after the tab; write a list: ['one', 'two']")
    for item in items:
        if not isinstance(item, str):
            raise BadRowError(f"has {item!r} among its answers, which is no text; quote it")
    answers = tuple(item.strip() for item in items if item.strip())
    if not answers:
        raise BadRowError("has an empty list of answers; give one or drop the line")
    return answers


def _ans(line: Line) -> Question:
    return Question(str(line.number), "", (line.text,), ())


def _titles(line: Line) -> Question:
    titles = tuple(title.strip() for title in line.text.split("\t") if title.strip())
    return Question(str(line.number), "", (), (), titles)


_PARSERS: dict[str, Callable[[Line], Question]] = {"qa": _qa, "ans": _ans, "titles": _titles}
