"""One trial inside a Ray worker: join the pool, fit, report.

In: a Tune config (trial number and varied values) and a `TrialJob`, the same for all trials of
a search. Handles never travel: the pool is looked up by name.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ragsearch.data.questions import Question, read_questions
from ragsearch.search.space import TRIAL_KEY
from ragsearch.spec import Spec


@dataclass(frozen=True)
class PoolAddress:
    """How a trial finds the pool of an index."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class TrialJob:
    """What every trial of a search shares."""

    spec: Spec
    pools: Mapping[str, PoolAddress]
    """By the index's name in the space file."""


def run_trial(config: dict[str, object], job: TrialJob) -> None:
    """Fine-tune one configuration and report each validation to Tune."""
    import torch
    from ray import tune

    from ragsearch.retrieval.pool import join_pool
    from ragsearch.training.fit import EpochReport, fit_trial

    file = job.spec.file
    torch.set_num_threads(max(1, int(file.resources.per_trial.cpu)))
    number = config[TRIAL_KEY]
    trial = job.spec.trial_with(varied(config))
    address = job.pools[trial.retrieval.index]
    retriever = join_pool(address.name, address.fingerprint, who=f"trial {number}")

    def report(state: EpochReport) -> None:
        metrics = {"epoch": state.epoch, **state.metrics}
        if not state.is_best:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="ragsearch-") as folder:
            state.save(Path(folder))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    questions = (
        _questions(file.data.train, file.data.n_train),
        _questions(file.data.val, file.data.n_val),
    )
    fit_trial(trial, questions, retriever, report, objective=file.objectives[0], seed=file.seed)


def varied(config: Mapping[str, object]) -> dict[str, object]:
    """Give the varied values of a Tune config, by dotted path."""
    return {path: value for path, value in config.items() if path != TRIAL_KEY}


@cache  # the next trial in the same worker reads no file again
def _questions(path: str, limit: int | None) -> list[Question]:
    return read_questions(Path(path), limit)
