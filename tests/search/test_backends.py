"""Whoever searches for a trial: the same figures to the last bit."""

from pathlib import Path

import pytest
import torch
from ray import is_initialized

from ragsearch.data.questions import read_questions
from ragsearch.index.build import build_index
from ragsearch.search.cluster import cluster
from ragsearch.search.launch import reachable
from ragsearch.search.trainable import open_retriever
from ragsearch.spec import Spec
from ragsearch.training.fit import fit_trial

Figures = list[dict[str, float]]


def figures(spec: Spec, folder: Path) -> Figures:
    """Return what a trial of two epochs reports, times left out."""
    reports: Figures = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    index = build_index(spec.file.indexes["tiny"], folder)
    with reachable(spec, index, "a search") as address:
        fit_trial(
            spec.file.trial,
            (
                read_questions(Path(spec.file.data.train)),
                read_questions(Path(spec.file.data.val)),
            ),
            open_retriever(address, "trial 0"),
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
def test_a_trial_has_the_same_figures_by_a_pool_and_by_itself(space_of, tmp_path):
    by_itself = figures(space_of(trial=trial("in_process")), tmp_path / "index")
    assert not is_initialized()  # it needs no pool

    with cluster("local", num_cpus=1):
        by_pool = figures(space_of(trial=trial("pool")), tmp_path / "index")

    assert by_itself == by_pool
    assert len(by_pool) == 2
