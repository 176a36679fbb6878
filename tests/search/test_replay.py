"""A scheduler that is made anew knows what trials scored before."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.replay import Replay
from ragsearch.search.scheduler import make_scheduler


def epochs(*scores):
    return [{"epoch": float(n), "val/em": score} for n, score in enumerate(scores, 1)]


def record_of(tmp_path, *trials):
    rows = {trial.trial: trial for trial in trials}
    return SearchRecord(tmp_path, "tiny", "val/em", "max", {}, "", trials=rows)


def decision(scheduler, number, epoch, score):
    trial = SimpleNamespace(trial_id=f"new-{number}", config={"trial": number})
    if trial.trial_id not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    result = {"epoch": epoch, "training_iteration": epoch, "val/em": score}
    return scheduler.on_trial_result(None, trial, result)


@pytest.fixture
def scheduler(space_of):
    return make_scheduler(space_of(search={"scheduler": {"min": 1, "eta": 2}}))


def test_a_new_trial_is_compared_with_those_that_have_ended(scheduler, tmp_path):
    ended = [
        TrialRecord(n, {}, Status.FINISHED, epochs(score))
        for n, score in enumerate((0.5, 0.6, 0.7))
    ]

    Replay(scheduler, record_of(tmp_path, *ended))

    assert decision(scheduler, 3, 1, 0.1) == TrialScheduler.STOP
    assert decision(scheduler, 4, 1, 0.9) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.INFEASIBLE])
def test_scores_of_bad_trials_do_not_count(scheduler, tmp_path, status):
    Replay(scheduler, record_of(tmp_path, TrialRecord(0, {}, status, epochs(0.9))))

    assert decision(scheduler, 1, 1, 0.1) == TrialScheduler.CONTINUE


def test_a_trial_that_goes_on_stands_at_the_rungs_it_passed(scheduler, tmp_path):
    unfinished = TrialRecord(1, {}, Status.INTERRUPTED, epochs(0.9))
    replay = Replay(scheduler, record_of(tmp_path, unfinished))
    unfinished.epochs += epochs(0.1, 0.1)[1:]  # recorded since then
    trial = SimpleNamespace(trial_id="new-1", config={"trial": 1})
    scheduler.on_trial_add(None, trial)

    for _ in range(2):  # it may be started again after a crash
        replay.on_trial_start(0, [], trial)

    first_rung = scheduler._brackets[0]._rungs[-1][1]
    assert first_rung == {"new-1": 0.9}
    assert decision(scheduler, 2, 1, 0.1) == TrialScheduler.STOP
