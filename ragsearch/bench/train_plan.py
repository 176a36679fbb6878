"""What a run of the training bench is asked for, and whether this machine can give it.

Knows nothing of torch or Ray: checking a plan costs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ragsearch.bench.plan import out_of_range
from ragsearch.errors import BadInputError, Mistake
from ragsearch.retrieval.memory import available_bytes
from ragsearch.training.compiler import why_not_compiled


class Size(StrEnum):
    """How large the models are that are trained."""

    TINY = "tiny"
    BASE = "base"


class Device(StrEnum):
    """What they are trained on: a CPU in float32, a GPU in bfloat16."""

    CPU = "cpu"
    CUDA = "cuda"


class Design(StrEnum):
    """What is compared, in the order it is measured and shown."""

    BARE = "bare"
    ORIGINAL = "original"
    RAGSEARCH = "ragsearch"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is trained where a plan does not say."""

    batch: int
    steps: int
    n_warm: int
    """Steps before those that are timed."""
    n_val: int
    """Batches of validation."""
    needed_bytes: int
    """Memory that the hungriest design takes, 8 questions of 5 passages a step at most."""


EFFORTS = {
    Size.TINY: Effort(batch=8, steps=20, n_warm=3, n_val=4, needed_bytes=1_500_000_000),
    Size.BASE: Effort(batch=2, steps=4, n_warm=1, n_val=1, needed_bytes=7_000_000_000),
}


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What is to be measured."""

    sizes: tuple[Size, ...] = (Size.TINY, Size.BASE)
    devices: tuple[Device, ...] = ()
    """Where; none means the CPU, and a GPU if there is one."""
    steps: int | None = None
    """Timed optimiser steps; by default as `EFFORTS` has it, and so `batch`."""
    batch: int | None = None
    """Questions a step, and a batch of validation."""
    n_docs: int = 5
    n_passages: int = 10_000
    prefetch: int = 0
    """`retrieval.prefetch` of ragsearch's design."""
    compile: bool = False
    """`train.compile` of ragsearch's design."""

    def batch_of(self, size: Size) -> int:
        """Return the questions of a step."""
        return EFFORTS[size].batch if self.batch is None else self.batch

    def steps_of(self, size: Size) -> int:
        """Return the number of timed steps."""
        return EFFORTS[size].steps if self.steps is None else self.steps

    def check(self) -> None:
        """Refuse what cannot be measured, or not here.

        Raises:
            BadInputError: With every reason.
        """
        ranges = {
            "--passages": (self.n_passages, 100, 10**9),
            "--n-docs": (self.n_docs, 1, 50),
            "--prefetch": (self.prefetch, 0, 1),
        }
        if self.steps is not None:
            ranges["--steps"] = (self.steps, 1, 100_000)
        if self.batch is not None:
            ranges["--batch"] = (self.batch, 1, 1024)
        mistakes = [*out_of_range(ranges), *self._no_room(), *self._no_compiler()]
        if mistakes:
            raise BadInputError(mistakes)

    def _no_compiler(self) -> Iterator[Mistake]:
        why_not = why_not_compiled(on_gpu=Device.CUDA in self.devices)
        if self.compile and why_not:
            yield Mistake("--compile", "", why_not)

    def _no_room(self) -> Iterator[Mistake]:
        memory = available_bytes()
        for size in self.sizes:
            if (needed := EFFORTS[size].needed_bytes) > memory:
                what = f"takes {needed / 1e9:.1f} GB, {memory / 1e9:.1f} are available"
                yield Mistake("--model", "", f"{size} {what}; measure a smaller one")
