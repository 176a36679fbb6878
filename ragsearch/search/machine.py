"""What a search asks of this machine, where Ray runs only here, and what the machine has.

Asks the system, not torch: a plan costs nothing.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ragsearch.errors import Mistake
from ragsearch.spec import Spec
from ragsearch.training.compiler import why_not_compiled


def machine() -> dict[str, int]:
    """Return how many CPU cores and GPUs there are."""
    return {"cpu": len(os.sched_getaffinity(0)), "gpu": _n_gpus()}


def beyond_machine(spec: Spec) -> Iterator[Mistake]:
    """Find what a search asks for and this machine has not; of a cluster nothing is known.

    Yields:
        Mistakes, each with its line.
    """
    if spec.file.resources.cluster == "local":
        yield from _oversized(spec)
        yield from _uncompilable(spec)


def _oversized(spec: Spec) -> Iterator[Mistake]:
    """Find what a trial asks for and this machine has not."""
    asked, have = spec.file.resources.per_trial, machine()
    for kind, want in (("cpu", asked.all_cpu), ("gpu", asked.all_gpu)):
        if want > have[kind]:
            what = (
                f"a trial asks for {want:g} and this machine has {have[kind]}; ask for less "
                "or join a larger cluster with resources.cluster"
            )
            yield spec.mistake(f"resources.per_trial.{kind}", what)


def _uncompilable(spec: Spec) -> Iterator[Mistake]:
    """Find what asks for a compiler; on a cluster each trial looks for one itself."""
    is_asked = spec.options("train.compile")
    why_not = why_not_compiled(on_gpu=spec.file.resources.per_trial.gpu > 0)
    if any(is_asked) and why_not:
        path = ("trial", "train", "compile") if is_asked[0] else ("space", "train.compile")
        yield spec.mistake(path, why_not)


def _n_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return sum(
        1 for device in Path("/dev").iterdir() if re.fullmatch(r"nvidia\d+", device.name)
    )
