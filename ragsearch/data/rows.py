"""Rows of a file as mappings, each with its place: jsonl, tsv, csv, parquet, source and target.

In: a path. Out: one `Row` at a time, or the `Mistake` that stands where a row should.
Streaming: a row is forgotten as soon as it was handed on. Knows nothing of what rows mean.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from ragsearch.errors import BadInputError, Mistake

Item = TypeVar("Item")
MAX_MISTAKES = 20  # one screen; a file with more has one cause, not twenty


class Row(NamedTuple):
    """One record of a file."""

    mark: int
    """Its line, or its number where the format has no lines; see `place_at`."""
    number: int
    """Counts records from 1; header and blank lines are not counted."""
    values: Mapping[str, object]


def place_at(path: Path, mark: int) -> str:
    """Return the place of a row as `file:line`, or as `file: row N` in parquet."""
    return f"{path}: row {mark}" if path.suffix == ".parquet" else f"{path}:{mark}"


class BadRowError(ValueError):
    """What is wrong with one row, in words; its reader makes it a mistake with a place."""


class MistakeList:
    """Mistakes of one file: keeps the first `MAX_MISTAKES`, counts the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[Mistake] = []
        self._n_left_out = 0

    def __len__(self) -> int:
        return len(self._kept) + self._n_left_out

    def add(self, mistake: Mistake) -> None:
        """Keep a mistake, or count it."""
        if len(self._kept) < MAX_MISTAKES:
            self._kept.append(mistake)
        else:
            self._n_left_out += 1

    def to_tuple(self) -> tuple[Mistake, ...]:
        """Return the mistakes, with "and N more" as the last where some were left out."""
        if not self._n_left_out:
            return tuple(self._kept)
        more = f"and {self._n_left_out} more mistakes in this file"
        return (*self._kept, Mistake(str(self._path), "", more))

    def raise_if_any(self) -> None:
        """Raise what was gathered, if anything was.

        Raises:
            BadInputError: If there is at least one mistake.
        """
        if self._kept:
            raise BadInputError(self.to_tuple())


def open_rows(path: Path, suffixes: Iterable[str]) -> Iterator[Row | Mistake]:
    """Give the records of a file, of which the suffix names the format.

    Args:
        path: The file; `~` is not expanded.
        suffixes: The formats the caller supports, such as `.jsonl`.

    Returns:
        Rows, and mistakes in the place of rows that cannot be read.

    Raises:
        BadInputError: If there is no such file, or its suffix is not one of `suffixes`.
    """
    require_file(path)
    allowed = tuple(suffixes)
    if path.suffix not in allowed:
        what = f"has suffix '{path.suffix}'; supported are {', '.join(allowed)}"
        raise BadInputError([Mistake(str(path), "", what)])
    return _guarded(path, _READERS[path.suffix])


def require_file(path: Path) -> None:
    """Refuse a path that is not a file.

    Raises:
        BadInputError: If the path is missing, a folder, or cannot be looked up.
    """
    try:
        if path.is_file():
            return
        what = "is a folder; give a file" if path.is_dir() else "no such file"
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    raise BadInputError([Mistake(str(path), "", what)])


def _guarded(
    path: Path, read: Callable[[Path], Iterator[Item | Mistake]]
) -> Iterator[Item | Mistake]:
    try:
        yield from read(path)
    except OSError as error:
        yield Mistake(str(path), "", f"cannot be read: {error.strerror or error}")


def _read_jsonl(path: Path) -> Iterator[Row | Mistake]:
    number = 0
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            number += 1
            try:
                yield Row(line_number, number, _json_object(line))
            except BadRowError as error:
                yield Mistake(place_at(path, line_number), "", str(error))


def _json_object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRowError(_not_utf8(error)) from error
    except json.JSONDecodeError as error:
        msg = f"is not JSON: {error.msg} at column {error.colno}; give one object a line"
        raise BadRowError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"is not usable JSON: {error}; give one object a line"
        raise BadRowError(msg) from error
    if not isinstance(value, dict):
        msg = f"is {kind_of(value)}; give one JSON object a line"
        raise BadRowError(msg)
    return value


def _read_csv(path: Path) -> Iterator[Row | Mistake]:
    return _read_cells(path, ",")


def _read_tsv(path: Path) -> Iterator[Row | Mistake]:
    return _read_cells(path, "\t")


def _read_cells(path: Path, delimiter: str) -> Iterator[Row | Mistake]:
    with path.open("rb") as file:
        lines = _Utf8Lines(file)
        try:
            yield from _cells_to_rows(
                path, csv.reader(lines, delimiter=delimiter, strict=True), lines
            )
        except UnicodeDecodeError as error:
            yield _end_of_reading(path, lines, _not_utf8(error))
        except csv.Error as error:
            yield _end_of_reading(path, lines, f"is malformed: {error}")


def _end_of_reading(path: Path, lines: "_Utf8Lines", what: str) -> Mistake:
    return Mistake(place_at(path, lines.n_read), "", what + "; nothing after it was read")


class _Utf8Lines:
    """Decoded lines of a binary file; knows which line an error is on."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines = iter(file)
        self.n_read = 0

    def __iter__(self) -> "_Utf8Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.n_read += 1
        return line.decode("utf-8-sig" if self.n_read == 1 else "utf-8")


def _cells_to_rows(
    path: Path, table: Iterable[list[str]], lines: _Utf8Lines
) -> Iterator[Row | Mistake]:
    header: list[str] | None = None
    number, next_line = 0, 1
    for cells in table:
        mark, next_line = next_line, lines.n_read + 1
        if not cells:
            continue
        if header is None:
            header = cells
            continue
        number += 1
        if len(cells) != len(header):
            what = f"has {len(cells)} cells, but the header has {len(header)}"
            yield Mistake(place_at(path, mark), "", what)
        else:
            yield Row(mark, number, dict(zip(header, cells, strict=True)))


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
    return _guarded(path, _read_lines)


def _read_lines(path: Path) -> Iterator[Line | Mistake]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Mistake(place_at(path, number), "", _not_utf8(error))
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


def _read_source(path: Path) -> Iterator[Row | Mistake]:
    """Read questions, one a line, with one answer a line in the `.target` file beside them."""
    for pair in pairs_of_lines(path, path.with_suffix(".target")):
        if isinstance(pair, Mistake):
            yield pair
        else:
            asked, answer = pair
            values = {"question": asked.text, "answers": [answer.text]}
            yield Row(asked.number, asked.number, values)


def _read_parquet(path: Path) -> Iterator[Row | Mistake]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, number, values)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0].rstrip(".")
        yield Mistake(str(path), "", f"is not a readable parquet file: {first_line}")


_READERS: Mapping[str, Callable[[Path], Iterator[Row | Mistake]]] = {
    ".jsonl": _read_jsonl,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".source": _read_source,
}


def kind_of(value: object) -> str:
    """Return what the author of a JSON value would call it: text, a number, a list."""
    if value is None:
        return "null"
    names = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    return (names | {list: "a list", dict: "an object"}).get(type(value), type(value).__name__)


def text_of(values: Mapping[str, object], key: str) -> str:
    """Return a required text, with the blanks around it removed.

    Raises:
        BadRowError: If it is missing, not text, blank, or cannot be written as UTF-8.
    """
    if values.get(key) is None:
        raise BadRowError(f"is missing; this row has {', '.join(values) or 'no columns'}")
    text = clean(values[key])
    if not text:
        raise BadRowError("is empty; give text or drop the row")
    return text


def clean(value: object) -> str:
    """Return text with the blanks around it removed.

    Raises:
        BadRowError: If it is not text, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise BadRowError(f"must be text, not {kind_of(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"holds half a surrogate pair at sign {error.start + 1}") from error
    return value.strip()


def as_id(value: object) -> str:
    """Return an id as text.

    Raises:
        BadRowError: If the id is neither text nor a whole number, or is blank.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not (text := clean(value)):
        raise BadRowError("is empty; give an id, or leave the column out")
    return text


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
