"""Lines of a file, and of two files whose lines belong together.

In: paths, such as `val.source` with `val.target` beside it. Out: lines, pairs of them or rows,
or a `Mistake` for every line that is empty, no UTF-8 or has no partner.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from ragsearch.data.rows import Row, guarded, not_utf8, place_at, require_file
from ragsearch.errors import Mistake


class Line(NamedTuple):
    """A line of a file of lines, the blanks around it removed."""

    number: int
    """Counted from 1."""
    text: str
    """Never empty."""


def read_lines(path: Path) -> Iterator[Line | Mistake]:
    """Give the lines of a file, each of which must hold something.

    Returns:
        Lines, and mistakes in the place of lines that are empty or no UTF-8.

    Raises:
        BadInputError: If there is no such file.
    """
    require_file(path)
    return guarded(path, _read_lines)


def _read_lines(path: Path) -> Iterator[Line | Mistake]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Mistake(place_at(path, number), "", not_utf8(error))
                continue
            if text:
                yield Line(number, text)
            else:
                what = "is empty; give text, or drop the line here and in the file beside it"
                yield Mistake(place_at(path, number), "", what)


def pairs_of_lines(left: Path, right: Path) -> Iterator[tuple[Line, Line] | Mistake]:
    """Give the lines of two files that belong together.

    Yields:
        Pairs, and mistakes for lines that cannot be read or have no partner.
    """
    both = zip_longest(read_lines(left), read_lines(right))
    for number, (mine, other) in enumerate(both, start=1):
        if mine is None or other is None:
            longer, shorter = (left, right) if other is None else (right, left)
            what = (
                f"has no partner: {shorter} ends after {number - 1} lines; both must be equal"
            )
            yield Mistake(place_at(longer, number), "", f"{what} in length")
            return
        if isinstance(mine, Line) and isinstance(other, Line):
            yield mine, other
            continue
        yield from (each for each in (mine, other) if isinstance(each, Mistake))


def read_source(path: Path) -> Iterator[Row | Mistake]:
    """Read questions, one a line, with one answer a line in the `.target` file beside them.

    Yields:
        Rows, and mistakes for lines that cannot be read or have no partner.
    """
    for pair in pairs_of_lines(path, path.with_suffix(".target")):
        if isinstance(pair, Mistake):
            yield pair
        else:
            asked, answer = pair
            values = {"question": asked.text, "answers": [answer.text]}
            yield Row(asked.number, asked.number, values)
