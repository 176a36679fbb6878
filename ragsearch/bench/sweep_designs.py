"""The three ways to sweep, each told how many trials, and how many at a time.

In: a `Job`. Out: `Scored` epochs with their times, after the design has ended. Weights that the
original's way left are scored here, by the evaluation that `ragsearch` has for its own.
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_model

from ragsearch.bench.indexes import BenchIndex
from ragsearch.bench.original_trial import (
    OriginalJob,
    OriginalTrial,
    Weights,
    original_trial,
    weights_in,
)
from ragsearch.bench.processes import BenchError, PlainProcess
from ragsearch.bench.sweep_plan import Design
from ragsearch.data.questions import read_questions
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.cluster import cluster
from ragsearch.search.record import SearchRecord
from ragsearch.spec import Spec, load_spec
from ragsearch.training.evaluation import evaluate, summarise
from ragsearch.training.model import assemble
from ragsearch.training.pipeline import Pipeline

Settings = Mapping[str, object]


class Scored(NamedTuple):
    """What a trial was worth after an epoch."""

    trial: int
    epoch: int
    at_s: float
    """Since its design was started."""
    em: float


@dataclass(frozen=True)
class Job:
    """A sweep that a design is to do."""

    space: Path
    overrides: Sequence[str]
    index: BenchIndex
    settings: Sequence[Settings]
    """What varies, trial by trial; `ragsearch` draws for itself after the first."""
    concurrent: int
    cores: int
    root: Path
    """The folder of the index, and of `ragsearch`'s searches."""
    place: Path
    """A folder of the design's own."""

    @property
    def spec(self) -> Spec:
        """The search."""
        return load_spec(self.space, self.overrides)

    def original(self, threads: int) -> OriginalJob:
        """Return what trials in the original's way share."""
        return OriginalJob(self.spec, self.index, self.place, threads)


def sweep_in_a_loop(job: Job) -> None:
    """Train one configuration after another, each in a process of its own."""
    shared = job.original(max(1, job.cores // job.concurrent))
    numbered = list(enumerate(job.settings))
    for start in range(0, len(numbered), job.concurrent):
        processes = [
            PlainProcess(OriginalTrial, shared, number, settings, threads=shared.threads)
            for number, settings in numbered[start : start + job.concurrent]
        ]
        try:
            for process in processes:
                process.begin("fit")
            for process in processes:
                process.result()
        finally:
            for process in processes:
                process.end()


def sweep_with_ray_and_mlflow(job: Job) -> None:
    """Train the configurations as trials of Ray Tune, its own MLflow callback told of them.

    Raises:
        BenchError: If a trial failed.
    """
    with cluster("local", num_cpus=max(job.cores, job.concurrent), num_gpus=0):
        from ray import tune
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        configs = [{"trial": n, "settings": dict(s)} for n, s in enumerate(job.settings)]
        results = tune.Tuner(
            tune.with_resources(
                _flat(partial(original_trial, job=job.original(1))), {"cpu": 1}
            ),
            param_space={"one": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(max_concurrent_trials=job.concurrent),
            run_config=tune.RunConfig(
                storage_path=str(job.place / "tune"),
                verbose=0,
                callbacks=[
                    MLflowLoggerCallback(
                        tracking_uri=f"sqlite:///{job.place / 'mlflow.db'}",
                        experiment_name="sweep",
                    )
                ],
            ),
        ).fit()
        if results.errors:
            raise BenchError(f"design ray_mlflow: a trial failed: {results.errors[0]}")


def _flat(train: Callable[[dict[str, object]], None]) -> Callable[[dict[str, object]], None]:
    def one(config: dict[str, object]) -> None:
        train(config["one"])  # type: ignore[arg-type] # as it was put there

    return one


def sweep_with_ragsearch(job: Job) -> None:
    """Run the space file, as a user does.

    Raises:
        BenchError: If the search failed.
    """
    cpu = min(1.0, job.cores / job.concurrent)
    own = [
        f"budget.trials={len(job.settings)}",
        f"resources.max_concurrent={job.concurrent}",
        f"resources.per_trial.cpu={cpu}",
        f"tracking.uri=sqlite:///{job.place / 'mlflow.db'}",
    ]
    options = [part for one in [*job.overrides, *own] for part in ("-o", one)]
    command = ["run", str(job.space), "--output", str(job.root), *options]
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", "ragsearch", *command],
        check=False, capture_output=True, text=True, cwd=job.place,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise BenchError(f"design ragsearch: the search ended with {done.returncode}: {last}")


SWEEPS: Mapping[Design, Callable[[Job], None]] = {
    Design.LOOP: sweep_in_a_loop,
    Design.RAY_MLFLOW: sweep_with_ray_and_mlflow,
    Design.RAGSEARCH: sweep_with_ragsearch,
}


@dataclass
class Scorer:
    """Says what trials of any design were worth, by one evaluation."""

    job: Job
    known: dict[str, float] = field(default_factory=dict)
    """By the hash of configuration and weights: designs that train alike are scored once."""

    def scored(self, design: Design, job: Job, started_s: float) -> list[Scored]:
        """Return the epochs of a design that has ended, by the time they were there.

        Args:
            design: Which.
            job: What it did.
            started_s: When it was started, in seconds since 1970.
        """
        if design is Design.RAGSEARCH:
            found = list(_recorded(job, started_s))
        else:
            found = [
                Scored(w.trial, w.epoch, w.file.stat().st_mtime - started_s, self._em(job, w))
                for w in weights_in(job.place)
            ]
        return sorted(found, key=lambda scored: scored.at_s)

    def _em(self, job: Job, weights: Weights) -> float:
        settings = job.settings[weights.trial]
        digest = hashlib.sha256(repr(sorted(settings.items())).encode())
        digest.update(weights.file.read_bytes())
        key = digest.hexdigest()
        if key not in self.known:
            self.known[key] = _evaluated(job, settings, weights.file)
        return self.known[key]


def _evaluated(job: Job, settings: Settings, weights: Path) -> float:
    spec = job.spec
    model = assemble(spec.trial_with(settings))
    load_model(model.network, weights)
    model.stop_training()
    data = spec.file.data
    index = open_index(job.index.folder, verify=False)
    pipeline = Pipeline(model, InProcessRetriever(index))
    examples = list(evaluate(pipeline, read_questions(Path(data.val), data.n_val)))
    return summarise(examples)["em"]


def _recorded(job: Job, started_s: float) -> Sequence[Scored]:
    searches = job.root.glob("*/search.json")
    newest = max(searches, key=lambda file: file.stat().st_mtime)
    record = SearchRecord.load(newest.parent)
    return [
        Scored(trial.trial, int(epoch["epoch"]), reported_s - started_s, epoch["val/em"])
        for trial in record.trials.values()
        for epoch, reported_s in zip(trial.epochs, trial.reported, strict=True)
    ]


def started(design: Design, job: Job) -> float:
    """Do a sweep, and return when it was started, in seconds since 1970."""
    job.place.mkdir(parents=True)
    started_s = time.time()
    SWEEPS[design](job)
    return started_s
