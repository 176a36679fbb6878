"""Intervals of means and differences: against formulas, and by simulation."""

import numpy as np
import pytest

from ragsearch.search.bootstrap import Interval, Scores, bootstrap

BASELINE, WINNER = 0, 7


def scores_of(by_seed_and_question: np.ndarray) -> Scores:
    return Scores(by_seed_and_question, np.ones_like(by_seed_and_question))


def test_the_interval_of_one_seed_is_that_of_the_binomial():
    right = np.zeros((1, 400))
    right[0, :100] = 1.0

    found = bootstrap({0: scores_of(right)}).mean(0)

    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.value == 0.25
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.004)


def test_seeds_that_differ_widen_the_interval_as_student_has_it():
    scores = scores_of(np.array([[0.4] * 50, [0.5] * 50, [0.6] * 50]))  # no chance in questions

    found = bootstrap({0: scores}).mean(0)

    half = 4.303 * 0.1 / np.sqrt(3)  # t of 2 degrees of freedom, 97.5 %
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=0.08)


def test_what_is_hard_for_both_cancels_out_in_their_difference():
    hard = np.random.default_rng(5).random((1, 300)) < 0.5
    one, other = hard.astype(float), hard.astype(float)
    other[0, np.flatnonzero(hard[0])[:30]] = 0.0

    found = bootstrap({WINNER: scores_of(one), BASELINE: scores_of(other)})

    gain = found.difference(WINNER, BASELINE)
    assert gain.value == pytest.approx(0.1)
    assert not gain.holds_zero
    half = 1.96 * np.sqrt(0.1 * 0.9 / 300)  # 30 of 300 questions differ, all one way
    assert (gain.low, gain.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.005)
    means = [found.mean(number) for number in (WINNER, BASELINE)]
    assert means[0].low < means[1].high  # apart from each other they tell nothing


def test_a_model_against_itself_differs_by_nothing():
    scores = scores_of(np.random.default_rng(1).random((3, 40)))

    found = bootstrap({0: scores, 1: scores})

    assert found.difference(1, 0) == Interval(0.0, 0.0, 0.0)
    assert found.difference(1, 0).holds_zero


def test_a_mean_a_token_weighs_questions_by_their_tokens():
    sums, counts = np.array([[2.0, 9.0]]), np.array([[1.0, 9.0]])

    found = bootstrap({0: Scores(sums, counts)}).mean(0)

    assert found.value == pytest.approx(11 / 10)
    assert (found.low, found.high) == (1.0, 2.0)


def test_equal_seeds_draw_the_same_and_other_seeds_others():
    scores = {0: scores_of(np.random.default_rng(1).random((2, 40)))}

    assert bootstrap(scores, seed=4).mean(0) == bootstrap(scores, seed=4).mean(0)
    assert bootstrap(scores, seed=4).mean(0) != bootstrap(scores, seed=5).mean(0)


def test_draws_that_do_not_fit_at_once_are_drawn_in_parts(monkeypatch):
    scores = {0: scores_of(np.random.default_rng(1).random((2, 40)))}
    at_once = bootstrap(scores, n_resamples=500).mean(0)

    monkeypatch.setattr("ragsearch.search.bootstrap._CELLS", 40 * 7)

    assert bootstrap(scores, n_resamples=500).mean(0) == at_once


def test_scores_of_other_questions_are_not_compared():
    scores = {0: scores_of(np.ones((2, 4))), 1: scores_of(np.ones((2, 5)))}

    with pytest.raises(AssertionError, match="of the same seeds and questions"):
        bootstrap(scores)


@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.04, 0.1])
def test_the_true_difference_lies_in_19_of_20_intervals(seed_sd):
    """How hard questions are and how lucky seeds are is drawn; the truth is free of luck."""
    n_searches, n_questions, n_seeds, gain = 400, 200, 3, 0.05
    chance = np.random.default_rng(11)
    n_held = 0
    for _ in range(n_searches):
        hard = chance.uniform(0.2, 0.7, size=n_questions)
        right = {}
        for number, better in ((BASELINE, 0.0), (WINNER, gain)):
            luck = chance.normal(0.0, seed_sd, size=(n_seeds, 1))
            probability = np.clip(hard + better + luck, 0.0, 1.0)
            right[number] = scores_of(
                (chance.random((n_seeds, n_questions)) < probability).astype(float)
            )
        found = bootstrap(right, n_resamples=400).difference(WINNER, BASELINE)
        n_held += found.low <= gain <= found.high

    assert 0.94 <= n_held / n_searches < 1.0  # 0.95 is meant
