"""What a search will do, said before it does it: trials, rungs, index bytes, memory.

Reads model configurations as JSON and file sizes; loads no model, no index and no Ray.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ragsearch.data.check import Inputs
from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.manifest import SKETCH_FROM_PASSAGES, check_files, read_manifest
from ragsearch.retrieval.memory import readable
from ragsearch.search.afterwards import lines
from ragsearch.search.automatic import longest, most_trials, scheduler_of, searcher_of
from ragsearch.search.cores import AtOnce, n_replicas, trials_at_once
from ragsearch.search.machine import beyond_machine, machine
from ragsearch.search.turns import expected_turns
from ragsearch.spec import Spec
from ragsearch.spec.index_section import IndexSection
from ragsearch.spec.search_rules import rung_epochs
from ragsearch.spec.trial import RAG_TYPES

_REPLICA_BYTES = 120 << 20  # a Ray worker with faiss and pyarrow, index pages not counted
_TORCH_BYTES = 180 << 20  # in a replica that searches with a sketch
_TRIAL_BYTES = 900 << 20  # a Ray worker with torch, transformers and lightning
_COPIES = {  # weights, gradients; two moments of AdamW, while Adafactor's are small
    "adamw": 4,
    "adafactor": 2,
}

RARE = 0.05  # below, a searcher asks twenty times for each trial


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """One index a search needs."""

    name: str
    n_passages: int
    index_bytes: int | None
    """Size of one copy in memory; None if the encoder is not here yet."""
    replicas: int
    """0 where each trial searches by itself."""
    copies: int = 1
    """Copies in memory: one for all replicas of a node that map it."""
    has_sketch: bool = False
    """Whether exact search rules passages out by a sketch, for which replicas import torch."""

    @property
    def pool_bytes(self) -> int | None:
        """Size of all copies in memory; None if that of one is not known."""
        return None if self.index_bytes is None else self.copies * self.index_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search will do."""

    trials: int
    searcher: str
    """Who proposes trials; where that was left to `auto`, also why."""
    scheduler: str
    """Who stops them; where that was left to `auto`, also why."""
    varied: tuple[str, ...]
    """Dotted paths of what varies."""
    acceptance: float | None
    """Share of random proposals that the constraints accept; None without constraints."""
    max_epochs: int
    rungs: tuple[int, ...]
    """Epochs at which trials are compared; none without early stopping."""
    concurrent: int | None
    """Trials at a time on this machine; None where the cluster decides."""
    cores: int | None
    """Cores of this machine; None where trials run elsewhere."""
    cpu: float
    """CPUs a trial holds."""
    search_threads: int
    """Threads of all replicas; they hold no CPU, and are busy only while a trial waits."""
    n_train: int
    n_val: int
    afterwards: tuple[str, ...]
    """What follows the trials, a line each."""
    indexes: tuple[IndexPlan, ...]
    turns: str
    """In which turns indexes are served, and why; empty where all are served together."""
    memory_bytes: int | None
    """Processes, weights, optimiser states and indexes on this machine, without the activations
    of batches; None where a size is not known yet."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Give the plan as plain data."""
        return asdict(self)

    def _core_lines(self) -> list[str]:
        if self.cores is None or self.concurrent is None:
            return []
        n, threads = self.concurrent, self.search_threads
        line = f"cores     {n * self.cpu:g} of {self.cores} held by {_counted(n, 'trial')}"
        if threads:
            line += f", and busy with {_counted(threads, 'search thread')} while one waits"
        return [line]

    def _acceptance_lines(self) -> list[str]:
        if self.acceptance is None:
            return []
        share = f"{self.acceptance:.1%}"
        return [f"accepted  {share} of random proposals; the rest break a constraint"]

    def _memory_line(self) -> str:
        if self.concurrent is None:
            return "memory    as many trials as the cluster has room for"
        if self.memory_bytes is None:
            return f"memory    {_size(None)}"
        return f"memory    {_size(self.memory_bytes)}, and what the batches of trials take"

    def lines(self) -> list[str]:
        """Write the plan for people."""
        stops = f"compared after epoch {', '.join(map(str, self.rungs))}" if self.rungs else ""
        at_once = f", {self.concurrent} at a time" if self.concurrent else ""
        lines = [
            f"trials    {self.trials} (trial 0 is the baseline){at_once}",
            f"varied    {', '.join(self.varied) or 'nothing: a plain training run'}",
            f"searcher  {self.searcher}",
            f"scheduler {self.scheduler}",
            *self._acceptance_lines(),
            f"epochs    up to {self.max_epochs}; {stops or 'compared at their end'}",
            f"questions {self.n_train} to train on, {self.n_val} to validate on",
            *self.afterwards,
            *(_index_line(index) for index in self.indexes),
            *([f"in turn   {self.turns}"] if self.turns else []),
            *self._core_lines(),
            self._memory_line(),
        ]
        return lines + [f"warning   {warning}" for warning in self.warnings]


def make_plan(spec: Spec, inputs: Inputs) -> Plan:
    """Work out what a search will do on this machine.

    Args:
        spec: The search.
        inputs: Counts of its data files.

    Returns:
        The plan, which prints itself line by line.

    Raises:
        BadInputError: If a trial asks for more than this machine has, and Ray runs only here;
            or it has no compiler for `train.compile`; if question encoder and index have
            vectors of different width; if an index folder lacks files.
    """
    mistakes = [*_damaged_folders(spec)]
    mistakes = mistakes or [*beyond_machine(spec), *_unequal_widths(spec)]
    if mistakes:
        raise BadInputError(mistakes)
    at_once = _at_once(spec)
    concurrent = at_once.n_trials if at_once else None
    indexes = tuple(_index_plan(spec, inputs, name) for name in spec.used_indexes)
    served = expected_turns(spec, {index.name: index.pool_bytes for index in indexes})
    acceptance = spec.acceptance() if spec.space.constraints else None
    return Plan(
        trials=most_trials(spec),
        searcher=str(searcher_of(spec)),
        scheduler=str(scheduler_of(spec)),
        varied=tuple(spec.space.paths),
        acceptance=acceptance,
        max_epochs=longest(spec),
        rungs=tuple(rungs(spec)),
        concurrent=concurrent,
        cores=machine()["cpu"] if spec.file.resources.cluster == "local" else None,
        cpu=spec.file.resources.per_trial.all_cpu,
        search_threads=sum(index.replicas for index in indexes) * spec.file.pool.threads,
        n_train=inputs.n_train,
        n_val=inputs.n_val,
        afterwards=tuple(lines(spec, inputs.n_test)),
        indexes=indexes,
        turns=served.why,
        memory_bytes=_memory(spec, indexes, served.turns, concurrent),
        warnings=(
            *inputs.warnings,
            *filter(None, [at_once and at_once.warning, served.warning]),
            *_grid_below_budget(spec),
            *_warm_up_alone(spec, inputs.n_train),
            *_rarely_accepted(spec, acceptance),
        ),
    )


def rungs(spec: Spec) -> list[int]:
    """Give the epochs at which trials are compared; empty without rungs."""
    settings, last = spec.file.search.scheduler, longest(spec)
    match scheduler_of(spec).name:
        case "asha":
            return rung_epochs(settings.min, settings.eta, last)
        case "hyperband":
            return sorted(_bracket_rungs(last, settings.eta))
        case "pbt" | "pb2":
            return list(range(settings.interval, last, settings.interval))
        case _:
            return []


def _bracket_rungs(last: int, eta: int) -> set[int]:
    """Return the epochs of all brackets of HyperBand, as Ray lays them out."""
    epochs = set()
    for bracket in range(round(math.log(last) / math.log(eta)) + 1):
        epoch = int(last * eta**-bracket)
        while 0 < epoch < last:
            epochs.add(epoch)
            epoch *= eta
    return epochs


def _damaged_folders(spec: Spec) -> Iterator[Mistake]:
    """Find index folders whose files are not all there, by their sizes."""
    for name in spec.used_indexes:
        if (folder := spec.file.indexes[name].folder) is None:
            continue
        try:
            check_files(Path(folder), read_manifest(Path(folder)), contents=False)
        except BadInputError as error:
            for mistake in error.mistakes:
                yield spec.mistake(f"indexes.{name}.folder", f"{mistake.place}: {mistake.what}")


def _unequal_widths(spec: Spec) -> Iterator[Mistake]:
    """Find indexes whose vectors the question encoder's cannot be multiplied with."""
    told = set()
    pairs = spec.combinations("model.question_encoder", "retrieval.index", "model.type")
    for question_encoder, name, kind in pairs:
        index = spec.file.indexes.get(str(name))
        if index is None or kind not in RAG_TYPES or not question_encoder:
            continue
        width, other = _hidden_size(str(question_encoder)), _dimension(index)
        if width and other and width != other and name not in told:
            told.add(name)
            what = (
                f"gives vectors of {other} numbers and {question_encoder} of {width}; choose "
                "encoders of one width"
            )
            yield spec.mistake(
                f"indexes.{name}.{'folder' if index.folder else 'encoder'}", what
            )


def _grid_below_budget(spec: Spec) -> Iterator[str]:
    n_trials, budget = most_trials(spec), spec.file.budget.trials
    if n_trials < budget:
        what = f"the grid has {_counted(n_trials, 'trial')}, so the search ends before {budget}"
        yield str(spec.mistake("budget.trials", what))


def _warm_up_alone(spec: Spec, n_train: int) -> Iterator[str]:
    """Tell of a baseline that ends before its learning rate is what the file says."""
    optim, n_epochs = spec.file.trial.optim, spec.file.trial.train.max_epochs
    n_steps = n_epochs * math.ceil(n_train / optim.effective_batch)
    if optim.warmup_steps >= n_steps > 0:
        what = (
            f"{optim.warmup_steps} steps of warm-up are all of the {n_steps} that the baseline "
            "takes; lower it, or say warmup_share"
        )
        yield str(spec.mistake("trial.optim.warmup_steps", what))


def _rarely_accepted(spec: Spec, acceptance: float | None) -> Iterator[str]:
    if acceptance is not None and acceptance < RARE:
        what = f"accept {acceptance:.1%} of random proposals; narrower domains find more"
        yield str(spec.mistake("constraints", what))


def _at_once(spec: Spec) -> AtOnce | None:
    """Return how many trials run at a time, None where another machine decides."""
    resources = spec.file.resources
    if resources.cluster != "local":
        most = resources.max_concurrent
        return None if most is None else AtOnce(most, "")
    asked, have = resources.per_trial, machine()
    fit = [int(have["cpu"] / asked.all_cpu)]
    if asked.gpu:
        fit.append(int(have["gpu"] / asked.all_gpu))
    return trials_at_once(spec, min(fit), have["cpu"])


def _index_plan(spec: Spec, inputs: Inputs, name: str) -> IndexPlan:
    settings = spec.file.indexes[name]
    n_passages = inputs.n_passages[name]
    dimension = _dimension(settings)
    has_sketch = _has_sketch(settings, n_passages)
    size = None
    if dimension is not None:
        size = _index_bytes(settings.faiss, n_passages, dimension)
        size += n_passages * dimension * has_sketch  # a byte a number
    pool, replicas = spec.file.pool, n_replicas(spec, name)
    copies = pool.on_one_node if replicas and pool.memory == "in_memory" else 1
    return IndexPlan(name, n_passages, size, replicas, copies, has_sketch)


def _has_sketch(settings: IndexSection, n_passages: int) -> bool:
    is_flat = settings.faiss == "Flat"
    return is_flat and n_passages >= SKETCH_FROM_PASSAGES * settings.shards


def _dimension(settings: IndexSection) -> int | None:
    """Return the width of an index's vectors, None where it is not known yet."""
    if settings.folder is not None:
        return read_manifest(Path(settings.folder)).dimension
    return _hidden_size(settings.encoder)


def _hidden_size(model: str) -> int | None:
    config = Path(model) / "config.json"
    if not config.is_file():
        return None
    content = json.loads(config.read_text())
    content = content.get("question_encoder", content)  # a whole RAG checkpoint has both parts
    size = content.get("projection_dim") or content.get("hidden_size")
    return int(size) if size else None


def _index_bytes(faiss: str, n_passages: int, dimension: int) -> int:
    """Estimate an index's size from its factory string; codes first, then links and ids."""
    code = dimension * 4
    if match := re.search(r"PQ(\d+)", faiss):
        code = int(match[1])
    elif re.search(r"SQ(fp16|bf16)", faiss):
        code = dimension * 2
    elif re.search(r"SQ8", faiss):
        code = dimension
    links = 0
    if match := re.search(r"HNSW(\d+)?", faiss):
        links = int(match[1] or 32) * 2 * 4
    ids = 8 if "IVF" in faiss else 0
    return n_passages * (code + links + ids)


def _memory(
    spec: Spec,
    indexes: tuple[IndexPlan, ...],
    turns: Sequence[Sequence[str]],
    concurrent: int | None,
) -> int | None:
    trial = spec.file.trial
    models = filter(None, (trial.model.question_encoder, trial.model.generator))
    parts = [_weights(model) for model in models]
    sizes = [*parts, *(index.index_bytes for index in indexes)]
    if concurrent is None or any(size is None for size in sizes):
        return None
    weights = sum(size for size in parts if size is not None)
    pools = {
        index.name: (index.pool_bytes or 0)
        + index.replicas * (_REPLICA_BYTES + _TORCH_BYTES * index.has_sketch)
        for index in indexes
    }
    served = max(sum(pools[name] for name in turn) for turn in turns)
    n_processes = concurrent * spec.file.resources.per_trial.workers
    return served + n_processes * (_TRIAL_BYTES + _COPIES[trial.optim.optimizer] * weights)


def _weights(model: str) -> int | None:
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) if files else None


def _index_line(index: IndexPlan) -> str:
    line = f"index     {index.name}: {index.n_passages} passages, {_size(index.index_bytes)}"
    users = _counted(index.replicas, "replica") if index.replicas else "all trials"
    return f"{line}, {index.copies} copies" if index.copies > 1 else f"{line} shared by {users}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "size not known before the model is here"
    return readable(n_bytes)
