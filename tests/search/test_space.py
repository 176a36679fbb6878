import optuna
import pytest

from ragsearch.errors import BadInputError
from ragsearch.search.space import encoded, make_searcher, suggest
from ragsearch.spec import Bundle, Choice, Int, Log, Normal, Ordinal, Uniform


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def _proposals(spec, storage, n):
    searcher = make_searcher(spec, storage, "study")
    proposals = []
    for number in range(n):
        proposals.append(searcher.suggest(f"t{number}"))
        searcher.on_trial_complete(f"t{number}", {"val/em": 0.1 * number})
    return proposals


SPACE = {
    "model.type": {"choice": ["rag_sequence", "rag_token"]},
    "retrieval.n_docs": {"ordinal": [1, 3, 5]},
    "optim.learning_rate": {"log": [1e-5, 1e-2]},
    "optim.warmup_steps": {"int": [0, 40], "step": 10},
    "regularisation.dropout": {"uniform": [0.0, 0.2], "step": 0.05},
}


def test_trial_0_is_the_baseline(space_of, storage):
    spec = space_of(space=SPACE, trial={"retrieval": {"n_docs": 3}})

    first = _proposals(spec, storage, 1)[0]

    assert first["trial"] == 0
    assert spec.trial_with({k: v for k, v in first.items() if k != "trial"}) == spec.file.trial


def test_a_baseline_outside_its_domain_is_tried_all_the_same(space_of, storage):
    spec = space_of(space=SPACE, trial={"retrieval": {"n_docs": 2}})

    assert _proposals(spec, storage, 1)[0]["retrieval.n_docs"] == 2


def test_proposals_lie_in_their_domains_and_are_numbered(space_of, storage):
    spec = space_of(space=SPACE)

    proposals = _proposals(spec, storage, 12)

    assert [proposal["trial"] for proposal in proposals] == list(range(12))
    for proposal in proposals[1:]:
        assert all(spec.domains[path].contains(proposal[path]) for path in SPACE)


def test_the_same_seed_proposes_the_same(space_of, tmp_path):
    spec = space_of(space=SPACE)

    one = _proposals(spec, f"sqlite:///{tmp_path / 'one.db'}", 8)
    two = _proposals(spec, f"sqlite:///{tmp_path / 'two.db'}", 8)

    assert one == two


def test_random_search_differs_from_tpe_after_the_start(space_of, tmp_path):
    tpe = space_of(space=SPACE, search={"startup_trials": 2})
    random = space_of(space=SPACE, search={"algorithm": "random"})

    learnt = _proposals(tpe, f"sqlite:///{tmp_path / 'tpe.db'}", 10)
    drawn = _proposals(random, f"sqlite:///{tmp_path / 'random.db'}", 10)

    assert learnt[3:] != drawn[3:]


def test_the_study_can_be_opened_by_optuna(space_of, storage):
    _proposals(space_of(space=SPACE), storage, 3)

    study = optuna.load_study(study_name="study", storage=storage)

    assert [round(trial.value, 1) for trial in study.trials] == [0.0, 0.1, 0.2]


BAD = {"epoch": 1, "val/em": 1.0, "verdict": "infeasible", "reason": "out of memory"}


def test_a_bad_trial_is_pruned_and_a_crashed_one_failed(space_of, storage):
    searcher = make_searcher(space_of(space=SPACE), storage, "study")
    for number in range(3):
        searcher.suggest(f"t{number}")

    searcher.on_trial_complete("t0", BAD)
    searcher.on_trial_complete("t1", error=True)
    searcher.on_trial_complete("t2", {"val/em": 0.5})

    states = [trial.state.name for trial in searcher._ot_study.trials]
    assert states == ["PRUNED", "FAIL", "COMPLETE"]
    assert searcher._ot_study.best_value == 0.5


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
    space_of, storage
):
    spec = space_of(space=WHOLE)

    proposals = _proposals(spec, storage, 12)
    study = optuna.load_study(study_name="study", storage=storage)

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
    space_of, storage
):
    point = {"decode.num_beams": 4, "model.freeze_question_encoder": True}
    spec = space_of(space=WHOLE, try_first=[point, {"optim.weight_decay": 0.15}])

    first, second, third, *_ = _proposals(spec, storage, 4)

    assert first.pop("trial") == 0
    assert spec.trial_with(first) == spec.file.trial
    assert second["trial"] == 1
    assert {path: second[path] for path in point} == point
    assert (second["decode.max_length"], second["optim.warmup_steps"]) == (12, 40)
    assert second["optim.learning_rate"] == spec.file.trial.optim.learning_rate
    assert third["optim.weight_decay"] == pytest.approx(0.15)
    assert third["decode.num_beams"] == 1


def test_values_on_a_grid_are_written_as_a_person_would(space_of, storage):
    spec = space_of(space={"regularisation.dropout": {"uniform": [0.0, 0.3], "step": 0.1}})

    proposals = _proposals(spec, storage, 12)

    assert {each["regularisation.dropout"] for each in proposals} == {0.0, 0.1, 0.2, 0.3}


def test_what_a_constraint_rejects_is_asked_again_and_numbers_have_no_gaps(space_of, storage):
    space = {"retrieval.n_docs": {"int": [1, 8]}, "train.batch_size": {"int": [1, 16]}}
    constraint = "retrieval.n_docs * train.batch_size <= 32"
    spec = space_of(space=space, constraints=[constraint])

    proposals = _proposals(spec, storage, 15)

    assert [each.pop("trial") for each in proposals] == list(range(15))
    assert [spec.rejects(each) for each in proposals] == [None] * 15
    study = optuna.load_study(study_name="study", storage=storage)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        (Log(1e-5, 1e-1), [1e-5, 3e-3]),
        (Log(1e-5, 1e-3, 10.0), [1e-5, 1e-4]),
        (Uniform(0.0, 0.3, 0.1), [0.0, 0.1, 0.1 + 0.2]),
        (Uniform(0.0, 0.3), [0.2]),
        (Int(1, 9, step=4), [5]),
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


def test_a_space_in_which_hardly_anything_is_feasible_ends_the_search_and_not_never(
    space_of, storage, monkeypatch
):
    monkeypatch.setattr("ragsearch.search.space.MAX_ASKS", 20)
    space = {"optim.weight_decay": {"uniform": [0.0, 1.0]}}
    constraint = "optim.weight_decay < 0.0015"
    spec = space_of(space=space, constraints=[constraint])

    with pytest.raises(
        BadInputError, match="constraints: none of 20 proposals fulfils the con"
    ):
        _proposals(spec, storage, 20)
