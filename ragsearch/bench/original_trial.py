"""A whole trial in the original's way: an index of its own, every epoch, weights after each.

In: a `Task`. Out: weights in files, named by trial and epoch, whose times say when they were
there. Stock Transformers trains and validates, as in `trainees.Original`.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_model

from ragsearch.bench.indexes import BenchIndex
from ragsearch.bench.train_plan import Device
from ragsearch.bench.trainee import Task
from ragsearch.bench.trainees import Original
from ragsearch.data.questions import read_questions
from ragsearch.spec import Spec
from ragsearch.training.optimizer import make_schedule


@dataclass(frozen=True)
class OriginalJob:
    """What all trials of a design share."""

    spec: Spec
    index: BenchIndex
    place: Path
    """Where weights go."""
    threads: int

    def task(self, settings: Mapping[str, object]) -> Task:
        """Return what one of them trains."""
        data = self.spec.file.data
        train = read_questions(Path(data.train), data.n_train)
        val = read_questions(Path(data.val), data.n_val)
        return Task(
            trial=self.spec.trial_with(settings),
            index=self.index,
            pool="",
            questions=(train, val),
            n_warm=0,
            device=Device.CPU,
            threads=self.threads,
            read=self.place,
        )


class OriginalTrial(Original):
    """One configuration, trained for all its epochs.

    Args:
        job: What all share.
        number: Of the trial.
        settings: What varies.
    """

    def __init__(self, job: OriginalJob, number: int, settings: Mapping[str, object]) -> None:
        super().__init__(job.task(settings))
        self._job, self._number = job, number
        self._chance = random.Random(job.spec.file.seed)  # noqa: S311 - no secret
        torch.manual_seed(job.spec.file.seed)

    def fit(self) -> None:
        """Train, and leave the weights of every epoch."""
        for _ in self.epochs():
            pass

    def epochs(self) -> Iterator[float]:
        """Train an epoch after another, validate, and leave the weights.

        Yields:
            The sum of an epoch's losses.
        """
        trial = self.task.trial
        n_epochs = trial.train.max_epochs
        self._start()
        schedule = make_schedule(self._optimizer, trial.optim, n_epochs * len(self._batches))
        for epoch in range(1, n_epochs + 1):
            loss = self._epoch(schedule)
            self.network.eval()
            for batch in self.task.batches(self.task.questions[1]):
                self._validate(batch)
            save_model(self.network, str(weights_file(self._job.place, self._number, epoch)))
            yield loss

    def _epoch(self, schedule: Any) -> float:  # noqa: ANN401 - torch's schedules have no type
        questions = list(self.task.questions[0])
        self._chance.shuffle(questions)
        batches, losses = self.task.batches(questions), []

        def loss_of(number: int) -> torch.Tensor:
            loss = self._loss_of(batches[number])
            losses.append(float(loss.detach()))
            return loss

        self.network.train()
        for number in range(len(batches)):
            self._train(loss_of, number)
            schedule.step()
        return sum(losses)


class Weights(NamedTuple):
    """A trained model on disk."""

    trial: int
    epoch: int
    file: Path


def weights_file(place: Path, trial: int, epoch: int) -> Path:
    """Return where the weights of a trial lie after an epoch."""
    return place / f"trial-{trial}-epoch-{epoch}.safetensors"


def weights_in(place: Path) -> list[Weights]:
    """Return all weights of a folder."""
    found = []
    for file in place.glob("trial-*-epoch-*.safetensors"):
        trial, epoch = map(int, re.findall(r"\d+", file.name))
        found.append(Weights(trial, epoch, file))
    return sorted(found)


def original_trial(config: dict[str, Any], job: OriginalJob) -> None:
    """Be a trial of Ray Tune."""
    from ray import tune

    trainee = OriginalTrial(job, config["trial"], config["settings"])
    for epoch, loss in enumerate(trainee.epochs(), start=1):
        tune.report({"epoch": epoch, "train/loss": loss})
