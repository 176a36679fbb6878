"""Rows of a file as mappings, each with its place: jsonl, tsv, csv and parquet.

In: a path. Out: one `Row` at a time, or the `Mistake` that stands where a row should.
Streaming: a row is forgotten as soon as it was handed on. Knows nothing of what rows mean.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
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


Reader = Callable[[Path], Iterator["Row | Mistake"]]


def open_rows(
    path: Path, suffixes: Iterable[str], others: Mapping[str, Reader] | None = None
) -> Iterator[Row | Mistake]:
    """Give the records of a file, of which the suffix names the format.

    Args:
        path: The file; `~` is not expanded.
        suffixes: The formats the caller supports, such as `.jsonl`.
        others: Readers by suffix, instead of the usual ones.

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
    readers = {**_READERS, **(others or {})}
    return guarded(path, readers[path.suffix])


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


def guarded(
    path: Path, read: Callable[[Path], Iterator[Item | Mistake]]
) -> Iterator[Item | Mistake]:
    """Read a file, and end with a mistake where the system gives no more of it.

    Yields:
        What the reader yields.
    """
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
        raise BadRowError(not_utf8(error)) from error
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
    return read_cells(path, ",")


def _read_tsv(path: Path) -> Iterator[Row | Mistake]:
    return read_cells(path, "\t")


def read_cells(
    path: Path, delimiter: str, header: list[str] | None = None
) -> Iterator[Row | Mistake]:
    """Read a table of cells; without a header given, its first line is one.

    Yields:
        Rows, and mistakes in the place of rows that cannot be read.
    """
    with path.open("rb") as file:
        lines = _Utf8Lines(file)
        try:
            table = csv.reader(lines, delimiter=delimiter, strict=True)
            yield from _cells_to_rows(path, table, lines, header)
        except UnicodeDecodeError as error:
            yield _end_of_reading(path, lines, not_utf8(error))
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
    path: Path, table: Iterable[list[str]], lines: _Utf8Lines, header: list[str] | None
) -> Iterator[Row | Mistake]:
    wanted = "the header has" if header is None else "without a header a row has"
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
            what = f"has {len(cells)} cells, but {wanted} {len(header)}"
            yield Mistake(place_at(path, mark), "", what)
        else:
            yield Row(mark, number, dict(zip(header, cells, strict=True)))


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


_READERS: Mapping[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
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


def not_utf8(error: UnicodeDecodeError) -> str:
    """Return what to say of bytes that are no UTF-8."""
    return f"is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
