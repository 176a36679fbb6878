from pathlib import Path

import pytest

from ragsearch.data.questions import read_questions
from ragsearch.errors import BadInputError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_source_file_has_its_answers_in_the_target_file_beside_it(tmp_path: Path) -> None:
    source = write(tmp_path / "val.source", "who?", "where? ")
    write(tmp_path / "val.target", "me", "here")

    questions = read_questions(source)

    assert [(one.id, one.question, one.answers) for one in questions] == [
        ("1", "who?", ("me",)),
        ("2", "where?", ("here",)),
    ]
    assert [one.id for one in read_questions(source, 1)] == ["1"]


def test_empty_lines_and_unequal_lengths_are_told_all_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "val.source", "who?", " ", "where?", "when?", "why?")
    write(tmp_path / "val.target", "me", "you", "", "now")

    with pytest.raises(BadInputError) as caught:
        read_questions(source)

    drop = "is empty; give text, or drop the line here and in the file beside it"
    assert [str(each).replace(f"{tmp_path}/", "") for each in caught.value.mistakes] == [
        f"val.source:2: {drop}",
        f"val.target:3: {drop}",
        f"val.source:5: has no partner: {tmp_path}/val.target ends after 4 lines; both must "
        "be equal in length".replace(f"{tmp_path}/", ""),
    ]


def test_a_target_file_may_not_be_longer_and_must_be_there(tmp_path: Path) -> None:
    source = write(tmp_path / "val.source", "who?")
    with pytest.raises(BadInputError, match=r"val\.target: no such file"):
        read_questions(source)

    write(tmp_path / "val.target", "me", "you")
    with pytest.raises(BadInputError, match=r"val\.target:2: has no partner: .*val\.source"):
        read_questions(source)


def test_a_line_that_is_no_utf8_is_placed(tmp_path: Path) -> None:
    source = tmp_path / "val.source"
    source.write_bytes(b"who?\nwh\xe9re?\n")
    write(tmp_path / "val.target", "me", "here")

    with pytest.raises(BadInputError, match=r"val\.source:2: is not UTF-8 \(byte 0xe9\)"):
        read_questions(source)
