"""Real samplers of Optuna over a simple function, each proposal by a sampler made for it."""

import math
import pickle

import optuna
import pytest
import torch
from optuna.trial import TrialState

from ragsearch.search.automatic import most_trials, searcher_of
from ragsearch.search.record import STATUS_ATTR
from ragsearch.search.samplers import is_used_up, make_sampler
from ragsearch.search.space import Proposal
from ragsearch.search.tpe import largest_budget

RATE, DROPOUT, DECAY = "optim.learning_rate", "regularisation.dropout", "optim.weight_decay"
NUMBERS = {
    RATE: {"log": [1e-5, 1e-1]},
    DROPOUT: {"uniform": [0.0, 0.5]},
    DECAY: {"uniform": [0.0, 0.1]},
}
MIXED = {**NUMBERS, "model.type": {"choice": ["rag_sequence", "rag_token"]}}
FINITE = {
    "model.type": {"choice": ["rag_sequence", "rag_token"]},
    "retrieval.n_docs": {"ordinal": [1, 2, 4]},
    DROPOUT: {"uniform": [0.0, 0.1], "step": 0.05},
}
FEW = {"gp": 6}  # a proposal takes it a second
ALL = ["random", "qmc", "tpe", "gp", "cma_es", "nsga2", "nsga3", "bohb"]


@pytest.fixture(autouse=True)
def one_thread():
    """Let a Gaussian process not wait for threads of others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    torch.set_num_threads(before)


def score(values):
    """Return how near a point is to 1e-3, 0.4, 0.08; 0 is best."""
    far = (math.log10(values[RATE]) + 3) / 4, 2 * (values[DROPOUT] - 0.4)
    return -math.hypot(*far, 10 * (values[DECAY] - 0.08))


def run(spec, n, study=None, scored=score):
    """Have trials proposed and scored, one after the other; return the study."""
    goals = ["maximize" for _ in spec.file.objectives]
    study = study or optuna.create_study(directions=goals)
    for number in range(len(study.trials), n):
        study.sampler = make_sampler(spec, number)
        trial = study.ask()
        values = Proposal(spec)(trial)
        found = scored(values)
        if not study._is_multi_objective():
            for epoch in range(1, 4):
                trial.report(found - 1 / epoch, epoch)
        study.tell(trial, found)
    return study


def search_of(space_of, algorithm, space=NUMBERS, trials=24, **sections):
    return space_of(
        space=space,
        search={"algorithm": algorithm},
        budget={"trials": trials},
        **sections,
    )


@pytest.mark.parametrize("algorithm", ALL)
def test_proposals_lie_in_their_domains(space_of, algorithm):
    n = FEW.get(algorithm, 12)
    spec = search_of(space_of, algorithm, MIXED, trials=n)

    trials = run(spec, n).trials

    for trial in trials:
        assert all(spec.domains[path].contains(trial.params[path]) for path in MIXED)
    assert len({frozenset(trial.params.items()) for trial in trials}) > n / 2  # nsga repeats


@pytest.mark.parametrize("algorithm", [*ALL, "grid"])
def test_a_sampler_made_in_another_process_proposes_the_same(space_of, algorithm):
    n = FEW.get(algorithm, 12)
    space, scored = (FINITE, lambda _: 0.0) if algorithm == "grid" else (MIXED, score)
    spec = search_of(space_of, algorithm, space, trials=n)

    whole = run(spec, n, scored=scored)
    half = run(spec, n // 2, scored=scored)
    resumed = run(spec, n, pickle.loads(pickle.dumps(half)), scored=scored)

    assert [trial.params for trial in resumed.trials] == [t.params for t in whole.trials]


@pytest.mark.parametrize("algorithm", ["tpe", "cma_es", "bohb", "nsga2"])
def test_a_searcher_that_learns_ends_nearer_to_the_best_than_it_began(space_of, algorithm):
    spec = search_of(space_of, algorithm, trials=32)

    scores = [trial.value for trial in run(spec, 32).trials]

    assert sum(scores[-10:]) > sum(scores[:10])


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "cma_es"])
def test_a_searcher_that_learns_does_better_than_random(space_of, algorithm):
    def last_ones(name):
        n = 12 if algorithm == "gp" else 24
        trials = run(search_of(space_of, name, trials=n), n).trials
        return sum(trial.value for trial in trials[-n // 2 :])

    assert last_ones(algorithm) > last_ones("random")


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "nsga2", "nsga3", "random", "qmc"])
def test_several_objectives_make_a_front(space_of, algorithm):
    objectives = [{"metric": "val/em"}, {"metric": "val/f1"}]
    n = FEW.get(algorithm, 12)
    spec = search_of(space_of, algorithm, trials=n, objectives=objectives)

    study = run(spec, n, scored=lambda values: (score(values), values[DROPOUT]))

    assert 1 <= len(study.best_trials) < n


def test_cma_es_leaves_no_pickle_in_the_study(space_of):
    study = run(search_of(space_of, "cma_es", trials=24), 24)

    attributes = [trial.system_attrs for trial in study.trials]
    assert max(one.get("cma:generation", 0) for one in attributes) >= 2
    assert not any("optimizer" in key for one in attributes for key in one)


def test_a_grid_tries_each_point_once_the_baseline_among_them(space_of):
    spec = search_of(space_of, "grid", FINITE, trials=30)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"model.type": "rag_token", "retrieval.n_docs": 1, DROPOUT: 1})

    while not is_used_up(spec, study):
        run(spec, len(study.trials) + 1, study, scored=lambda _: 0.0)

    points = [frozenset(trial.params.items()) for trial in study.trials]
    assert len(points) == len(set(points)) == 18 == most_trials(spec)


def test_a_grid_has_each_whole_number_of_a_log_scale_once(space_of):
    space = {"train.batch_size": {"int": [8, 40], "step": 8, "log": True}}
    spec = search_of(space_of, "grid", space, trials=9)

    study = run(spec, most_trials(spec), scored=lambda _: 0.0)

    assert sorted(trial.params["train.batch_size"] for trial in study.trials) == [
        8, 16, 24, 32, 40,
    ]  # fmt: skip
    assert is_used_up(spec, study)


def test_a_baseline_beside_the_grid_is_one_trial_more(space_of):
    spec = search_of(space_of, "grid", FINITE, trials=30, trial={"retrieval": {"n_docs": 3}})

    assert most_trials(spec) == 19
    assert most_trials(search_of(space_of, "grid", FINITE, trials=5)) == 5
    assert most_trials(search_of(space_of, "random", FINITE, trials=30)) == 30


def test_what_is_no_grid_is_never_used_up(space_of):
    spec = search_of(space_of, "random", FINITE)

    assert not is_used_up(spec, run(spec, 20, scored=lambda _: 0.0))


def test_bohb_learns_from_the_largest_budget_with_results_enough():
    study = optuna.create_study(direction="maximize")
    for number in range(6):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        for epoch in range(1, 4 if number < 3 else 2):
            trial.report(number + epoch, epoch)
        if number < 5:  # the last one runs
            study.tell(trial, number)

    def values(n_enough):
        return [t.value for t in largest_budget(study, n_enough).get_trials(deepcopy=False)]

    assert values(3) == [3, 4, 5, None]
    assert values(6) == [1, 2, 3, 4, 5, 6]
    assert values(7) == []


def test_bohb_compares_trials_by_their_results_at_its_budget_alone(space_of):
    fill, spec = (
        search_of(space_of, "random", trials=40),
        search_of(space_of, "bohb", trials=40),
    )

    def proposed(earlier):
        study = optuna.create_study(direction="maximize")
        for number in range(20):
            study.sampler = make_sampler(fill, number)
            trial = study.ask()
            found = score(Proposal(fill)(trial))
            trial.report(earlier(found), 1)
            trial.report(found, 2)
            study.tell(trial, found)
        trials = []
        for number in range(20, 30):
            study.sampler = make_sampler(spec, number)
            trial = study.ask()
            trials.append(Proposal(spec)(trial))
            study.tell(trial, state=TrialState.FAIL)
        return trials

    assert proposed(lambda found: found) == proposed(lambda found: 9.0 - found)


def test_bohb_learns_nothing_of_trials_that_diverged():
    study = optuna.create_study(direction="maximize")
    for number in range(6):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(number, 1)
        if number == 5:
            trial.set_user_attr(STATUS_ATTR, "diverged")
        study.tell(trial, state=TrialState.PRUNED)

    shown = largest_budget(study, 3).get_trials(deepcopy=False)

    assert [trial.value for trial in shown] == [0, 1, 2, 3, 4]


def test_bohb_proposes_where_most_trials_are_stopped_before_its_budget(space_of):
    spec = search_of(space_of, "bohb", trials=40)
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        study.sampler = make_sampler(spec, number)
        trial = study.ask()
        Proposal(spec)(trial)
        is_long = number % 2
        for epoch in range(1, 4 if is_long else 2):
            trial.report(number + epoch, epoch)
        study.tell(
            trial, number if is_long else None, state=None if is_long else TrialState.PRUNED
        )

    modelled = [t for t in study.trials if any("relative" in key for key in t.system_attrs)]
    assert len(modelled) > 10


def test_trials_of_one_generation_that_come_late_change_none_before(space_of):
    spec = search_of(space_of, "cma_es", trials=24)
    study = run(spec, 20)
    late = study.ask()  # proposed now, told when others were
    Proposal(spec)(late)

    before = run(spec, 24, study).trials[21:]
    study.tell(late, 0.0)

    after = run(spec, 25, study).trials[21:24]
    assert [t.params for t in before] == [t.params for t in after]


def test_a_named_searcher_is_taken_without_a_reason(space_of):
    assert str(searcher_of(search_of(space_of, "gp"))) == "gp"
