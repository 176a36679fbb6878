import json

import pytest

from ragsearch.errors import BadInputError
from ragsearch.search.record import SearchRecord, Status, TrialRecord, UsedIndex


@pytest.fixture
def record(tmp_path):
    record = SearchRecord(
        folder=tmp_path,
        name="kb",
        metric="val/em",
        goal="max",
        indexes={"words": UsedIndex("/somewhere", "abc")},
        tracking_uri="sqlite:///mlflow.db",
    )
    record.trials[0] = TrialRecord(0, {}, Status.FINISHED, [_epoch(1, 0.2), _epoch(2, 0.4)])
    record.trials[1] = TrialRecord(1, {"retrieval.n_docs": 3}, epochs=[_epoch(1, 0.5)])
    record.trials[2] = TrialRecord(2, {"retrieval.n_docs": 2}, Status.FAILED, reason="boom")
    return record


def _epoch(epoch, em):
    return {"epoch": epoch, "val/em": em, "val/nll": 1 - em}


def test_a_saved_record_loads_as_it_was(record):
    record.save()

    assert SearchRecord.load(record.folder) == record


def test_a_record_that_says_error_for_reason_is_read_too(record):
    record.save()
    file = record.folder / "search.json"
    file.write_text(file.read_text().replace('"reason"', '"error"'))

    assert SearchRecord.load(record.folder) == record


def test_trials_are_ranked_by_their_best_epoch_and_those_without_one_left_out(record):
    assert [trial.trial for trial in record.ranked()] == [1, 0]
    assert record.best_epoch(record.trials[0])["epoch"] == 2


def test_a_metric_to_be_small_ranks_the_smallest_first(record):
    record.metric, record.goal = "val/nll", "min"

    assert [trial.trial for trial in record.ranked()] == [1, 0]


def test_among_equals_the_earlier_trial_is_first(record):
    record.trials[1].epochs = [_epoch(1, 0.4)]

    assert [trial.trial for trial in record.ranked()] == [0, 1]


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.INFEASIBLE])
def test_a_trial_that_is_bad_cannot_be_the_best_whatever_it_scored(record, status):
    record.trials[1].status = status

    assert [trial.trial for trial in record.ranked()] == [0]


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"no search here: search\.json is missing"):
        SearchRecord.load(tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"trials": []}', '{"trials": [{"a": 1}]}'])
def test_a_damaged_record_is_refused_in_one_sentence(record, damage):
    (record.folder / "search.json").write_text(damage)

    with pytest.raises(BadInputError, match=r"search\.json: the record is damaged"):
        SearchRecord.load(record.folder)


def test_the_record_is_plain_json(record):
    record.save()

    content = json.loads((record.folder / "search.json").read_text())
    assert content["trials"][2]["reason"] == "boom"
    assert "folder" not in content
