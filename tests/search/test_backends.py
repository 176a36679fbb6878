"""Whoever searches for a trial: the same figures to the last bit."""

from pathlib import Path

import pytest
import torch
from ray import is_initialized

from ragsearch.data.questions import read_questions
from ragsearch.index.build import build_index
from ragsearch.search.cluster import cluster
from ragsearch.search.launch import reachable
from ragsearch.search.trainable import retriever_of
from ragsearch.spec import Spec
from ragsearch.training.fit import fit_trial

Figures = list[dict[str, float]]


def figures(spec: Spec, folder: Path) -> Figures:
    """Return what a trial of two epochs reports, times left out."""
    reports: Figures = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    index = build_index(spec.file.indexes["tiny"], folder)
    backend = spec.file.trial.retrieval.backend
    with (
        reachable(spec, index, "a search") as address,
        retriever_of(address, backend, "trial 0") as retriever,
    ):
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


def trial(backend: str) -> dict[str, dict[str, object]]:
    return {
        "retrieval": {"n_docs": 2, "backend": backend},
        "train": {"max_epochs": 2, "max_source_length": 32, "max_context_length": 64},
        "decode": {"max_length": 8},
    }


@pytest.mark.ray
def test_a_trial_has_the_same_figures_whoever_searches(space_of, tmp_path):
    folder = tmp_path / "index"
    by_itself = figures(space_of(trial=trial("in_process")), folder)
    by_group = figures(space_of(trial=trial("torch_distributed")), folder)
    assert not is_initialized()  # neither needs a pool

    with cluster("local", num_cpus=1):
        by_pool = figures(space_of(trial=trial("pool")), folder)

    assert by_itself == by_group == by_pool
    assert len(by_pool) == 2
