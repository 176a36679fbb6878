import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ragsearch.data import CorpusRow, iter_corpus
from ragsearch.errors import BadInputError

ROWS = [CorpusRow("a", "T", "one text"), CorpusRow("2", "", "two texts")]


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "kb.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_texts_are_read_and_missing_ids_are_row_numbers(tmp_path: Path):
    path = write_lines(
        tmp_path, {"id": "a", "title": "T", "text": "one text "}, {"text": "two texts"}
    )

    assert list(iter_corpus(path)) == ROWS


@pytest.mark.parametrize(("name", "mark"), [("kb.csv", ","), ("kb.tsv", "\t")])
def test_texts_in_cells_are_read(tmp_path: Path, name: str, mark: str):
    path = tmp_path / name
    lines = [("id", "title", "text"), ("a", "T", "one text"), ("2", "", "two texts")]
    path.write_text("".join(mark.join(line) + "\n" for line in lines))

    assert list(iter_corpus(path)) == ROWS


def test_parquet_texts_are_read(tmp_path: Path):
    path = tmp_path / "kb.parquet"
    columns = {"id": ["a", None], "title": ["T", None], "text": ["one text", "two texts"]}
    parquet.write_table(pa.table(columns), path)

    assert list(iter_corpus(path)) == ROWS


def test_a_folder_of_text_files_is_a_corpus(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "Two.txt").write_text("zwei\n")
    (tmp_path / "One.txt").write_text("éins", encoding="utf-8-sig")
    (tmp_path / "notes.md").write_text("no text")

    assert list(iter_corpus(tmp_path)) == [
        CorpusRow("One.txt", "One", "éins"),
        CorpusRow("b/Two.txt", "Two", "zwei"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "title": "T"}, "text: is missing; this row has id, title"),
        ({"text": ""}, "text: is empty; give text or drop the row"),
        ({"text": ["a"]}, "text: must be text, not a list"),
        ({"text": "a", "title": 3}, "title: must be text, not a number"),
        ({"text": "a", "id": 1.5}, "id: must be text, not a number"),
        ([], "is a list; give one JSON object a line"),
    ],
)
def test_a_wrong_row_is_a_mistake_after_the_last_row(tmp_path: Path, row: object, message: str):
    path = write_lines(tmp_path, row, {"id": "x", "text": "fine"})
    texts = iter_corpus(path)

    assert next(texts).id == "x"
    with pytest.raises(BadInputError) as caught:
        next(texts)
    assert str(caught.value).startswith(f"{path}:1: {message}")


def test_repeated_ids_name_both_lines(tmp_path: Path):
    rows = [{"id": row_id, "text": "t"} for row_id in ("a", "b", "a", "b", "a")]

    with pytest.raises(BadInputError) as caught:
        list(iter_corpus(write_lines(tmp_path, *rows)))

    assert [str(mistake).partition(".jsonl")[2] for mistake in caught.value.mistakes] == [
        ":3: id: repeats the id of line 1; every text needs its own",
        ":4: id: repeats the id of line 2; every text needs its own",
        ":5: id: repeats the id of line 1; every text needs its own",
    ]


def test_a_given_id_must_differ_from_the_row_numbers_of_others(tmp_path: Path):
    with pytest.raises(BadInputError, match=":2: id: repeats the id of line 1"):
        list(iter_corpus(write_lines(tmp_path, {"text": "a"}, {"id": 1, "text": "b"})))


def test_repeated_ids_in_parquet_name_both_rows(tmp_path: Path):
    path = tmp_path / "kb.parquet"
    parquet.write_table(pa.table({"id": ["a", "a"], "text": ["x", "y"]}), path)

    with pytest.raises(BadInputError, match=r"parquet: row 2: id: repeats the id of row 1;"):
        list(iter_corpus(path))


@pytest.mark.parametrize("name", ["kb.jsonl", "kb.csv", "kb.tsv"])
def test_an_empty_corpus_is_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text("" if name.endswith("l") else "id\n")

    with pytest.raises(BadInputError, match=f"{name}: is an empty corpus; it holds no rows"):
        list(iter_corpus(path))


def test_a_folder_without_texts_is_refused(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"is an empty corpus; it holds no \*.txt files"):
        list(iter_corpus(tmp_path))


def test_bad_text_files_are_named(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_text(" \n")

    with pytest.raises(BadInputError) as caught:
        list(iter_corpus(tmp_path))

    assert [str(mistake) for mistake in caught.value.mistakes] == [
        f"{tmp_path}/a.txt: is not UTF-8; save the file as UTF-8",
        f"{tmp_path}/b.txt: is empty; give text or remove the file",
    ]


def test_a_missing_corpus_is_refused(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"no.jsonl: no such file"):
        list(iter_corpus(tmp_path / "no.jsonl"))


def test_reading_holds_ids_as_hashes_and_no_texts(tmp_path: Path):
    n_rows, n_characters = 4000, 2000
    path = write_lines(
        tmp_path, *({"id": f"p{i}", "text": "x" * n_characters} for i in range(n_rows))
    )
    tracemalloc.start()
    n_read = sum(1 for _ in iter_corpus(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert n_read == n_rows
    assert peak_bytes < 200 * n_rows < n_rows * n_characters


@pytest.mark.parametrize("header", ["", "title\ttext\n", "text\ttitle\n"])
def test_a_csv_of_the_original_scripts_is_read(tmp_path: Path, header: str):
    path = tmp_path / "kb.csv"
    columns = header.split() or ["title", "text"]
    rows = [("Aaron", "Aaron, a prophet"), ('"Abel, a ""son"""', "Abel \"said\" 'no'")]
    cells = [dict(zip(("title", "text"), row, strict=True)) for row in rows]
    path.write_text(
        header + "".join("\t".join(row[c] for c in columns) + "\n" for row in cells)
    )

    assert list(iter_corpus(path)) == [
        CorpusRow("1", "Aaron", "Aaron, a prophet"),
        CorpusRow("2", 'Abel, a "son"', "Abel \"said\" 'no'"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Title\tContent\nAaron\ta prophet\n", ":2: text: is missing; this row has Title, Con"),
        ("Aaron\ta\tb\nAbel\tc\td\n", ":2: text: is missing; this row has Aaron, a, b"),
        ("Aaron\ta\nAbel\n", ":2: has 1 cells, but without a header a row has 2"),
        ("name,content\nAaron,a prophet\n", ":2: text: is missing; this row has name, content"),
    ],
)
def test_a_csv_that_cannot_be_told_apart_is_refused(tmp_path: Path, lines: str, message: str):
    path = tmp_path / "kb.csv"
    path.write_text(lines)

    with pytest.raises(BadInputError) as caught:
        list(iter_corpus(path))
    assert str(caught.value).startswith(f"{path}{message}")
