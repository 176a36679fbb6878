"""Domains in Optuna's words: what a trial is proposed."""

from collections import Counter
from random import Random

import optuna
import pytest

from ragsearch.search.record import Status
from ragsearch.search.space import Proposal, encoded, suggest
from ragsearch.search.study import SearchStudy, open_storage
from ragsearch.spec import Bundle, Choice, Int, Log, Normal, Ordinal, Uniform
from tests.search.conftest import SPACE


def _asked(spec, folder, n):
    """Return the first trials of a new search, each told something, and its study."""
    study, asked = SearchStudy(spec, folder), []
    for number in range(n):
        asked.append(study.ask())
        study.report(asked[-1], 1, [0.1 * number])
        study.tell(asked[-1], Status.FINISHED)
    return asked, optuna.load_study(study_name=folder.name, storage=open_storage(folder))


def _study(spec):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in Proposal(spec).first_points():
        study.enqueue_trial(point)
    return study


def test_the_first_point_is_the_baseline(space_of):
    spec = space_of(space=SPACE, trial={"retrieval": {"n_docs": 3}})

    first = Proposal(spec)(_study(spec).ask())

    assert spec.trial_with(first) == spec.file.trial


def test_a_baseline_outside_its_domain_is_tried_all_the_same(space_of):
    spec = space_of(space=SPACE, trial={"retrieval": {"n_docs": 2}})

    assert Proposal(spec)(_study(spec).ask())["retrieval.n_docs"] == 2


def test_proposals_lie_in_their_domains(space_of):
    spec = space_of(space=SPACE)
    study = _study(spec)
    study.ask()

    for _ in range(12):
        values = Proposal(spec)(study.ask())
        assert all(spec.domains[path].contains(values[path]) for path in SPACE)


WHOLE = {
    "optim.question_encoder_lr_ratio": {
        "log": [0.1, 10.0],
        "when": "not model.freeze_question_encoder",
    },
    "model.freeze_question_encoder": {"choice": [True, False]},
    "beams": {
        "bundle": [
            {"decode.num_beams": 1, "decode.max_length": 25},
            {"decode.num_beams": 4, "decode.max_length": 12},
        ]
    },
    "optim.weight_decay": {"normal": [0.1, 0.05], "bounds": [0.0, 0.2]},
    "optim.learning_rate": {"log": [1e-5, 1e-1], "step": 10},
    "optim.warmup_steps": {"derive": "10 * decode.num_beams"},
}


def test_optuna_is_asked_only_for_what_varies_and_paths_are_those_of_the_trial(
    space_of, tmp_path
):
    asked, study = _asked(space_of(space=WHOLE), tmp_path, 12)
    proposals = [each.values for each in asked]

    for proposal, trial in zip(proposals, study.trials, strict=True):
        ratio = "optim.question_encoder_lr_ratio"
        is_free = not proposal["model.freeze_question_encoder"]
        assert (ratio in proposal) is (ratio in trial.params) is is_free
        beams = proposal["decode.num_beams"]
        assert proposal["decode.max_length"] == {1: 25, 4: 12}[beams]
        assert proposal["optim.warmup_steps"] == 10 * beams
        assert 0 <= proposal["optim.weight_decay"] <= 0.2
        assert proposal["optim.learning_rate"] in {1e-5, 1e-4, 1e-3, 1e-2, 1e-1}
        assert "beams" in trial.params
        assert "optim.warmup_steps" not in trial.params
    assert {proposal["decode.num_beams"] for proposal in proposals} == {1, 4}


def test_the_baseline_of_a_whole_space_is_trial_0_and_points_to_try_first_follow(
    space_of, tmp_path
):
    point = {"decode.num_beams": 4, "model.freeze_question_encoder": True}
    spec = space_of(space=WHOLE, try_first=[point, {"optim.weight_decay": 0.15}])

    first, second, third = (each.values for each in _asked(spec, tmp_path, 3)[0])

    assert spec.trial_with(first) == spec.file.trial
    assert {path: second[path] for path in point} == point
    assert (second["decode.max_length"], second["optim.warmup_steps"]) == (12, 40)
    assert second["optim.learning_rate"] == spec.file.trial.optim.learning_rate
    assert third["optim.weight_decay"] == pytest.approx(0.15)
    assert third["decode.num_beams"] == 1


def test_values_on_a_grid_are_written_as_a_person_would(space_of, tmp_path):
    spec = space_of(space={"regularisation.dropout": {"uniform": [0.0, 0.3], "step": 0.1}})

    proposals = [each.values for each in _asked(spec, tmp_path, 12)[0]]

    assert {each["regularisation.dropout"] for each in proposals} == {0.0, 0.1, 0.2, 0.3}


def test_whole_numbers_on_a_grid_and_a_log_scale_are_drawn_as_the_domain_has_it():
    domain = Int(8, 64, step=8, log=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    drawn = [suggest(study.ask(), "x", domain) for _ in range(2_000)]

    assert set(drawn) == {*domain.values()}
    (distribution,) = {trial.distributions["x"] for trial in study.trials}
    assert (distribution.log, distribution.low, distribution.high) == (True, 4.0, 68.0)
    among = Random(5)
    expected = Counter(domain.sample(among) for _ in range(2_000))
    for value, count in Counter(drawn).items():
        assert count / 2_000 == pytest.approx(expected[value] / 2_000, abs=0.04)


def test_what_a_constraint_rejects_is_asked_again_and_numbers_have_no_gaps(space_of, tmp_path):
    space = {"retrieval.n_docs": {"int": [1, 8]}, "train.batch_size": {"int": [1, 16]}}
    constraint = "retrieval.n_docs * train.batch_size <= 32"
    spec = space_of(space=space, constraints=[constraint])

    asked, study = _asked(spec, tmp_path, 15)

    assert [each.number for each in asked] == list(range(15))
    assert [spec.rejects(each.values) for each in asked] == [None] * 15
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        (Log(1e-5, 1e-1), [1e-5, 3e-3]),
        (Log(1e-5, 1e-3, 10.0), [1e-5, 1e-4]),
        (Uniform(0.0, 0.3, 0.1), [0.0, 0.1, 0.1 + 0.2]),
        (Uniform(0.0, 0.3), [0.2]),
        (Int(1, 9, step=4), [5]),
        (Int(1, 65, step=32, log=True), [1, 33, 65]),
        (Normal(0.1, 0.05, 0.0, 0.2), [0.0, 0.13, 0.2]),
        (Choice(("a", None, True)), ["a", None, True]),
        (Ordinal((1, 5)), [5]),
        (Bundle(("a", "b"), ((1, "x"), (2, "y"))), [(2, "y")]),
    ],
)
def test_what_stands_for_a_value_in_optuna_gives_that_value_again(domain, values):
    for value in values:
        trial = optuna.trial.FixedTrial({"x": encoded(domain, value)})

        assert suggest(trial, "x", domain) == (
            pytest.approx(value) if isinstance(value, float) else value
        )
