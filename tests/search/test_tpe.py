"""TPE where there are very many trials: what it is shown, and what it still knows."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from ragsearch.search.record import STATUS_ATTR
from ragsearch.search.tpe import MOST, Tpe, all_placed

X = FloatDistribution(0.0, 1.0)
N_MORE = 400


def trial(x, value, state=TrialState.COMPLETE):
    return create_trial(
        state=state,
        value=value if state is TrialState.COMPLETE else None,
        params={"x": x},
        distributions={"x": X},
        intermediate_values={1: value},
    )


def study_of(trials, direction="maximize"):
    made = optuna.create_study(direction=direction)
    made.add_trials(trials)
    return made


def numbers(study):
    return [one.number for one in study.get_trials(deepcopy=False)]


def curve(state, *values, **attrs):
    return create_trial(
        state=state,
        value=max(values) if state is TrialState.COMPLETE else None,
        params={"x": 0.5},
        distributions={"x": X},
        intermediate_values=dict(enumerate(values, 1)),
        user_attrs=attrs,
    )


def places(study):
    return [one.value for one in all_placed(study).get_trials(deepcopy=False)]


def test_all_trials_are_shown_while_they_are_few():
    study = study_of([trial(0.5, 0.0)] * 20)

    assert numbers(all_placed(study)) == list(range(20))


def test_the_value_of_a_trial_is_the_share_of_others_it_is_ahead_of():
    study = study_of([
        curve(TrialState.PRUNED, 1.0),
        curve(TrialState.PRUNED, 2.0),
        curve(TrialState.COMPLETE, 3.0, 9.0, 8.0),
        curve(TrialState.COMPLETE, 5.0, 6.0, 7.0),
        curve(TrialState.RUNNING, 4.0, 8.0),
        curve(TrialState.RUNNING, 6.0),
    ])

    # of those at an epoch, half of its own place is behind each
    assert places(study) == pytest.approx([
        0.5 / 6,
        1.5 / 6,
        (2 + 1.5) / 4,
        (2 + 0.5) / 4,
        (2 + 1.5) / 5,
        5.5 / 6,
    ])


def test_what_is_to_be_small_is_turned():
    study = study_of(
        [curve(TrialState.PRUNED, 5.0), curve(TrialState.RUNNING, 3.0)], "minimize"
    )

    assert places(study) == [-0.25, -0.75]


@pytest.mark.parametrize("status", ["diverged", "infeasible"])
def test_bad_trials_are_compared_with_none(status):
    bad = curve(TrialState.PRUNED, 9.0, **{STATUS_ATTR: status})
    failed = curve(TrialState.FAIL, 9.0, **{STATUS_ATTR: "failed"})
    study = study_of([bad, failed, curve(TrialState.RUNNING, 1.0)])

    assert places(study) == [None, None, 0.5]


def test_a_score_that_is_no_number_is_behind_all_others():
    nan = curve(TrialState.PRUNED, math.nan)
    study = study_of([nan, curve(TrialState.PRUNED, -5.0)])

    assert places(study) == [0.25, 0.75]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_proposes_what_is_like_trials_that_run_and_do_well():
    rng = np.random.default_rng(1)
    study = study_of([trial(x, 0.1, TrialState.PRUNED) for x in rng.uniform(0.0, 1.0, 30)])
    for x in (0.88, 0.9, 0.92, 0.91):
        study.enqueue_trial({"x": x})
        study.ask({"x": X}).report(0.9, 1)

    proposed = []
    for seed in range(20):
        study.sampler = Tpe(seed, 10)
        proposed.append(study.ask({"x": X}).params["x"])

    assert np.mean([0.8 < x < 1.0 for x in proposed]) > 0.5


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_of_many_trials_the_best_and_the_latest_are_shown(direction, sign):
    values = [float(n % 200) for n in range(MOST + N_MORE)]
    study = study_of([trial(0.5, sign * value) for value in values], direction)

    seen = numbers(all_placed(study))

    assert len(seen) == MOST
    assert seen == sorted(seen)
    assert set(range(N_MORE + 100, MOST + N_MORE)) <= set(seen)  # the latest
    best = sorted(range(N_MORE + 100), key=lambda n: -values[n])[:25]
    assert set(best) <= set(seen)


def test_what_is_shown_does_not_depend_on_what_was_shown_before():
    values = np.random.default_rng(1).uniform(size=MOST + N_MORE).tolist()
    study = study_of([trial(0.5, value) for value in values])
    slow = study.ask({"x": X})
    grown = []
    for value in [*values, *([2.0] * MOST)]:  # more than can be shown
        study.add_trial(trial(0.5, value))
        if len(study.get_trials(deepcopy=False)) % 100 == 0:
            grown.append(numbers(all_placed(study)))
    study.tell(slow, 3.0)
    grown.append(numbers(all_placed(study)))

    assert numbers(all_placed(study_of(study.trials))) == grown[-1]
    assert all(slow.number in seen for seen in grown)  # while it runs, and as the best
    assert {len(seen) for seen in grown} == {MOST, MOST + 1}


def test_trials_that_were_stopped_are_better_the_further_they_came():
    stopped = [trial(0.5, math.nan, TrialState.PRUNED), trial(0.5, 9.0, TrialState.PRUNED)]
    finished = [trial(0.5, -5.0)]
    rest = [trial(0.5, 1.0, TrialState.PRUNED)] * 150
    study = study_of([
        *stopped,
        *rest,
        *finished,
        *([trial(0.5, 0.0, TrialState.PRUNED)] * MOST),
    ])

    seen = numbers(all_placed(study))

    assert 0 not in seen
    assert {1, 152} <= set(seen)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_of_40_trials_the_best_six_are_taken_for_good():
    best = [(x, 1.0) for x in (0.05, 0.2, 0.35, 0.5)]
    next_best = [(0.9, 0.9), (0.92, 0.9)]  # where no poor one is
    rest = [(x, 0.0) for x in np.random.default_rng(1).uniform(0.0, 0.6, 34)]
    study = study_of([trial(x, value) for x, value in [*best, *next_best, *rest]])

    proposed = []
    for seed in range(60):
        study.sampler = Tpe(seed, 10)
        asked = study.ask({"x": X})
        proposed.append(asked.params["x"])
        study.tell(asked, state=TrialState.FAIL)  # or others would keep off its place

    assert np.mean([x > 0.8 for x in proposed]) > 0.8


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_share_of_the_proposals_is_drawn_at_random():
    rng = np.random.default_rng(1)
    trials = [trial(x, 1.0 - abs(x - 0.9)) for x in rng.uniform(0.0, 1.0, 60)]

    def near(share):
        proposed = []
        for seed in range(40):
            study = study_of(trials)
            study.sampler = Tpe(seed, 10, share)
            proposed.append(study.ask({"x": X}).params["x"])
        return np.mean([x > 0.7 for x in proposed])

    assert near(0.0) > near(0.5) > near(1.0)


def test_several_objectives_are_shown_whole():
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(
        [create_trial(values=[0.0, 1.0], params={"x": 0.5}, distributions={"x": X})]
        * (MOST + 1)
    )

    assert all_placed(study) is study


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_good_place_found_long_ago_is_not_forgotten():
    rng = np.random.default_rng(1)
    good = [trial(x, 1.0 - abs(x - 0.9)) for x in rng.uniform(0.85, 0.95, 40)]
    poor = [trial(x, -x) for x in rng.uniform(0.0, 1.0, MOST + N_MORE)]
    study = study_of([*good, *poor])

    proposed = []
    for seed in range(20):
        study.sampler = Tpe(seed, 10)
        proposed.append(study.ask({"x": X}).params["x"])

    assert np.mean([0.8 < x < 1.0 for x in proposed]) > 0.8
