from pathlib import Path

import pytest

from ragsearch.data.lines import Gold, GoldFormat, read_judged
from ragsearch.data.questions import read_questions
from ragsearch.errors import BadInputError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write(tmp_path / "questions.txt", "who?", "Where is it?")


def mistakes_of(data: Path, gold: Gold | None) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        read_judged(data, gold)
    return [str(mistake).replace(f"{data.parent}/", "") for mistake in caught.value.mistakes]


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


def test_qa_lines_have_a_python_list_of_answers(asked: Path, tmp_path: Path) -> None:
    gold = write(
        tmp_path / "gold.tsv", """who\t['me', "it's me"]""", 'where is it\t"[""O\'Brien""]"'
    )

    beside = read_judged(asked, Gold("qa", gold))
    alone = read_judged(gold, Gold("qa"))

    assert [one.answers for one in beside] == [("me", "it's me"), ("O'Brien",)]
    assert [one.question for one in beside] == ["who?", "Where is it?"]
    assert [one.question for one in alone] == ["who", "where is it"]
    assert [one.answers for one in alone] == [one.answers for one in beside]


def test_ans_lines_have_one_answer_each(asked: Path, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.txt", "['me']", "here\tor there")

    questions = read_judged(asked, Gold("ans", gold))

    assert [one.answers for one in questions] == [("['me']",), ("here\tor there",)]
    assert len(read_judged(asked, Gold("ans", gold), limit=1)) == 1


def test_titles_are_parted_by_tabs(asked: Path, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.tsv", "Aaron\tMoses (prophet)", "Egypt")

    questions = read_judged(asked, Gold("titles", gold))

    assert [one.titles for one in questions] == [("Aaron", "Moses (prophet)"), ("Egypt",)]
    assert [one.answers for one in questions] == [(), ()]


def test_without_gold_a_file_says_itself_what_is_right(tmp_path: Path) -> None:
    data = write(
        tmp_path / "q.jsonl", '{"question": "who?", "answers": ["me"], "titles": ["A", " "]}'
    )

    (question,) = read_judged(data, None)

    assert (question.answers, question.titles) == (("me",), ("A",))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("who?", "has 0 tabs instead of one; write question, tab, ['answer', ...]"),
        ("who?\t['a']\t['b']", "has 2 tabs instead of one"),
        ("who?\tme", "has 'me' after the tab, which is no list; write ['one', \"two's\"]"),
        ("who?\t['me'", "has \"['me'\" after the tab, which is no list"),
        ("who?\t__import__('os')", "has \"__import__('os')\" after the tab, which is no list"),
        ("who?\t'me'", "has text after the tab; write a list: ['one', 'two']"),
        ("who?\t['me', 7]", "has 7 among its answers, which is no text; quote it"),
        ("who?\t[' ']", "has an empty list of answers; give one or drop the line"),
        ('" "\t["me"]', "has no question before the tab; give one or drop the line"),
    ],
)
def test_a_qa_line_that_does_not_parse_is_placed(tmp_path: Path, line: str, what: str) -> None:
    gold = write(tmp_path / "gold.tsv", "why?\t['so']", line)

    (found,) = mistakes_of(gold, Gold("qa"))

    assert found.startswith(f"gold.tsv:2: {what}")


def test_gold_for_other_questions_is_refused(asked: Path, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.tsv", "who?\t['me']", "When is it?\t['now']")

    (found,) = mistakes_of(asked, Gold("qa", gold))

    assert found == (
        "gold.tsv:2: question: is 'When is it?', but questions.txt:2 asks 'Where is it?'; "
        "the lines must agree"
    )


@pytest.mark.parametrize("gold_format", ["ans", "titles"])
def test_gold_without_questions_needs_a_file_of_its_own(
    asked: Path, gold_format: GoldFormat
) -> None:
    (found,) = mistakes_of(asked, Gold(gold_format))

    assert found == (
        f"--gold-format: is '{gold_format}', which needs a file of its own; give it with --gold"
    )
