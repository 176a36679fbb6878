import pytest

from ragsearch.search.front import chosen, front
from ragsearch.search.record import Choice, Objective, SearchRecord, Status, TrialRecord

LATENCY = "val/latency_ms_p95"


def record_of(tmp_path, points, choose=None, **statuses):
    """Return a search whose trials scored these (em, latency)."""
    record = SearchRecord(tmp_path, "kb", "val/em", "max", {}, "")
    record.choose = choose or Choice()
    record.others = (Objective(LATENCY, "min"),)
    for number, (em, latency) in enumerate(points):
        row = {"epoch": 1.0, "val/em": em, LATENCY: latency}
        record.trials[number] = TrialRecord(number, {}, Status.FINISHED, [row])
    for name, status in statuses.items():
        record.trials[int(name.removeprefix("t"))].status = status
    return record


POINTS = [(0.50, 90.0), (0.49, 40.0), (0.49, 60.0), (0.30, 10.0), (0.30, 10.0), (0.20, 20.0)]


def numbers(trials):
    return [trial.trial for trial in trials]


def test_the_front_holds_what_no_trial_is_better_than(tmp_path):
    assert numbers(front(record_of(tmp_path, POINTS))) == [0, 1, 3, 4]


def test_a_trial_is_measured_by_its_best_epoch(tmp_path):
    record = record_of(tmp_path, [(0.5, 90.0), (0.4, 95.0)])
    record.trials[1].epochs.append({"epoch": 2.0, "val/em": 0.3, LATENCY: 1.0})

    assert numbers(front(record)) == [0]


@pytest.mark.parametrize("status", [Status.STOPPED_EARLY, Status.FAILED, Status.INFEASIBLE])
def test_only_trials_that_finished_are_on_the_front(tmp_path, status):
    assert numbers(front(record_of(tmp_path, POINTS, t0=status))) == [1, 3, 4]


def test_a_trial_without_one_of_the_metrics_is_not_on_the_front(tmp_path):
    record = record_of(tmp_path, POINTS)
    del record.trials[0].epochs[0][LATENCY]

    assert numbers(front(record)) == [1, 3, 4]


def test_the_best_by_the_first_objective_is_chosen(tmp_path):
    assert chosen(record_of(tmp_path, POINTS)).trial == 0


@pytest.mark.parametrize(("within", "trial"), [(0.0099, 0), (0.01, 1), (0.2, 3)])
def test_within_some_loss_the_best_by_another_objective_is_chosen(tmp_path, within, trial):
    record = record_of(tmp_path, POINTS, Choice(within))

    assert chosen(record).trial == trial


def test_the_objective_to_choose_by_may_be_named(tmp_path):
    record = record_of(tmp_path, POINTS, Choice(0.2, then="val/f1"))
    record.others = (*record.others, Objective("val/f1", "max"))
    for number, trial in record.trials.items():
        trial.epochs[0]["val/f1"] = 0.9 if number == 1 else 0.1

    assert chosen(record).trial == 1


def test_where_none_has_finished_the_best_so_far_is_chosen(tmp_path):
    record = record_of(tmp_path, POINTS[:1], t0=Status.INTERRUPTED)

    assert front(record) == []
    assert chosen(record).trial == 0


def test_with_one_objective_the_best_is_chosen_even_if_it_was_stopped_early(tmp_path):
    record = record_of(tmp_path, POINTS, t0=Status.STOPPED_EARLY)
    record.others = ()

    assert chosen(record).trial == 0


def test_nothing_is_chosen_where_no_trial_reported(tmp_path):
    record = record_of(tmp_path, [])

    assert chosen(record) is None


def test_objectives_and_the_choice_are_loaded_as_they_were_saved(tmp_path):
    record = record_of(tmp_path, POINTS, Choice(0.01, LATENCY))
    record.status = Status.FINISHED
    record.save()

    assert SearchRecord.load(tmp_path) == record
