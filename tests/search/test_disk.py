import pytest

from ragsearch.search.budget import Budget
from ragsearch.search.disk import Room, folder_bytes
from ragsearch.search.record import FinalRun, SearchRecord, Status, TrialRecord
from ragsearch.spec.schema import BudgetSection

MODEL = 1000


@pytest.fixture
def record(tmp_path):
    """Return a search of five trials, each with a model of 1,000 bytes."""
    record = SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )
    endings = [Status.FINISHED, Status.FINISHED, Status.STOPPED_EARLY, Status.FINISHED]
    for number, status in enumerate([*endings, Status.RUNNING]):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "model").write_bytes(bytes(MODEL))
        epochs = [{"epoch": 1, "val/em": [0.1, 0.3, 0.2, 0.4, 0.0][number]}]
        record.trials[number] = TrialRecord(number, {}, status, epochs, [1.0], folder.name)
    return record


def _make(record, limit):
    budget = Budget(BudgetSection(trials=5, disk="1MB"), record)
    Room(record, budget, limit).make()
    return budget


def _kept(record):
    return [number for number, trial in record.trials.items() if trial.checkpoint]


def test_a_folder_within_the_limit_is_left_as_it_is(record):
    budget = _make(record, 5 * MODEL)

    assert _kept(record) == [0, 1, 2, 3, 4]
    assert budget.over is None
    assert budget.disk_bytes == 5 * MODEL


def test_the_worst_ended_trials_models_are_given_up_first_with_a_word(record, caplog):
    with caplog.at_level("INFO"):
        budget = _make(record, 4 * MODEL)

    assert _kept(record) == [0, 1, 3, 4]
    assert not (record.folder / "trial-2").exists()
    assert "trial 2: its model is given up for budget.disk" in caplog.text
    assert record.trials[2].epochs  # what it scored stays
    assert budget.over is None


def test_best_baseline_and_running_trials_keep_theirs_and_the_search_ends(record):
    budget = _make(record, 2 * MODEL)

    assert _kept(record) == [0, 3, 4]
    assert folder_bytes(record.folder) >= 3 * MODEL
    assert "above budget.disk (1MB)" in str(budget.over)


def test_what_was_given_up_is_in_the_record_on_disk(record):
    record.save()
    _make(record, 4 * MODEL)

    assert SearchRecord.load(record.folder).trials[2].checkpoint is None


def test_as_many_of_the_best_keep_theirs_as_are_needed_after_the_trials(record):
    budget = Budget(BudgetSection(trials=5, disk="1MB"), record)

    Room(record, budget, 2 * MODEL, n_best=2).make()

    assert _kept(record) == [0, 1, 3, 4]


@pytest.fixture
def retrained(record):
    """Return the search with trials 3 and 0 trained again, each with a model of 1,000 bytes."""
    scores = {(3, 1): 0.4, (3, 2): 0.5, (3, 3): 0.5, (0, 1): 0.2, (0, 2): 0.1}
    for (trial, seed), score in scores.items():
        folder = record.folder / f"final/trial-{trial}-seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(bytes(MODEL))
        run = FinalRun(trial, seed, status=Status.FINISHED, val={"val/em": score}, test={})
        run.checkpoint = record.relative(folder)
        record.final.append(run)
    return record


def _kept_seeds(record):
    return [(run.trial, run.seed) for run in record.final if run.checkpoint]


def test_final_runs_scored_on_test_give_theirs_up_before_trials_but_for_the_best_seed(
    retrained, caplog
):
    with caplog.at_level("INFO"):
        budget = _make(retrained, 8 * MODEL)

    assert _kept(retrained) == [0, 1, 2, 3, 4]
    assert _kept_seeds(retrained) == [(3, 2), (3, 3), (0, 1)]  # 10 models were there
    assert "final trial-0000-seed-2: its model is given up for budget.disk" in caplog.text
    assert budget.over is None
    assert [run.checkpoint for run in SearchRecord.load(retrained.folder).final][-1] is None

    _make(retrained, 7 * MODEL + MODEL // 2)

    assert _kept_seeds(retrained) == [(3, 2), (0, 1)]  # the first of equals, as in `export`


def test_final_runs_that_are_to_be_scored_keep_theirs(retrained):
    for run in retrained.final:
        run.test = None

    budget = _make(retrained, MODEL)

    assert len(_kept_seeds(retrained)) == 5
    assert "above budget.disk (1MB)" in str(budget.over)
