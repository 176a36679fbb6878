import pytest

from ragsearch.training.metrics import (
    contains_answer,
    exact_match,
    f1,
    normalise_answer,
    rouge_l,
)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an Apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("U.S.", "us"),
        ("1,234 km", "1234 km"),
        ("Québec", "québec"),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


def test_any_of_the_answers_counts_as_an_exact_match() -> None:
    assert exact_match("the Nile.", ["Amazon", "nile"]) == 1.0
    assert exact_match("Nile river", ["nile"]) == 0.0


def test_f1_is_the_overlap_of_words_with_the_best_answer() -> None:
    assert f1("blue Nile river", ["nile river", "Amazon"]) == pytest.approx(0.8)
    assert f1("a b b", ["b b b"]) == pytest.approx(0.8)
    assert f1("Amazon", ["Nile"]) == 0.0


def test_f1_of_nothing_is_one_only_if_nothing_was_meant() -> None:
    assert f1("the", ["an"]) == 1.0
    assert f1("", ["Nile"]) == 0.0


def test_rouge_l_is_that_of_the_examples_of_its_paper() -> None:
    # Lin 2004, section 3.1: S1 is the reference, S2 and S3 share as many words with it
    reference = "police killed the gunman"

    assert rouge_l("police kill the gunman", [reference]) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", [reference]) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("the cat sat", ["The cat, sat!"], 1.0),  # articles count here, as in rouge-score
        ("a b c d", ["x", "a c e"], 2 * 2 / (4 + 3)),  # the best of the answers
        ("Québec 北京", ["québec"], 2 * 1 / (2 + 1)),
        ("c b a", ["a b c"], 1 / 3),  # the order counts
        ("a b a b", ["b a"], 2 * 2 / (4 + 2)),
        ("", ["?!"], 1.0),
        ("", ["Nile"], 0.0),
    ],
)
def test_rouge_l_is_the_longest_run_of_words_in_order(
    prediction: str, answers: list[str], score: float
) -> None:
    assert rouge_l(prediction, answers) == pytest.approx(score)


def test_an_answer_is_found_in_a_text_as_whole_words_only() -> None:
    assert contains_answer("Length: the 12 km.", ["12 km"])
    assert not contains_answer("112 km", ["12 km"])
    assert not contains_answer("anything", ["the"])
