import errno
import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from ragsearch.search.budget import Budget
from ragsearch.search.checkpoints import resumable
from ragsearch.search.progress import Bookkeeper, EndOfSearch
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.spec.schema import BudgetSection


@pytest.fixture
def budget(tmp_path):
    record = SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )
    return Budget(BudgetSection(trials=1, target=0.5), record)


def test_a_search_within_its_budget_goes_on(budget):
    assert not EndOfSearch(budget).stop_all()


def test_a_budget_that_is_over_ends_the_search_and_is_no_interruption(budget):
    end = EndOfSearch(budget)
    budget.validated(0, 0.6)

    assert end.stop_all()
    assert not end.interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_search_and_the_second_the_program(number, budget):
    end = EndOfSearch(budget)

    with end.on_signals():
        signal.raise_signal(number)
        assert end.stop_all()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_signal_handlers_are_put_back(budget):
    before = signal.getsignal(signal.SIGTERM)

    with EndOfSearch(budget).on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("trial", "epoch", "verdict", "stops"),
    [
        (1, 2, {}, False),
        (1, 2, {"verdict": "infeasible"}, True),
        (0, 2, {"verdict": "infeasible"}, False),
        (0, 0, {"verdict": "diverged"}, True),
    ],
)
def test_a_bad_trial_is_ended_and_the_baseline_only_where_it_cannot_go_on(
    trial, epoch, verdict, stops, budget
):
    result = {"config": {"trial": trial}, "epoch": epoch, **verdict}

    assert EndOfSearch(budget)("id", result) == stops


@pytest.fixture
def record(tmp_path):
    return SearchRecord(tmp_path, "tiny", "val/em", "max", {}, "sqlite:///mlflow.db")


@pytest.fixture
def kept(space_of, record, budget):
    """Return the bookkeeper of a search and a trial of Tune, started."""
    bookkeeper = Bookkeeper(space_of(), record, EndOfSearch(budget))
    path = record.folder / "tune" / "trial-0000"
    trial = SimpleNamespace(
        config={"trial": 0, "optim.learning_rate": 0.1},
        path=str(path),
        num_failures=0,
        error_file=None,
        last_result=None,
        checkpoint=None,
    )
    bookkeeper.on_trial_start(0, [trial], trial)
    return bookkeeper, trial


def report(bookkeeper, trial, epoch, *, is_best, **also):
    """Have a trial report an epoch, as `trainable` does, its checkpoint written by then."""
    name = f"checkpoint_{epoch:06d}"
    folder = Path(trial.path, name)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "state" / "state.json").touch()
    if is_best:
        (folder / "model.safetensors").touch()
    metrics = {"val/em": 0.5, "train/loss": 1.0, "time/epoch_s": 1.0}
    result = {"epoch": epoch, "model_epoch": epoch if is_best else 0, **metrics, **also}
    result["timestamp"] = 1_700_000_000 + epoch
    trial.last_result = result | {"checkpoint_dir_name": name}
    bookkeeper.on_trial_result(0, [trial], trial, trial.last_result)
    trial.checkpoint = SimpleNamespace(path=str(folder))
    bookkeeper.on_trial_save(0, [trial], trial)


def files(trial):
    root = Path(trial.path)
    return sorted(str(one.relative_to(root)) for one in root.rglob("*") if one.is_file())


def test_only_the_last_state_is_kept_while_a_trial_runs_and_none_when_it_has_ended(
    kept, record
):
    bookkeeper, trial = kept
    for epoch, is_best in ((1, True), (2, False), (3, False)):
        report(bookkeeper, trial, epoch, is_best=is_best, is_last=epoch == 3)
    running = files(trial)

    bookkeeper.on_trial_complete(0, [trial], trial)

    model = "checkpoint_000001/model.safetensors"
    assert running == [model, "checkpoint_000003/state/state.json"]
    assert files(trial) == [model]
    assert record.trials[0].status is Status.FINISHED
    assert record.trials[0].checkpoint == "tune/trial-0000/checkpoint_000001"


def test_a_full_disk_ends_the_search_and_the_state_of_the_trial_is_kept(kept, record):
    bookkeeper, trial = kept
    report(bookkeeper, trial, 1, is_best=False, is_last=False)
    verdict = {"verdict": "interrupted", "reason": "No space left on device"}
    trial.last_result = {"epoch": 0, "val/em": math.nan, **verdict}
    bookkeeper.on_trial_result(0, [trial], trial, trial.last_result)

    bookkeeper.on_trial_complete(0, [trial], trial)

    assert record.trials[0].status is Status.INTERRUPTED
    assert files(trial) == ["checkpoint_000001/state/state.json"]
    assert bookkeeper._end.stop_all()
    assert bookkeeper._end.disk_full == "No space left on device"


def test_an_event_that_the_disk_does_not_take_ends_the_search(kept, record, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    bookkeeper, trial = kept
    monkeypatch.setattr(record, "note", full)

    report(bookkeeper, trial, 1, is_best=True)

    assert "No space left on device" in bookkeeper._end.disk_full


def test_any_other_trouble_with_a_file_is_raised(budget):
    with pytest.raises(PermissionError), EndOfSearch(budget).at_full_disk():
        raise PermissionError


def test_a_trial_that_went_on_and_ended_keeps_only_its_best_model(kept, record):
    bookkeeper, trial = kept
    report(bookkeeper, trial, 1, is_best=True)
    trial.path = str(record.folder / "tune-2" / "trial-0000")

    report(bookkeeper, trial, 2, is_best=True, is_last=True)
    bookkeeper.on_trial_complete(0, [trial], trial)

    best = "tune-2/trial-0000/checkpoint_000002"
    models = record.folder.rglob("model.safetensors")
    assert record.trials[0].checkpoint == best
    assert [str(model.parent.relative_to(record.folder)) for model in models] == [best]
    assert not [*record.folder.rglob("state.json")]


@pytest.mark.parametrize(("there", "found"), [
    ([2], 2), ([1, 2, 3], 2), ([3], None), ([1], 1), ([], None),
])  # fmt: skip
def test_a_trial_goes_on_from_the_newest_state_that_is_not_ahead_of_its_record(
    record, there, found
):
    epochs = [{"epoch": 1.0}, {"epoch": 2.0}]
    record.trials[1] = TrialRecord(1, {}, Status.INTERRUPTED, epochs)
    record.trials[2] = TrialRecord(2, {}, Status.FINISHED, epochs)
    folders = {}
    for epoch in there:
        for number in (1, 2):
            folder = record.folder / f"tune-{epoch}/trial-000{number}/checkpoint_00000{epoch}"
            (folder / "state").mkdir(parents=True)
            state = {"progress": {"epoch": epoch}}
            (folder / "state" / "state.json").write_text(json.dumps(state))
            folders.setdefault(epoch, folder)

    assert resumable(record) == ({1: folders[found]} if found else {})


def test_a_state_that_cannot_be_read_is_passed_over(record):
    record.trials[1] = TrialRecord(1, {}, Status.INTERRUPTED, [{"epoch": 1.0}])
    state = record.folder / "tune/trial-0001/checkpoint_000001/state/state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{")

    assert resumable(record) == {}


def test_an_epoch_that_a_retried_trial_reports_again_is_recorded_once(kept, record):
    bookkeeper, trial = kept

    for epoch in (1, 2, 2, 3):
        report(bookkeeper, trial, epoch, is_best=False)

    assert [epoch["epoch"] for epoch in record.trials[0].epochs] == [1, 2, 3]


def test_the_log_of_a_failed_trial_is_shown(kept, caplog):
    bookkeeper, trial = kept
    trial.last_result = {"verdict": "failed", "reason": "KeyError: 'x'", "log": "one\ntwo"}

    bookkeeper.on_trial_complete(0, [trial], trial)

    assert caplog.messages[-3:] == ["trial 0 failed: KeyError: 'x'", "  one", "  two"]
