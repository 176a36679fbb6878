"""Whoever searches for a trial: the same figures to the last bit."""

from pathlib import Path

import pytest
import torch
from ray import is_initialized

from ragsearch.data.questions import read_questions
from ragsearch.index.build import build_index
from ragsearch.retrieval.actors import describe, find_replicas
from ragsearch.retrieval.pool import serving
from ragsearch.search.cluster import cluster
from ragsearch.search.trainable import IndexAddress, retriever_of
from ragsearch.search.variants import address_of, pool_plan
from ragsearch.spec import Spec
from ragsearch.training.fit import fit_trial

Figures = list[dict[str, float]]


def figures(spec: Spec, address: IndexAddress) -> Figures:
    """Return what a trial of two epochs reports, times left out."""
    reports: Figures = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with retriever_of(address, spec.file.trial, "trial 0") as retriever:
        fit_trial(
            spec.file.trial,
            (
                read_questions(Path(spec.file.data.train)),
                read_questions(Path(spec.file.data.val)),
            ),
            retriever,
            lambda report: reports.append(report.metrics),
            objective=spec.file.objectives[0],
            seed=0,
        )
    torch.set_num_threads(before)
    return [
        {name: value for name, value in metrics.items() if name.startswith(("train/", "val/"))}
        for metrics in reports
    ]


def cached(address: IndexAddress) -> tuple[int, int]:
    """Return how many queries the pool's only replica answered without a search, and with."""
    (replica,) = find_replicas(address.pool).values()
    found = describe(replica, timeout_s=30.0)["figures"]
    return found["n_cache_hits"], found["n_cache_misses"]


def trial(backend: str) -> dict[str, dict[str, object]]:
    """Return sections of a trial."""
    return {
        "retrieval": {"n_docs": 2, "backend": backend},
        "train": {"max_epochs": 2, "max_source_length": 32, "max_context_length": 64},
        "decode": {"max_length": 8},
    }


@pytest.mark.ray
def test_a_trial_has_the_same_figures_whoever_searches(space_of, tmp_path):
    found = {}
    for backend in ("in_process", "torch_distributed"):
        spec = space_of(trial=trial(backend))
        index = build_index(spec.file.indexes["tiny"], tmp_path / "index")
        address = address_of(spec, index, "a search")
        found[backend] = figures(spec, address)
    assert not is_initialized()  # neither needs a pool

    model = spec.file.trial.model.model_copy(update={"freeze_question_encoder": True})
    frozen = space_of(trial=trial("pool") | {"model": model.model_dump()})
    frozen_alone = figures(frozen, address)
    spec = space_of(trial=trial("pool"))
    address = address_of(spec, index, "a search")
    with cluster("local", num_cpus=1), serving(pool_plan(spec, index), "a search"):
        found["pool"] = figures(spec, address)
        assert cached(address) == (0, 0)  # of an encoder that is trained, nothing comes again
        first = figures(frozen, address)
        hits, misses = cached(address)
        second = figures(frozen, address)
        assert cached(address) == (2 * hits + misses, misses)

    assert found["in_process"] == found["torch_distributed"] == found["pool"]
    assert len(found["pool"]) == 2
    assert first == second == frozen_alone
    assert misses > 0
    assert hits > 0
