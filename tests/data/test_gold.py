from pathlib import Path

import pytest

from ragsearch.data.gold import Gold, GoldFormat, read_judged
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
