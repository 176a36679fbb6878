"""What a trial needs to go on after an epoch, in a folder: written and read without pickle.

Two files: `state.json`, and a safetensors file named in it, which has the trained weights and
what the optimiser keeps of each. `state.json` takes its place last and at once: a crash while a
state is written leaves the one before, if there was one.

What follows from the configuration is not in it: parts that are not trained are opened again,
and learning rates are those of the schedule after so many steps. So a state belongs to its
`origin`, and is refused to any other.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ragsearch.errors import BadInputError
from ragsearch.training.collapse import Hits
from ragsearch.training.module import Done, RagModule
from ragsearch.training.optimizer import fast_forward
from ragsearch.training.origin import Origin, differences
from ragsearch.training.randomness import RandomState, random_state, set_random_state

STATE_FILE = "state.json"
_WEIGHT = "weights/"
_OPTIMIZER = "optimizer/"
_CHUNK = 2**22  # bytes read at a time

Kept = dict[str, dict[str, Any]]
"""What an optimiser keeps, by weight and name. Any: tensors and numbers."""


@dataclass(frozen=True)
class Progress:
    """How far a trial is."""

    epoch: int = 0
    """Epochs done."""
    n_steps: int = 0
    """Optimiser steps done."""
    best: float = -math.inf
    """The objective at its best so far; of one to be made small, its negative."""
    n_worse: int = 0
    """Validations since then."""
    is_over: bool = False
    """Nothing is left to do."""

    @property
    def done(self) -> Done:
        """What the trial has behind it."""
        return Done(self.epoch, self.n_steps)


@dataclass(frozen=True)
class Snapshot:
    """What a state says beside weights and what the optimiser keeps of them."""

    origin: Origin
    progress: Progress
    scaler: dict[str, float]
    """Of gradients in float16; empty where there is none."""
    hits_before: list[Hits]
    """What was found for each validation question before training; none without retrieval."""
    random: list[RandomState]
    """Of each worker."""


@dataclass(frozen=True)
class TrialState:
    """A state that was found whole, and to be of this trial."""

    snapshot: Snapshot
    tensors: Path | None
    """Their file; None of a trial that is over."""
    numbers: Kept
    """What the optimiser keeps that are no tensors."""

    @property
    def progress(self) -> Progress:
        """How far the trial is."""
        return self.snapshot.progress

    def restore(self, module: RagModule) -> None:
        """Have a module be as it was, random numbers aside.

        Args:
            module: One that Lightning is about to train.

        Raises:
            BadInputError: If the weights are not those of the module.
        """
        assert self.tensors is not None, "what is over does not go on"
        with _damage_told(self.tensors):
            tensors = load_file(self.tensors)
            trained = _trained(module.network)
            _restore_weights(trained, tensors)
            _restore_optimizer(module.optimizer, trained, _kept_of(tensors, self.numbers))
        fast_forward(module.schedule, self.progress.n_steps)
        module.trainer.precision_plugin.load_state_dict(self.snapshot.scaler)
        module.hits_before = module.workers.share(self.snapshot.hits_before)


@dataclass(frozen=True)
class Keeper:
    """Has a trial go on from a state, and keeps what it needs to go on from the next ones."""

    origin: Origin
    order: torch.Generator
    """Draws the order of the questions to train on."""
    before: TrialState | None = None
    """None where the trial starts."""

    @property
    def so_far(self) -> Progress:
        """How far the trial is when Lightning starts to train it."""
        return Progress() if self.before is None else self.before.progress

    def restore(self, module: RagModule) -> None:
        """Have a module that Lightning is about to train be as it was, if it goes on.

        Raises:
            BadInputError: If the weights of the state are not those of the module.
        """
        if self.before is not None:
            self.before.restore(module)
            mine = self.before.snapshot.random[module.workers.rank]
            set_random_state(mine, self.order)

    def keep(self, module: RagModule, progress: Progress) -> Callable[[Path], None]:
        """Return what writes the state; all workers have to ask, and any of them may write."""
        snapshot = Snapshot(
            self.origin,
            progress,
            module.trainer.precision_plugin.state_dict(),
            module.workers.gather(module.hits_before or []),
            module.workers.gather([random_state(self.order)]),
        )
        return partial(save_state, snapshot=snapshot, module=module)


def save_state(folder: Path, snapshot: Snapshot, module: RagModule) -> None:
    """Write a state in the place of the one before; if the trial is over, without weights.

    Args:
        folder: It is made if need be.
        snapshot: What there is to say beside what the module has.
        module: In training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors, numbers = ({}, {}) if snapshot.progress.is_over else _parted(module)
    file = _save_tensors(folder, tensors) if tensors else None
    content = asdict(snapshot) | {"tensors": file and file.name, "numbers": numbers}
    beside = folder / f"{STATE_FILE}.new"
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(folder / STATE_FILE)
    for other in folder.glob("*.safetensors"):
        if other != file:
            other.unlink()


def _save_tensors(folder: Path, tensors: dict[str, Tensor]) -> Path:
    written = folder / "tensors.new"
    save_file(tensors, written)
    file = folder / f"{_checksum(written)}.safetensors"
    written.replace(file)
    return file


def open_state(folder: Path, origin: Origin, mutable: Sequence[str] = ()) -> TrialState:
    """Return the state of a folder, found whole.

    Args:
        folder: What `save_state` wrote.
        origin: What the trial is that is to go on.
        mutable: Paths in its configuration that may be other than they were.

    Raises:
        BadInputError: If there is none, or a damaged one, or one of another origin.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        what = f"no state of a trial is here: {STATE_FILE} is missing; start the trial anew"
        raise BadInputError.single(folder, what)
    with _damage_told(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        name, numbers = content.pop("tensors"), content.pop("numbers")
        tensors = None if name is None else folder / Path(name).name
        progress = Progress(**content.pop("progress"))
        state = TrialState(Snapshot(progress=progress, **content), tensors, numbers)
    may_differ = {f"trial.{path}": origin.get(f"trial.{path}") for path in mutable}
    if different := differences(state.snapshot.origin | may_differ, origin):
        what = f"is the state of another trial: {'; '.join(different)}; start this one anew"
        raise BadInputError.single(folder, what)
    if tensors is not None:
        with _damage_told(tensors):
            if _checksum(tensors) != tensors.stem:
                raise ValueError("its checksum is another")
    return state


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def _parted(module: RagModule) -> tuple[dict[str, Tensor], Kept]:
    """Return what is written as tensors and what as numbers."""
    trained = _trained(module.network)
    tensors = {f"{_WEIGHT}{name}": weight.detach() for name, weight in trained.items()}
    numbers: Kept = {}
    for name, weight in trained.items():
        for key, value in module.optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{key}/{name}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, numbers


def _restore_weights(
    trained: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    found = {name.removeprefix(_WEIGHT) for name in tensors if name.startswith(_WEIGHT)}
    if odd := found ^ trained.keys():
        raise ValueError(f"{len(odd)} weights are in it or in the model only, as {min(odd)}")
    with torch.no_grad():
        for name, weight in trained.items():
            was = tensors[f"{_WEIGHT}{name}"]
            if (was.shape, was.dtype) != (weight.shape, weight.dtype):
                raise ValueError(f"{name} was {was.dtype} of shape {tuple(was.shape)}")
            weight.copy_(was)


def _kept_of(tensors: Mapping[str, Tensor], numbers: Kept) -> Kept:
    kept = {name: dict(values) for name, values in numbers.items()}
    for path, tensor in tensors.items():
        if path.startswith(_OPTIMIZER):
            key, _, name = path.removeprefix(_OPTIMIZER).partition("/")
            kept.setdefault(name, {})[key] = tensor
    return kept


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], kept: Kept
) -> None:
    """Give an optimiser what it kept; its settings stay those of the configuration."""
    names = {id(weight): name for name, weight in trained.items()}
    order = [
        names[id(weight)] for group in optimizer.param_groups for weight in group["params"]
    ]
    state = {place: kept[name] for place, name in enumerate(order) if name in kept}
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def _checksum(file: Path) -> str:
    """Return CRC-32: it is to find damage, and six times as quick as SHA-256."""
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError, KeyError, SafetensorError) as error:
        what = f"the state of a trial is damaged ({error}); start the trial anew"
        raise BadInputError.single(file, what) from error
