import time

import pytest

from ragsearch.search.budget import Budget
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.spec.schema import BudgetSection


@pytest.fixture
def record(tmp_path):
    return SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )


def _budget(record, gpus=0.0, **limits):
    return Budget(BudgetSection(**{"trials": 5} | limits), record, gpus)


def _run(budget, trial, value, status=Status.FINISHED):
    budget.started(trial)
    budget.validated(trial, value)
    budget.ended(trial, status)


def test_without_further_limits_a_search_goes_on_until_its_trials_have_ended(record):
    budget = _budget(record)
    _run(budget, 0, 0.9)

    assert budget.over is None
    assert budget.is_patient
    assert budget.ended_by == "all trials have ended (budget.trials: 5)"


def test_wall_time_counts_what_was_used_before(record):
    record.wall_s = 60.5

    assert _budget(record, wall="1m").over == "budget.wall (1m) is over"
    assert _budget(record, wall="2m").over is None


def test_gpu_hours_count_every_gpu_of_running_trials_only(record):
    record.gpu_s = 3600.0
    budget = _budget(record, gpus=2.0, gpu_hours=1.0 + 0.02 / 3600)
    time.sleep(0.02)
    assert budget.over is None  # nothing runs

    budget.started(0)
    time.sleep(0.02)
    budget.ended(0, Status.FINISHED)

    assert budget.gpu_s >= 3600.0 + 2 * 0.02
    assert budget.over == "budget.gpu_hours (1.00001) is over"


@pytest.mark.parametrize(("goal", "short", "there"), [("max", 0.49, 0.5), ("min", 0.51, 0.5)])
def test_a_target_ends_the_search_at_the_validation_that_reaches_it(record, goal, short, there):
    record.goal = goal
    budget = _budget(record, target=0.5)
    budget.validated(0, short)
    assert budget.over is None

    budget.validated(3, there)

    assert budget.over == "trial 3 reached val/em 0.5, and budget.target is 0.5"
    assert budget.ended_by == budget.over


def test_patience_is_at_an_end_after_so_many_trials_no_better_than_the_best(record):
    budget = _budget(record, patience=2)
    _run(budget, 0, 0.3)
    _run(budget, 1, 0.2)
    _run(budget, 2, 0.4)
    _run(budget, 3, 0.4)
    assert budget.is_patient

    _run(budget, 4, 0.1, Status.INFEASIBLE)

    assert not budget.is_patient
    assert budget.over is None  # running trials go on
    assert budget.ended_by == "2 trials in a row were no better (budget.patience)"


def test_crashed_trials_are_counted_and_the_search_has_failed_at_the_limit(record):
    budget = _budget(record, max_failed_trials=2)
    budget.ended(0, Status.FAILED)
    budget.ended(1, Status.DIVERGED)
    assert budget.over is None

    budget.ended(2, Status.FAILED)

    assert budget.over == "2 trials crashed, and budget.max_failed_trials is 2"
    assert budget.is_failed


def test_the_first_reason_stands(record):
    budget = _budget(record, target=0.5, max_failed_trials=1)
    budget.validated(0, 0.6)
    reason = budget.over
    budget.ended(1, Status.FAILED)

    assert reason is not None
    assert budget.over == reason
    assert not budget.is_failed


def test_a_search_that_goes_on_is_as_patient_as_one_that_was_not_interrupted(record):
    whole = _budget(record, patience=3)
    for trial, value in enumerate([0.2, 0.5, 0.4, 0.3]):
        _run(whole, trial, value)
        record.trials[trial] = TrialRecord(
            trial, {}, Status.FINISHED, [{"epoch": 1, "val/em": value}], [float(trial)]
        )

    resumed = _budget(record, patience=3)

    assert {use.what: use.used for use in resumed.uses()} == {"trials": 4, "patience": 2}
    assert {use.what: use.used for use in whole.uses()} == {"trials": 4, "patience": 2}


def test_what_is_left_is_told_by_the_rate_so_far_and_the_wall_time(record):
    record.wall_s = 100.0
    budget = _budget(record)
    assert budget.left_s is None

    _run(budget, 0, 0.2)

    assert budget.left_s == pytest.approx(400, rel=0.01)
    limited = _budget(record, wall="3m")
    limited.ended(0, Status.FINISHED)
    assert limited.left_s == pytest.approx(80, rel=0.01)
