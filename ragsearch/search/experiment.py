"""Trials of Ray Tune as every part of a search has them run: the trials, and the final runs.

In: what a trial does and leaves. Out: nothing; callbacks keep what comes of it. Nothing goes on
from Tune's own state, so each experiment has a folder that was not there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution.tune_controller import TuneController

from ragsearch.search.ending import killed_for_memory
from ragsearch.search.trainable import MODEL_KEY, TrialJob
from ragsearch.spec.schema import PerTrialSection


class Train(Protocol):
    """What a trial does in its worker."""

    def __call__(self, config: dict[str, object], job: TrialJob) -> None:
        """Do it, and report to Tune."""


@dataclass(frozen=True)
class Experiment:
    """Trials of Tune that are run together."""

    folder: Path
    """The folder of their folders, not there yet."""
    train: Train
    job: TrialJob
    stop: tune.Stopper
    callbacks: Sequence[tune.Callback]
    folder_name: Callable[[tune.experiment.Trial], str]
    """Gives the name of a trial's folder."""
    cpu: float | None = None
    """CPUs of a worker; those of the space file by default."""
    keeps_all: bool = False
    """Whether every checkpoint is kept, for other trials to go on from; else the last one, and
    the one with the best model."""

    def run(
        self, config: tune.TuneConfig, param_space: dict[str, object] | None = None
    ) -> None:
        """Run all trials.

        Args:
            config: Who proposes them and who stops them, and how many.
            param_space: What they are, where nobody proposes them.
        """
        resources = self.job.spec.file.resources
        config.reuse_actors = not resources.per_trial.gpu  # a fresh process frees GPU memory
        config.trial_dirname_creator = self.folder_name
        tuner = tune.Tuner(
            tune.with_resources(
                partial(self.train, job=self.job),
                tune.PlacementGroupFactory(self._bundles(resources.per_trial)),
            ),
            param_space=param_space,
            tune_config=config,
            run_config=tune.RunConfig(
                name=self.folder.name,
                storage_path=str(self.folder.parent),
                stop=self.stop,
                callbacks=list(self.callbacks),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=None if self.keeps_all else 1,
                    # the best and the last are kept: Tune spares the last, and the epoch of
                    # the model grows, while of equal metrics Tune would keep one without
                    checkpoint_score_attribute=MODEL_KEY,
                ),
                failure_config=tune.FailureConfig(max_failures=resources.retries),
            ),
        )
        with _no_snapshots(), _killed_for_memory_is_lost():
            tuner.fit()

    def _bundles(self, per_trial: PerTrialSection) -> list[dict[str, float]]:
        cpu = per_trial.cpu if self.cpu is None else self.cpu
        return per_trial.workers * [{"CPU": cpu, "GPU": per_trial.gpu}]


@contextmanager
def _no_snapshots() -> Iterator[None]:
    """Keep Tune from writing down its trials, which nobody reads: the record is the truth.

    No setting keeps it from that at the end, nor wherever a checkpoint replaces another: 8 ms a
    trial each time, so that a search of 10,000 would end more than a minute later.
    """
    original = TuneController._get_trial_checkpoints  # noqa: SLF001
    TuneController._get_trial_checkpoints = _no_trials  # type: ignore[assignment, method-assign] # noqa: SLF001
    try:
        yield
    finally:
        TuneController._get_trial_checkpoints = original  # type: ignore[method-assign] # noqa: SLF001


def _no_trials(_controller: TuneController) -> dict[str, str]:
    return {}


@contextmanager
def _killed_for_memory_is_lost() -> Iterator[None]:
    """Have Tune take a trial that Ray killed for want of memory for one whose process died.

    Ray 2.60 has an error of its own for it, at which Tune gives up the whole search.
    """
    before = RayActorManager._actor_task_failed  # noqa: SLF001 (Tune leaves no other way in)

    def failed(
        self: RayActorManager, tracked_actor_task: TrackedActorTask, exception: Exception
    ) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=killed_for_memory(exception))
        before(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign] # noqa: SLF001
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = before  # type: ignore[method-assign] # noqa: SLF001
