"""The texts of a corpus, from a file of rows or a folder of text files, checked on the way.

In: a path. Out: one `CorpusRow` at a time; after the last one, every mistake at once.
Streaming: of a corpus of N rows only 16 N bytes of hashed ids stay in memory.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ragsearch.data.ids import IdLedger
from ragsearch.data.rows import (
    BadRowError,
    MistakeList,
    Row,
    as_id,
    clean,
    open_rows,
    place_at,
    read_cells,
    text_of,
)
from ragsearch.errors import BadInputError, Mistake

_TITLED = ["title", "text"]
_HEADINGS = {"title", "text", "id", "content", "passage", "body"}
"""First cells that are names of columns, not a title and a text."""
CORPUS_SUFFIXES = (".jsonl", ".tsv", ".csv", ".parquet")


class CorpusRow(NamedTuple):
    """One text of a corpus."""

    id: str
    title: str
    """Empty where the corpus gives none."""
    text: str


class PlacedText(NamedTuple):
    """A text of a corpus and where it stands."""

    place: str
    row: CorpusRow


def iter_corpus(path: Path) -> Iterator[CorpusRow]:
    """Give the texts of a corpus in the order of the file, or of the file names.

    A row without `id` gets its number, counted from 1; a text file gets its path in the
    folder as id and its stem as title.

    Args:
        path: A jsonl, tsv, csv or parquet file with `text` and, where they are known, `id`
            and `title`; a csv with tabs and two columns may do without a header, and has then
            title and text; or a folder with `*.txt` files at any depth.

    Yields:
        Rows without a mistake, while there was none; rows after a first mistake too.

    Raises:
        BadInputError: After the last row, with every mistake (at most 20, and a count).
    """
    for placed in iter_placed_corpus(path):
        yield placed.row


def iter_placed_corpus(path: Path) -> Iterator[PlacedText]:
    """Give the texts of a corpus as `iter_corpus` does, each with its place.

    Yields:
        Rows without a mistake.

    Raises:
        BadInputError: After the last row, with every mistake (at most 20, and a count).
    """
    mistakes = MistakeList(path)
    is_empty = True
    for item in _read_folder(path) if path.is_dir() else _read_file(path):
        is_empty = False
        if isinstance(item, Mistake):
            mistakes.add(item)
        else:
            yield item
    if is_empty:
        wanted = "*.txt files" if path.is_dir() else "rows"
        what = f"is an empty corpus; it holds no {wanted}"
        raise BadInputError([Mistake(str(path), "", what)])
    mistakes.raise_if_any()


def _read_file(path: Path) -> Iterator[PlacedText | Mistake]:
    ledger = IdLedger()
    for row in open_rows(path, CORPUS_SUFFIXES, {".csv": _read_csv}):
        if isinstance(row, Mistake):
            yield row
            continue
        read = _corpus_row(path, row)
        if isinstance(read, PlacedText):
            ledger.add(read.row.id, row.mark)
        yield read
    for again, first in ledger.repeated():
        what = f"repeats the id of row {first}; every text needs its own"
        if path.suffix != ".parquet":
            what = what.replace("row", "line")
        yield Mistake(place_at(path, again), "id", what)


def _read_csv(path: Path) -> Iterator[Row | Mistake]:
    """Read a csv of texts, also one with tabs, and then also without a header: title, text.

    The original scripts have such files. They can be told from others by their first line: a
    csv of texts has a column `text`, or it cannot be used.

    Yields:
        Rows, and mistakes in the place of rows that cannot be read.
    """
    first = _first_line(path)
    if "text" in next(csv.reader([first]), []):
        yield from read_cells(path, ",")
        return
    cells = next(csv.reader([first], delimiter="\t"), [])
    names = {cell.strip().lower() for cell in cells}
    is_bare = len(cells) == len(_TITLED) and names.isdisjoint(_HEADINGS)
    delimiter = "\t" if len(cells) > 1 else ","
    yield from read_cells(path, delimiter, _TITLED if is_bare else None)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")


def _corpus_row(path: Path, row: Row) -> PlacedText | Mistake:
    place = place_at(path, row.mark)
    key = "text"
    try:
        text = text_of(row.values, "text")
        key = "title"
        title = clean(row.values.get("title") or "")
        key = "id"
        given = row.values.get("id")
        row_id = str(row.number) if given is None else as_id(given)
    except BadRowError as error:
        return Mistake(place, key, str(error))
    return PlacedText(place, CorpusRow(row_id, title, text))


def _read_folder(path: Path) -> Iterator[PlacedText | Mistake]:
    for file in sorted(path.rglob("*.txt")):
        if file.is_file():
            yield _text_file(file, file.relative_to(path).as_posix())


def _text_file(file: Path, row_id: str) -> PlacedText | Mistake:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        return Mistake(str(file), "", "is not UTF-8; save the file as UTF-8")
    except OSError as error:
        return Mistake(str(file), "", f"cannot be read: {error.strerror}")
    if not text:
        return Mistake(str(file), "", "is empty; give text or remove the file")
    return PlacedText(str(file), CorpusRow(row_id, file.stem, text))
