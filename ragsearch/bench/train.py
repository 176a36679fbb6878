"""The bench of training: three designs, the same weights and batches, one run.

In: a `TrainPlan`. Out: a `Row` a model, device and design, after a check that the designs
find the same passages and compute the same loss.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ragsearch.bench.indexes import BenchIndex, made
from ragsearch.bench.models import BenchModels, make_models, make_questions
from ragsearch.bench.plan import Kind
from ragsearch.bench.processes import BenchError, PlainProcess, Process, RayProcess, ask
from ragsearch.bench.retrieval import Report
from ragsearch.bench.train_plan import EFFORTS, Design, Device, Size, TrainPlan
from ragsearch.bench.trainee import Measured, Task
from ragsearch.bench.trainees import Bare, First, Original, Ours, Reading, Reference
from ragsearch.errors import BadInputError
from ragsearch.search.cluster import cluster
from ragsearch.spec import TrialSection

_TOLERANCES = {Device.CPU: 1e-4, Device.CUDA: 2e-2}
"""Relative, of the loss: stock code reads contexts padded, which moves the last bits."""


@dataclass(frozen=True, slots=True)
class Row:
    """What training costs in one design."""

    model: Size
    device: Device
    design: Design
    step_s: float
    tokens_per_s: float
    """Tokens of contexts, padding not counted, and of targets."""
    retrieval_share: float
    """Of a step, spent waiting for hits and passages."""
    peak_bytes: int
    """Of the process; on a GPU, of the GPU's memory."""
    val_s_per_example: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of the bench found."""

    rows: Sequence[Row]
    question_encoder_s: Mapping[tuple[Size, Device], float]
    """Of a step that trains the question encoder alone, which the bare design leaves out."""


def measure(plan: TrainPlan, report: Report) -> Figures:
    """Return what every design costs.

    Raises:
        BadInputError: If the plan asks what cannot be measured here.
        BenchError: If a design fails, finds other passages or computes another loss.
        ClusterUnavailableError: If Ray cannot be started.
    """
    plan.check()
    devices = _devices(plan)
    rows: list[Row] = []
    alone: dict[tuple[Size, Device], float] = {}
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="ragsearch-"))
        stack.enter_context(cluster("local"))
        for size in plan.sizes:
            folder = Path(place) / size
            report(f"{size}: models, and an index of {plan.n_passages} passages")
            models = make_models(size, folder)
            index = made(Kind.HNSW, plan.n_passages, models.dimension, folder)
            with _pool(index) as pool:
                for device in devices:
                    task = _task(plan, size, device, models, index, pool)
                    measuring = _Measuring(size, task, report)
                    rows += measuring.rows()
                    alone[size, device] = measuring.question_encoder_s
    return Figures(rows, alone)


def _devices(plan: TrainPlan) -> Sequence[Device]:
    if Device.CUDA in plan.devices and not torch.cuda.is_available():
        raise BadInputError.single("--device", "cuda is asked for, and torch finds no GPU")
    if plan.devices:
        return plan.devices
    return tuple(Device) if torch.cuda.is_available() else (Device.CPU,)


@contextmanager
def _pool(index: BenchIndex) -> Iterator[str]:
    """Give the name of a pool of one replica."""
    from ragsearch.retrieval.pool import Lease, pool_name, start_pool, stop_pool

    fingerprint = index.manifest.fingerprint
    name = pool_name(fingerprint)
    try:
        start_pool(index.folder, fingerprint)
        with Lease(name, "bench"):
            yield name
    finally:
        stop_pool(name)


def _task(
    plan: TrainPlan,
    size: Size,
    device: Device,
    models: BenchModels,
    index: BenchIndex,
    pool: str,
) -> Task:
    batch, effort = plan.batch_of(size), EFFORTS[size]
    n_train = (effort.n_warm + plan.steps_of(size)) * batch
    questions = make_questions(n_train + effort.n_val * batch)
    return Task(
        trial=_trial(plan, models, batch, device),
        index=index,
        pool=pool,
        questions=(questions[:n_train], questions[n_train:]),
        n_warm=effort.n_warm,
        device=device,
        threads=len(os.sched_getaffinity(0)),
        read=models.generator.with_name("read.safetensors"),
    )


def _trial(plan: TrainPlan, models: BenchModels, batch: int, device: Device) -> TrialSection:
    return TrialSection.model_validate({
        "model": {
            "question_encoder": str(models.question_encoder),
            "generator": str(models.generator),
        },
        "retrieval": {"n_docs": plan.n_docs, "prefetch": plan.prefetch},
        "optim": {"effective_batch": batch, "schedule": "constant"},
        "train": {
            "batch_size": batch,
            "eval_batch_size": batch,
            "max_epochs": 1,
            "compile": plan.compile,
            "precision": "32" if device is Device.CPU else "bf16-mixed",
        },
    })


class _Measuring:
    """The measuring of one model on one device, design after design."""

    def __init__(self, size: Size, task: Task, report: Report) -> None:
        self._size, self._task, self._report = size, task, report
        self.question_encoder_s = 0.0

    def rows(self) -> list[Row]:
        """Return what each design costs."""
        with _process(PlainProcess(Reference, self._task, threads=self._task.threads)) as first:
            (reading,) = ask([first], "read")
            (self.question_encoder_s,) = ask([first], "question_encoder_s")
        self._tell(f"question encoder alone: {_ms(self.question_encoder_s)} a step")
        return [self._row(design, reading) for design in Design]

    def _row(self, design: Design, reading: Reading) -> Row:
        with _process(self._started(design)) as process:
            if design is not Design.BARE:  # it reads each passage for itself: another loss
                (first,) = ask([process], "first")
                check_first(design, first, reading.first, _TOLERANCES[self._task.device])
            measured: Measured
            (measured,) = ask([process], "run")
        self._tell(f"{design}: {_ms(measured.step_s)} a step")
        return Row(
            model=self._size,
            device=self._task.device,
            design=design,
            step_s=measured.step_s,
            tokens_per_s=reading.n_tokens / measured.step_s,
            retrieval_share=measured.waiting_s / measured.step_s,
            peak_bytes=measured.peak_bytes,
            val_s_per_example=measured.val_s,
        )

    def _started(self, design: Design) -> Process:
        task = self._task
        match design:
            case Design.BARE:
                return PlainProcess(Bare, task, threads=task.threads)
            case Design.ORIGINAL:
                return PlainProcess(Original, task, threads=task.threads)
            case Design.RAGSEARCH:
                return RayProcess(Ours, task)

    def _tell(self, what: str) -> None:
        self._report(f"{self._size}, {self._task.device}: {what}")


def check_first(design: Design, first: First, expected: First, tolerance: float) -> None:
    """Compare what a design makes of the first batch with what the index in one process gives.

    Args:
        design: Which.
        first: What it found and computed.
        expected: What it must.
        tolerance: Of the loss, as a share of it.

    Raises:
        BenchError: If it finds other passages, or the loss differs by more.
    """
    pairs = zip(first.passages, expected.passages, strict=True)
    n_other = sum(found != wanted for found, wanted in pairs)
    if n_other:
        n = len(expected.passages)
        raise BenchError(f"design {design}: {n_other} of {n} questions find other passages")
    if not abs(first.loss - expected.loss) <= tolerance * abs(expected.loss):
        raise BenchError(
            f"design {design}: the loss of the first batch is {first.loss:.6f} instead of "
            f"{expected.loss:.6f}"
        )


@contextmanager
def _process(process: Process) -> Iterator[Process]:
    """Give a process that ends with the block."""
    try:
        yield process
    finally:
        process.end()


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
