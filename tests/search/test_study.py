"""The study of a search: proposals, what is told of them, and going on after a kill."""

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ragsearch.errors import BadInputError
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.samplers import make_sampler
from ragsearch.search.study import STUDY_FILE, SearchStudy
from tests.search.conftest import SPACE


def told(study, n):
    """Let trials run one after the other, the higher their number the better."""
    asked = [study.ask()]
    for _ in range(n):
        number = asked[-1].number
        study.report(asked[-1], 1, [0.1 * number])
        study.tell(asked[-1], Status.FINISHED)
        asked.append(study.ask())
    return [trial.values for trial in asked]


def opened(folder):
    """Open a study as anybody can who has Optuna."""
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY_FILE)))
    return optuna.load_study(study_name=folder.name, storage=storage)


def record_of(folder, **trials):
    rows = {trial.trial: trial for trial in trials.values()}
    return SearchRecord(folder, "tiny", "val/em", "max", {}, "", trials=rows)


@pytest.fixture
def spec(space_of):
    return space_of(space=SPACE, search={"startup_trials": 3})


def test_trials_are_numbered_from_the_baseline_on(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)

    asked = [study.ask() for _ in range(3)]

    assert [trial.number for trial in asked] == [0, 1, 2]
    assert asked[0].values["optim.learning_rate"] == spec.file.trial.optim.learning_rate


def test_the_study_alone_tells_everything(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)
    first, second = study.ask(), study.ask()
    for epoch, value in enumerate((0.25, 0.5, 0.125), 1):
        study.report(first, epoch, [value])
    study.tell(first, Status.FINISHED)
    study.tell(second, Status.DIVERGED, "the loss is nan")

    one, two = opened(tmp_path).trials
    assert one.value == 0.5
    assert one.intermediate_values == {1: 0.25, 2: 0.5, 3: 0.125}
    assert one.user_attrs["ragsearch.trial"] == 0
    assert one.user_attrs["ragsearch.values"] == first.values
    assert one.user_attrs["ragsearch.status"] == "finished"
    assert two.user_attrs["ragsearch.reason"] == "the loss is nan"


def test_the_best_epoch_of_a_metric_to_be_small_is_the_smallest(space_of, tmp_path):
    objectives = [{"metric": "val/nll", "goal": "min"}]
    study = SearchStudy(space_of(space=SPACE, objectives=objectives), tmp_path)
    asked = study.ask()
    for epoch, value in enumerate((3.0, math.nan, 2.0, 2.5), 1):
        study.report(asked, epoch, [value])
    study.tell(asked, Status.FINISHED)

    assert opened(tmp_path).best_value == 2.0


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.FINISHED, "COMPLETE"),
        (Status.STOPPED_EARLY, "PRUNED"),
        (Status.DIVERGED, "PRUNED"),
        (Status.INFEASIBLE, "PRUNED"),
        (Status.FAILED, "FAIL"),
        (Status.INTERRUPTED, "RUNNING"),
    ],
)
def test_a_trial_ends_in_optunas_words(spec, tmp_path, status, state):
    study = SearchStudy(spec, tmp_path)
    asked = study.ask()
    study.report(asked, 1, [0.5])
    study.tell(asked, status)

    assert [trial.state.name for trial in opened(tmp_path).trials] == [state]


def test_a_trial_that_finished_without_a_number_was_pruned(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)
    asked = study.ask()
    study.report(asked, 1, [math.nan])
    study.tell(asked, Status.FINISHED)

    assert opened(tmp_path).trials[0].state.name == "PRUNED"


def test_an_epoch_that_is_reported_again_changes_nothing(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)
    asked = study.ask()
    study.report(asked, 1, [0.5])
    study.report(asked, 1, [0.9])

    assert asked.epochs == [(0.5,)]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_same_seed_proposes_the_same_however_often_it_is_opened(
    space_of, tmp_path, algorithm
):
    spec = space_of(space=SPACE, search={"algorithm": algorithm})
    for name in ("whole", "in parts"):
        (tmp_path / name).mkdir()

    whole = told(SearchStudy(spec, tmp_path / "whole"), 8)
    parts = []
    for _ in range(9):
        study = SearchStudy(spec, tmp_path / "in parts")
        asked = study.ask()
        parts.append(asked.values)
        study.report(asked, 1, [0.1 * asked.number])
        study.tell(asked, Status.FINISHED)

    assert parts == whole
    assert len({repr(values) for values in whole}) == 9


def test_tpe_learns_after_its_random_trials(space_of, tmp_path):
    found = {}
    for algorithm in ("tpe", "random"):
        spec = space_of(space=SPACE, search={"algorithm": algorithm})
        (tmp_path / algorithm).mkdir()
        found[algorithm] = told(SearchStudy(spec, tmp_path / algorithm), 8)

    assert found["tpe"] != found["random"]


def test_each_trial_has_a_seed_of_its_own(space_of):
    spec, other = space_of(seed=1), space_of(seed=2)
    study = optuna.create_study()

    def drawn(spec, number):
        study.sampler = make_sampler(spec, number)
        return study.ask().suggest_float("x", 0, 1)

    assert drawn(spec, 1) == drawn(spec, 1)
    assert len({drawn(spec, 1), drawn(spec, 2), drawn(other, 1)}) == 3


def test_a_rejected_proposal_is_drawn_again_and_no_trial(space_of, tmp_path):
    study = SearchStudy(space_of(space=SPACE, constraints=["retrieval.n_docs < 5"]), tmp_path)

    asked = [study.ask() for _ in range(9)]

    assert [trial.number for trial in asked] == [*range(9)]
    assert all(trial.values["retrieval.n_docs"] < 5 for trial in asked)
    rejected = [trial for trial in opened(tmp_path).trials if trial.state.name == "PRUNED"]
    assert all("retrieval.n_docs < 5" in t.user_attrs["ragsearch.reason"] for t in rejected)
    assert rejected


def test_where_nothing_is_feasible_the_search_ends_with_a_word(space_of, tmp_path, caplog):
    space = {"optim.weight_decay": {"uniform": [0.0, 1.0]}}
    hardly = space_of(
        space=space,
        constraints=["optim.weight_decay < 0.0003"],
        search={"algorithm": "random"},
        trial={"optim": {"weight_decay": 0.0}},
    )
    study = SearchStudy(hardly, tmp_path)

    assert study.ask().number == 0
    assert study.ask() is None
    assert "no further trial: 200 proposals in a row broke a constraint" in caplog.text
    assert study.n_asked == 1


def test_trials_go_on_from_what_the_record_knows(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)
    values = [study.ask().values for _ in range(3)]
    epochs = [{"epoch": 1.0, "val/em": 0.25}, {"epoch": 2.0, "val/em": 0.5}]
    record = record_of(
        tmp_path,
        known=TrialRecord(0, values[0], epochs=epochs),
        ended=TrialRecord(1, values[1], Status.FINISHED, epochs=epochs),
    )  # and trial 2 was asked, but never started

    again = SearchStudy(spec, tmp_path)
    going_on = again.take_up(record, None)

    assert [(trial.number, trial.values) for trial in going_on] == [
        (0, values[0]), (2, values[2]),
    ]  # fmt: skip
    assert going_on[0].epochs == [(0.25,), (0.5,)]
    assert again.ask().number == 3
    states = [trial.state.name for trial in opened(tmp_path).trials]
    assert states == ["RUNNING", "COMPLETE", "RUNNING", "RUNNING"]


def test_an_ending_that_only_the_study_was_told_comes_into_the_record(spec, tmp_path):
    study = SearchStudy(spec, tmp_path)
    asked = study.ask()
    study.tell(asked, Status.INFEASIBLE, "out of memory")
    record = record_of(tmp_path, known=TrialRecord(0, asked.values))
    noted = []

    going_on = SearchStudy(spec, tmp_path).take_up(
        record, lambda number, **event: noted.append((number, event))
    )

    assert going_on == []
    assert noted == [(0, {"status": "infeasible", "reason": "out of memory"})]


def test_a_kill_while_the_baseline_is_asked_costs_no_baseline(space_of, tmp_path):
    spec = space_of(space=SPACE, trial={"retrieval": {"n_docs": 2}})
    killed = SearchStudy(spec, tmp_path)
    killed._study.ask()  # and nothing is said of it any more

    again = SearchStudy(spec, tmp_path)

    first = again.ask()
    assert (first.number, first.values["retrieval.n_docs"]) == (0, 2)
    assert again.ask().number == 1


def test_a_kill_while_a_trial_is_asked_leaves_no_trial_running(spec, tmp_path):
    killed = SearchStudy(spec, tmp_path)
    killed.ask()
    killed._study.ask()

    again = SearchStudy(spec, tmp_path)

    assert [trial.state.name for trial in opened(tmp_path).trials] == ["RUNNING", "FAIL"]
    assert again.ask().number == 1


def test_a_line_cut_off_by_a_kill_is_no_harm(spec, tmp_path):
    first = SearchStudy(spec, tmp_path).ask()
    with (tmp_path / STUDY_FILE).open("a") as file:
        file.write('{"op_code": 4, "work')

    again = SearchStudy(spec, tmp_path)

    assert again.ask().number == first.number + 1
    assert len(opened(tmp_path).trials) == 2


def test_a_study_that_is_lost_is_not_begun_again_beside_its_record(spec, tmp_path):
    record = record_of(tmp_path, known=TrialRecord(0, {}, Status.FINISHED))

    with pytest.raises(BadInputError, match=r"study\.journal: lacks trials of"):
        SearchStudy(spec, tmp_path).take_up(record, None)
