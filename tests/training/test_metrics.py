import pytest

from ragsearch.training.metrics import contains_answer, exact_match, f1, normalise_answer


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


def test_an_answer_is_found_in_a_text_as_whole_words_only() -> None:
    assert contains_answer("Length: the 12 km.", ["12 km"])
    assert not contains_answer("112 km", ["12 km"])
    assert not contains_answer("anything", ["the"])
