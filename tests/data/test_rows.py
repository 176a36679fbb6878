from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ragsearch.data.rows import (
    MAX_MISTAKES,
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

ALL = (".jsonl", ".tsv", ".csv", ".parquet")


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_jsonl_rows_carry_their_line_and_skip_blank_ones(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xc3\xa9"}')

    assert list(open_rows(path, ALL)) == [Row(1, 1, {"a": 1}), Row(4, 2, {"a": "é"})]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_rows_of_cells_carry_the_line_they_start_in(tmp_path: Path, name: str, mark: str):
    text = f'id{mark}text\n1{mark}"two\nlines"\n\n2{mark}"a {mark} b"\n'
    path = write(tmp_path, name, text.encode("utf-8-sig"))

    assert list(open_rows(path, ALL)) == [
        Row(2, 1, {"id": "1", "text": "two\nlines"}),
        Row(5, 2, {"id": "2", "text": f"a {mark} b"}),
    ]


def test_parquet_rows_are_counted(tmp_path: Path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": ["x", None], "b": [["1"], []]}), path)

    assert list(open_rows(path, ALL)) == [
        Row(1, 1, {"a": "x", "b": ["1"]}),
        Row(2, 2, {"a": None, "b": []}),
    ]
    assert place_at(path, 2) == f"{path}: row 2"


@pytest.mark.parametrize(
    ("name", "content", "place", "what"),
    [
        (
            "a.jsonl",
            b"{\n",
            ":1",
            "is not JSON: Expecting property name enclosed in double quo",
        ),
        ("a.jsonl", b'{}\n{"a": 1 "b"}', ":2", "is not JSON: Expecting ',' delimiter at colu"),
        ("a.jsonl", b"[1]", ":1", "is a list; give one JSON object a line"),
        ("a.jsonl", b'"a"', ":1", "is text; give one JSON object a line"),
        ("a.jsonl", b"{}\n\xff{}", ":2", "is not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("a.jsonl", b"[" * 100_000, ":1", "is not usable JSON: maximum recursion depth"),
        ("a.jsonl", b"9" * 5000, ":1", "is not usable JSON: Exceeds the limit (4300 digits)"),
        ("a.csv", b"a,b\n1\n", ":2", "has 1 cells, but the header has 2"),
        ("a.csv", b"a,b\n1,2,3\n", ":2", "has 3 cells, but the header has 2"),
        ("a.csv", b"a,b\n1,2\n\xe9,2\n", ":3", "is not UTF-8 (byte 0xe9); save the file as UT"),
        ("a.tsv", b'a\tb\n1\t"x"y\n', ":2", "is malformed: '\t' expected after '\"'; nothing"),
        ("a.csv", b'a,b\n1,"x\n2,y\n', ":3", "is malformed: unexpected end of data; nothing"),
        ("a.parquet", b"PAR0", "", "is not a readable parquet file: Parquet file size is 4"),
    ],
)
def test_a_broken_row_is_a_mistake_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str, what: str
):
    path = write(tmp_path, name, content)
    [mistake] = [item for item in open_rows(path, ALL) if isinstance(item, Mistake)]

    assert mistake.place == f"{path}{place}"
    assert mistake.what.startswith(what)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.jsonl", "no.jsonl: no such file"),
        ("", "is a folder; give a file"),
        ("a.txt", "has suffix '.txt'; supported are .jsonl, .tsv, .csv, .parquet"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(tmp_path: Path, name: str, message: str):
    write(tmp_path, "a.txt", b"")

    with pytest.raises(BadInputError, match=message):
        open_rows(tmp_path / name, ALL)


def test_a_file_that_vanishes_is_a_mistake(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", b"{}")
    items = open_rows(path, ALL)
    path.unlink()

    assert list(items) == [Mistake(str(path), "", "cannot be read: No such file or directory")]


def test_only_so_many_mistakes_are_kept_and_the_rest_counted(tmp_path: Path):
    mistakes = MistakeList(tmp_path)
    for n in range(MAX_MISTAKES + 7):
        mistakes.add(Mistake("f", "", str(n)))

    assert len(mistakes) == MAX_MISTAKES + 7
    with pytest.raises(BadInputError, match="and 7 more mistakes in this file") as caught:
        mistakes.raise_if_any()
    assert len(caught.value.mistakes) == MAX_MISTAKES + 1


def test_no_mistakes_raise_nothing(tmp_path: Path):
    MistakeList(tmp_path).raise_if_any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "is missing; this row has no columns"),
        ({"txt": "a", "id": 1}, "is missing; this row has txt, id"),
        ({"text": None}, "is missing"),
        ({"text": " \n"}, "is empty; give text or drop the row"),
        ({"text": 3}, "must be text, not a number"),
        ({"text": "a\ud800"}, "holds half a surrogate pair at sign 2"),
    ],
)
def test_a_required_text_must_be_there(values: dict[str, object], message: str):
    with pytest.raises(BadRowError, match=message):
        text_of(values, "text")


def test_ids_may_be_whole_numbers_and_nothing_odd():
    assert [as_id(7), as_id(" a ")] == ["7", "a"]
    with pytest.raises(BadRowError, match="must be text, not true or false"):
        as_id(value=True)
    with pytest.raises(BadRowError, match="is empty; give an id, or leave the column out"):
        as_id(" ")


def test_kinds_are_named_as_people_do():
    kinds = [kind_of(value) for value in (None, "a", True, 1, 1.5, [], {}, b"")]

    assert kinds == [
        "null", "text", "true or false", "a number", "a number", "a list", "an object", "bytes",
    ]  # fmt: skip
    assert clean(" a ") == "a"
