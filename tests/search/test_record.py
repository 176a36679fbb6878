import json

import pytest

from ragsearch.errors import BadInputError
from ragsearch.search.lock import locked
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
        status=Status.FINISHED,
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


@pytest.fixture
def running(record):
    """Return the record of a search that this process runs."""
    with locked(record.folder):
        record.status = Status.RUNNING
        record.save()
        yield record


def test_what_was_noted_is_read_while_the_search_runs(running):
    before = (running.folder / "search.json").read_bytes()

    running.note(3, 1.5, params={"retrieval.n_docs": 4}, status=Status.RUNNING)
    running.note(3, 2.5, epoch=_epoch(1, 0.75), reported=100, checkpoint="a")
    running.note(1, 3.5, status=Status.FAILED, reason="boom")

    read = SearchRecord.load(running.folder)
    assert read == running
    assert read.trials[3] == TrialRecord(
        3, {"retrieval.n_docs": 4}, Status.RUNNING, [_epoch(1, 0.75)], [100], "a"
    )
    assert (read.trials[1].status, read.trials[1].reason) == (Status.FAILED, "boom")
    assert read.wall_s == 3.5
    assert (running.folder / "search.json").read_bytes() == before


def test_an_epoch_is_recorded_once_however_often_it_is_noted(running):
    for _ in range(2):
        running.note(1, 1.0, epoch=_epoch(1, 0.9), reported=100)
    running.note(1, 1.0, epoch=_epoch(2, 0.9), reported=100)

    assert running.trials[1].epochs == [_epoch(1, 0.5), _epoch(2, 0.9)]


def test_events_that_are_in_the_record_already_change_nothing(running):
    running.note(1, 1.0, epoch=_epoch(2, 0.9), reported=100, status=Status.FINISHED)
    events = (running.folder / "events.jsonl").read_text()
    running.save()
    (running.folder / "events.jsonl").write_text(events)  # killed before it was removed

    assert SearchRecord.load(running.folder) == running


def test_a_line_cut_off_by_a_kill_is_no_damage(running):
    running.note(1, 1.0, status=Status.FINISHED)
    with (running.folder / "events.jsonl").open("a") as file:
        file.write('{"trial": 1, "wall')

    assert SearchRecord.load(running.folder) == running


def test_what_no_process_runs_any_more_was_interrupted(record):
    record.status = Status.RUNNING
    record.save()

    read = SearchRecord.load(record.folder)

    assert read.status is Status.INTERRUPTED
    assert [trial.status.value for trial in read.trials.values()] == [
        "finished", "interrupted", "failed",
    ]  # fmt: skip
    assert read.can_go_on
    assert not record.can_go_on


def test_a_record_that_cannot_be_written_leaves_the_one_before(record, monkeypatch):
    record.save()
    record.trials[0].reason = "new"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(record.folder), "replace", full)
    with pytest.raises(OSError, match="No space left"):
        record.save()

    assert SearchRecord.load(record.folder).trials[0].reason is None
    assert [file.name for file in record.folder.iterdir()] == ["search.json"]


def test_each_run_of_a_search_has_a_folder_of_its_own_for_tune(record):
    names = []
    for record.n_runs in (1, 2):
        names.append(record.tune_folder.name)

    assert names == ["tune", "tune-2"]
