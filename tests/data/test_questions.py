import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ragsearch.data import Question, read_questions
from ragsearch.errors import BadInputError

FULL = Question("q1", "Where?", ("here", "there"), ("p1", "7"))
BARE = Question("2", "Who, then?", ("me",), ())


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_questions_are_read(tmp_path: Path):
    path = write_lines(
        tmp_path,
        {"id": "q1", "question": " Where? ", "answers": ["here", " ", "there"],
         "passage_ids": ["p1", 7], "note": "ignored"},
        {"question": "Who, then?", "answers": "me"},
    )  # fmt: skip

    assert read_questions(path) == [FULL, BARE]


def test_csv_questions_are_read(tmp_path: Path):
    path = tmp_path / "qa.csv"
    path.write_text(
        "id,question,answers,passage_ids\n"
        'q1,Where?,"[""here"", ""there""]","[""p1"", 7]"\n'
        '2,"Who, then?",me,\n'
    )

    assert read_questions(path) == [FULL, BARE]


def test_parquet_questions_are_read(tmp_path: Path):
    path = tmp_path / "qa.parquet"
    table = {
        "id": ["q1", None],
        "question": ["Where?", "Who, then?"],
        "answers": [["here", "there"], ["me"]],
        "passage_ids": [["p1", "7"], None],
    }
    parquet.write_table(pa.table(table), path)

    assert read_questions(path) == [FULL, BARE]


def test_a_limit_reads_no_further(tmp_path: Path):
    path = write_lines(tmp_path, {"question": "Q", "answers": ["A"]}, {"broken": 1})

    assert len(read_questions(path, limit=1)) == 1


def test_one_passage_id_may_stand_without_a_list(tmp_path: Path):
    rows = [{"question": "Q", "answers": "A", "passage_ids": ids} for ids in (7, "p", "", None)]

    read = read_questions(write_lines(tmp_path, *rows))
    assert [question.passage_ids for question in read] == [("7",), ("p",), (), ()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["A"]}, "question: is missing; this row has answers"),
        ({"question": " ", "answers": ["A"]}, "question: is empty; give text or drop the row"),
        ({"question": 3, "answers": ["A"]}, "question: must be text, not a number"),
        ({"question": "Q"}, "answers: is missing; this row has question"),
        (
            {"question": "Q", "answer": "A"},
            "answers: is missing; this row has question, answer",
        ),
        ({"question": "Q", "answers": []}, "answers: is empty; give at least one answer or dr"),
        ({"question": "Q", "answers": [" ", ""]}, "answers: is empty; give at least one answ"),
        ({"question": "Q", "answers": ""}, "answers: is empty; give at least one answer"),
        ({"question": "Q", "answers": [1961]}, "answers: must be text, not a number"),
        ({"question": "Q", "answers": 7}, "answers: must be a list of texts, not a number"),
        ({"question": "Q", "answers": {"a": 1}}, "answers: must be a list of texts, not an o"),
        ({"question": "Q", "answers": "['a']"}, "answers: looks like a list but is not JSON;"),
        ({"question": "Q", "answers": "A", "passage_ids": 1.5}, "passage_ids: must be a list"),
        ({"question": "Q", "answers": "A", "passage_ids": [None]}, "passage_ids: must be tex"),
        ({"question": "Q", "answers": "A", "passage_ids": True}, "passage_ids: must be text,"),
        ({"question": "Q", "answers": "A", "passage_ids": [""]}, "passage_ids: is empty; giv"),
        ({"question": "Q", "answers": "A", "id": ""}, "id: is empty; give an id, or leave th"),
        ({"question": "Q", "answers": "A", "id": ["x"]}, "id: must be text, not a list"),
        ("Q", "is text; give one JSON object a line"),
    ],
)
def test_a_wrong_row_is_a_mistake_with_its_line(tmp_path: Path, row: object, message: str):
    path = write_lines(tmp_path, {"question": "Q0", "answers": ["A"]}, row)

    with pytest.raises(BadInputError) as caught:
        read_questions(path)

    assert len(caught.value.mistakes) == 1
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_a_repeated_id_names_both_places(tmp_path: Path):
    row = {"id": "x", "question": "Q", "answers": ["A"]}
    path = write_lines(tmp_path, row, {**row, "id": "y"}, row)

    with pytest.raises(
        BadInputError, match=r"qa.jsonl:3: id: 'x' already stands in .*jsonl:1;"
    ):
        read_questions(path)


def test_every_wrong_row_is_told_at_once(tmp_path: Path):
    path = write_lines(tmp_path, *[{"question": "Q"}] * 50)

    with pytest.raises(BadInputError, match="and 30 more mistakes in this file") as caught:
        read_questions(path)

    assert [mistake.place for mistake in caught.value.mistakes[:2]] == [
        f"{path}:1",
        f"{path}:2",
    ]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "qa.jsonl"
    path.write_text(content)

    with pytest.raises(BadInputError, match=r"qa.jsonl: holds no questions; give at least one"):
        read_questions(path)


def test_a_tsv_file_of_questions_is_refused_with_what_is_supported(tmp_path: Path):
    path = tmp_path / "qa.tsv"
    path.touch()

    with pytest.raises(
        BadInputError, match=r"suffix '.tsv'; supported are .jsonl, .csv, .parq"
    ):
        read_questions(path)
