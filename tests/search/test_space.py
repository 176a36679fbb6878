"""Domains in Optuna's words: what a trial is proposed."""

import optuna
import pytest

from ragsearch.search.space import Proposal, encode
from tests.search.conftest import SPACE


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


@pytest.mark.parametrize(("path", "value", "said"), [
    ("retrieval.n_docs", 5, 2), ("model.type", "rag_token", "rag_token"),
])  # fmt: skip
def test_ordered_values_are_places_to_optuna(space_of, path, value, said):
    assert encode(space_of(space=SPACE).domains[path], value) == said
