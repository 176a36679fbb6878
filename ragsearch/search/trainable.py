"""One trial inside a Ray worker: find the index, fit, report.

In: a Tune config (trial number and varied values) and a `TrialJob`, the same for all trials of
a search. Handles never travel: a pool is looked up by name, an index by its folder.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ragsearch.data.questions import Question, read_questions
from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.store import Passage
from ragsearch.search.ending import Ending, broken, bug_report, is_passing, verdict_on
from ragsearch.search.space import LAST_KEY, TRIAL_KEY
from ragsearch.spec import LATENCY, SpaceFile, Spec, TrialSection
from ragsearch.spec.trial import RAG_TYPES
from ragsearch.training.trace import TRACE_FILE, traced

if TYPE_CHECKING:
    from ragsearch.index.open import PassageIndex
    from ragsearch.retrieval.client import PoolClient
    from ragsearch.retrieval.retriever import Retriever
    from ragsearch.training.fit import EpochReport
    from ragsearch.training.workers import Workers


VALUES_KEY = "values"
"""Where a result of Tune has the values it came of, where they may have changed since."""

SCHEDULE = "schedule/"
"""What values that PBT or PB2 may change are called among the metrics of each epoch."""

MODEL_KEY = "model_epoch"
"""Where a result of Tune says which epoch's model its checkpoint holds; 0 where it holds only
the state of the trial, as it does after epochs that are not its best. 1 without epochs."""

STATE_FOLDER = "state"
"""The folder of a checkpoint with what the trial needs to go on (`training.state`); around it
lies the model. It is there while the trial may go on, and goes when it has ended."""


@dataclass(frozen=True)
class IndexAddress:
    """How a trial finds an index."""

    folder: str
    fingerprint: str
    pool: str | None = None
    """Name of the pool that serves it; None where each trial opens it."""
    search: str = ""
    """The search that has the pool serve it, as holder of its lease."""


@dataclass(frozen=True)
class TrialJob:
    """What every trial of a search shares."""

    spec: Spec
    indexes: Mapping[str, IndexAddress]
    """By the index's name in the space file."""
    folder: Path
    """The folder of the trials' folders."""
    tokens: Path | None = None
    """The folder of passages' tokens; a trial that finds none there for it reads texts."""
    resumable: Mapping[int, Path] = field(default_factory=dict)
    """Checkpoints of an earlier run that trials go on from, by the trial's number."""


def folder_name(number: object) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:04d}"


def run_trial(config: dict[str, object], job: TrialJob) -> None:
    """Fine-tune one configuration, with all its workers, and report each validation to Tune.

    A trial that was interrupted goes on from its last checkpoint. One that diverges, has not
    enough memory, finds the disk full or meets a bug ends with a report of that; only what
    another try may end otherwise is raised.
    """
    from ragsearch.search.workers import workers_of_trial

    train = partial(_train, config, job, _state_before(config, job))
    try:
        with workers_of_trial(job.spec.file.resources.per_trial, train) as workers:
            train(workers)
    except Exception as error:
        ending = verdict_on(error)
        if ending is None and is_passing(error):
            raise
        told = ending.as_result() if ending else bug_report(error)
        _report_ending(told, job.spec.file.objectives[0].metric)


def _state_before(config: Mapping[str, object], job: TrialJob) -> Path | None:
    """Return where the state is that a trial goes on from; None where it starts."""
    from ray import tune

    if (checkpoint := tune.get_checkpoint()) is not None:
        return Path(checkpoint.path, STATE_FOLDER)
    number = config[TRIAL_KEY]
    assert isinstance(number, int), "trials are numbered"
    before = job.resumable.get(number)
    return None if before is None else before / STATE_FOLDER


def _train(
    config: dict[str, object], job: TrialJob, resume: Path | None, workers: "Workers"
) -> None:
    """Be one worker of a trial; the first one reports."""
    import torch

    from ragsearch.training.fit import fit_trial

    file = job.spec.file
    torch.set_num_threads(max(1, int(file.resources.per_trial.cpu)))
    trial = job.spec.trial_with(varied(config))
    questions = (
        _questions(file.data.train, file.data.n_train),
        _questions(file.data.val, file.data.n_val),
    )
    number = config[TRIAL_KEY]
    is_traced = trial.train.profile and workers.rank == 0
    trace = job.folder / folder_name(number) / TRACE_FILE if is_traced else None
    with retriever_for(job, trial, f"trial {number}", workers) as retriever, traced(trace):
        fit_trial(
            trial,
            questions,
            retriever,
            _Reports(file, config) if workers.rank == 0 else lambda _: None,
            objective=file.objectives[0],
            seed=file.seed,
            workers=workers,
            tokens=job.tokens,
            rung_examples=file.search.scheduler.rung_examples,
            resume=resume,
            mutable=file.search.scheduler.mutable,
            times_answers=file.measures(LATENCY),
        )


class _Reports:
    """Tells Tune of each validation; after one that breaks a constraint all say infeasible."""

    def __init__(self, file: SpaceFile, config: Mapping[str, object]) -> None:
        self._constraints = file.outcome_constraints
        self._schedule = {
            f"{SCHEDULE}{path}": config[path]
            for path in file.search.scheduler.mutable
            if path in config
        }
        self._values = {VALUES_KEY: varied(config)} if self._schedule else {}
        self._ending: Ending | None = None

    def __call__(self, state: "EpochReport") -> None:
        """Report an epoch, with its state, and its model if it is the best yet."""
        from ray import tune

        self._ending = self._ending or broken(self._constraints, state.metrics, state.epoch)
        # one that went on from another has none of that one's epochs, nor its best one
        has_model = state.is_best or bool(self._schedule)
        result = state.metrics | self._schedule | self._values
        result |= {
            "epoch": state.epoch,
            LAST_KEY: state.is_last,
            MODEL_KEY: max(1, state.epoch) if has_model else 0,
        }
        told = result | self._ending.as_result() if self._ending else result
        with tempfile.TemporaryDirectory(prefix="ragsearch-") as folder:
            if has_model:
                state.save(Path(folder))
            state.save_state(Path(folder, STATE_FOLDER))
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


def _report_ending(told: Mapping[str, object], metric: str) -> None:
    """Tell Tune how a trial ended that has nothing more to validate."""
    from ray import tune

    # Tune wants its metric in every result; no scheduler has a rung at epoch 0
    tune.report({"epoch": 0, metric: math.nan, **told})


def retriever_for(
    job: TrialJob, trial: TrialSection, who: str, workers: "Workers | None" = None
) -> AbstractContextManager["Retriever | None"]:
    """Have somebody find passages for a configuration, nobody if it reads none."""
    if trial.model.type not in RAG_TYPES:
        return nullcontext()
    return retriever_of(job.indexes[trial.retrieval.index], trial, who, workers)


@contextmanager
def retriever_of(
    address: IndexAddress, trial: TrialSection, who: str, workers: "Workers | None" = None
) -> Iterator["Retriever"]:
    """Have somebody find passages for a trial, while the block lasts.

    Args:
        address: Where the index is.
        trial: Its configuration.
        who: Its name in error messages.
        workers: Those of the trial, where there are several; all of them enter the block.

    Yields:
        Whoever finds them.

    Raises:
        BadInputError: If the trial is to open the index itself, and on this machine it is not
            there or another one.
        PoolUnavailableError: If the pool does not answer.
    """
    if address.pool is not None:
        from ragsearch.retrieval.pool import join_pool

        client = join_pool(address.pool, address.fingerprint, who=who, search=address.search)
        yield FixedQueries(client) if trial.model.freeze_question_encoder else client
        return
    from ragsearch.retrieval.retriever import InProcessRetriever

    local = InProcessRetriever(_index(address), who=who)
    if trial.retrieval.backend == "torch_distributed":
        from ragsearch.retrieval.distributed import (
            DistributedRetriever,
            gloo_among_all,
            gloo_group,
        )

        if workers is not None and workers.n > 1:
            yield DistributedRetriever(local, gloo_among_all(), who=who)
            return
        if sys.platform == "linux":  # a group of one machine need not be heard outside
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with (
            tempfile.TemporaryDirectory(prefix="ragsearch-") as folder,
            gloo_group(f"file://{folder}/group", 0, 1) as group,
        ):
            yield DistributedRetriever(local, group, who=who)
        return
    yield local


class FixedQueries:
    """A pool's client for a trial whose question encoder is frozen.

    The same questions give the same queries in each epoch and in other trials, so the pool is
    asked to keep their hits.
    """

    def __init__(self, client: "PoolClient") -> None:
        self._client = client

    @property
    def fingerprint(self) -> str:
        """Hash of the index."""
        return self._client.fingerprint

    @property
    def n_passages(self) -> int:
        """Passages in the index."""
        return self._client.n_passages

    @property
    def dimension(self) -> int:
        """Width a query must have."""
        return self._client.dimension

    def retrieve(self, queries: np.ndarray, n_docs: int, knobs: Knobs = Knobs()) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first."""
        return self._client.retrieve(queries, n_docs, knobs, fixed=True)

    def passages(self, ids: np.ndarray) -> list[Passage]:
        """Return passages by id, in the order asked."""
        return self._client.passages(ids)


@cache  # the next trial in the same worker opens nothing again
def _index(address: IndexAddress) -> "PassageIndex":
    from ragsearch.index.open import open_index

    index = open_index(Path(address.folder), verify=False)  # the driver has read every byte
    found = index.manifest.fingerprint
    if found != address.fingerprint:
        what = (
            f"holds index {found[:16]} on this machine, but the search uses "
            f"{address.fingerprint[:16]}; remove it here, or use retrieval.backend 'pool'"
        )
        raise BadInputError.single(address.folder, what)
    return index


def varied(config: Mapping[str, object]) -> dict[str, object]:
    """Give the varied values of a Tune config, by dotted path."""
    return {path: value for path, value in config.items() if path != TRIAL_KEY}


@cache  # the next trial in the same worker reads no file again
def _questions(path: str, limit: int | None) -> list[Question]:
    return read_questions(Path(path), limit)
