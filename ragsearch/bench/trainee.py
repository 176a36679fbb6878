"""What all that trains in the bench has in common: its task, its clock, its optimiser.

Knows torch and the training; knows nothing of Ray, indexes or Transformers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ragsearch.bench.indexes import BenchIndex
from ragsearch.bench.train_plan import Device
from ragsearch.data.questions import Question
from ragsearch.spec import TrialSection
from ragsearch.training.optimizer import make_optimizer, parameter_groups


@dataclass(frozen=True, slots=True)
class Task:
    """What every trainee is given."""

    trial: TrialSection
    index: BenchIndex
    pool: str
    """Name of the pool of the index."""
    questions: tuple[list[Question], list[Question]]
    """Those to train on, those to validate on; in batches, in this order."""
    n_warm: int
    """Steps before those that are timed."""
    device: Device
    threads: int
    read: Path
    """Where `Reference` leaves what the generator reads."""

    def batches(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        """Return the batches of training, or of validation."""
        size = self.trial.optim.effective_batch
        return [questions[start : start + size] for start in range(0, len(questions), size)]

    @property
    def steps(self) -> list[Sequence[Question]]:
        """Batches of all steps, those that are not timed first."""
        return self.batches(self.questions[0])


class Measured(NamedTuple):
    """What training and validating took."""

    step_s: float
    waiting_s: float
    """Of a step, for hits and passages."""
    val_s: float
    """Of an example."""
    peak_bytes: int


class Trainee:
    """What all of them do alike."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        torch.manual_seed(0)
        self.task = task
        self.device = torch.device(task.device)
        self._batches = task.steps

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute as the trial's precision says."""
        is_mixed = self.task.trial.train.precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed):
            yield

    def _timed(self, calls: Sequence[Callable[[], None]]) -> float:
        """Return the seconds of a call, when all its work is done."""
        self._finish()
        start = time.perf_counter()
        for call in calls:
            call()
        self._finish()
        return (time.perf_counter() - start) / len(calls)

    def _finish(self) -> None:
        if self.device.type == Device.CUDA:
            torch.cuda.synchronize()

    def _peak_bytes(self) -> int:
        """Return the most memory this process ever had; on a GPU, of the GPU's."""
        if self.device.type == Device.CUDA:
            return torch.cuda.max_memory_allocated()
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return 1024 * int(peak)


class PlainTrainee(Trainee):
    """One that is trained by a plain loop: without Lightning, which costs it nothing."""

    network: nn.Module

    def _start(self) -> None:
        optim = self.task.trial.optim
        self._optimizer = make_optimizer(parameter_groups(self.network, optim), optim)
        self.network.train()

    def _train(self, loss: Callable[[int], Tensor], number: int) -> None:
        """Take an optimiser step."""
        self._optimizer.zero_grad()
        with self._arithmetic():
            value = loss(number)
        value.backward()  # type: ignore[no-untyped-call] # torch leaves it so
        limit = self.task.trial.optim.max_grad_norm
        if limit is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._optimizer.step()

    def _step_s(self, loss: Callable[[int], Tensor], then: Callable[[], None]) -> float:
        """Return the seconds of a timed step.

        Args:
            loss: Of a batch.
            then: Called when those that are not timed are done.
        """
        self._start()
        steps = [partial(self._train, loss, at) for at in range(len(self._batches))]
        for step in steps[: self.task.n_warm]:
            step()
        then()
        return self._timed(steps[self.task.n_warm :])
