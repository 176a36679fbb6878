import pytest

from ragsearch.search.budget import Budget
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.standing import RungRow, RunningRow, Standing


def _epochs(*values):
    return [
        {"epoch": epoch, "val/em": value, "time/epoch_s": 2.0}
        for epoch, value in enumerate(values, start=1)
    ]


@pytest.fixture
def standing(space_of, tmp_path):
    """Return a search of four epochs whose rungs are after 1 and 3."""
    spec = space_of(
        space={"train.max_epochs": {"choice": [4, 6]}}, search={"scheduler": {"name": "asha"}}
    )
    record = SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )
    record.trials = {
        0: TrialRecord(0, {}, Status.FINISHED, _epochs(0.1, 0.2, 0.3, 0.2)),
        1: TrialRecord(1, {}, Status.STOPPED_EARLY, _epochs(0.05)),
        2: TrialRecord(2, {"train.max_epochs": 6}, Status.RUNNING, _epochs(0.2, 0.4, 0.35)),
        3: TrialRecord(3, {}, Status.RUNNING),
    }
    return Standing(spec, record, Budget(spec.file.budget, record))


def test_rungs_count_who_came_and_who_went_on(standing):
    assert standing.rungs() == [
        RungRow(1, reached=3, went_on=2, best=0.2),
        RungRow(3, reached=2, went_on=2, best=0.35),
        RungRow(4, reached=1, went_on=0, best=0.2),
    ]


def test_running_trials_are_shown_with_their_own_number_of_epochs(standing):
    assert standing.running() == [
        RunningRow(2, 3, 6, 0.35, 0.4, 2.0, {"train.max_epochs": 6}),
        RunningRow(3, 0, 4, None, None, None, {}),
    ]


def test_the_best_trial_is_the_one_with_the_best_epoch(standing):
    assert standing.best == (2, 0.4)

    standing.record.trials.clear()
    assert standing.best is None
