import optuna
import pytest

from ragsearch.search.space import make_searcher


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
