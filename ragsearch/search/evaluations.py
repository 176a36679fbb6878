"""Trained models of a search asked again, in Ray tasks beside no trial.

In: where a model is, the settings to ask it under, and questions. Out: its scores under each.
Each task loads one model and occupies what a worker of a trial does; the pool serves it as it
serves trials.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ragsearch.data.questions import read_questions
from ragsearch.search.ending import killed_for_memory
from ragsearch.search.trainable import TrialJob, retriever_for
from ragsearch.spec import with_values

_TURN_S = 0.5  # how long an interruption may go unnoticed


@dataclass(frozen=True)
class Evaluation:
    """What a model is to be asked."""

    key: int
    """By which the caller knows it."""
    checkpoint: Path
    """Folder that a trial saved."""
    questions: str
    """File of questions."""
    limit: int | None
    """Use only the first so many."""
    settings: Sequence[Mapping[str, object]] = field(default=({},))
    """What differs from the trial, by dotted path."""


class Scored(NamedTuple):
    """A model's scores under one setting."""

    metrics: dict[str, float]
    """Averages by name, `n` among them."""
    rows: list[dict[str, object]]
    """Each question's."""


class Outcome(NamedTuple):
    """An evaluation that has ended."""

    evaluation: Evaluation
    scored: list[Scored]
    """One a setting; none where it failed."""
    reason: str | None
    """Why it failed, in one line."""


def evaluate_all(
    job: TrialJob, evaluations: Sequence[Evaluation], interrupted: Callable[[], bool]
) -> Iterator[Outcome]:
    """Yield evaluations as they end, as many at a time as Ray has room for.

    Args:
        job: What the trials of the search share.
        evaluations: Which models to ask, and what.
        interrupted: Tells whether to leave the rest undone.
    """
    import ray

    asked, shared = job.spec.file.resources.per_trial, ray.put(job)
    task: Any = ray.remote(evaluate_checkpoint)  # Any: Ray types no options of a task
    task = task.options(num_cpus=asked.cpu, num_gpus=asked.gpu, max_retries=1)
    at_work = {task.remote(shared, one): one for one in evaluations}
    try:
        while at_work and not interrupted():
            ended, _ = ray.wait(list(at_work), timeout=_TURN_S)
            for reference in ended:
                yield _outcome(at_work.pop(reference), reference)
    finally:
        for reference in at_work:
            ray.cancel(reference, force=True)


def _outcome(evaluation: Evaluation, reference: Any) -> Outcome:  # noqa: ANN401 (of Ray)
    import ray

    try:
        return Outcome(evaluation, ray.get(reference), None)
    except ray.exceptions.OutOfMemoryError as error:
        return Outcome(evaluation, [], f"out of memory: {killed_for_memory(error)}")
    except ray.exceptions.RayError as error:
        return Outcome(evaluation, [], str(error).strip().rpartition("\n")[2])


def evaluate_checkpoint(job: TrialJob, asked: Evaluation) -> list[Scored]:
    """Return a model's scores under each setting, computed as `eval` does on its bundle."""
    import torch

    from ragsearch.training.evaluation import validation_arithmetic
    from ragsearch.training.fit import tokens_for
    from ragsearch.training.model import load
    from ragsearch.training.pipeline import Pipeline
    from ragsearch.training.sweep import sweep

    torch.set_num_threads(max(1, int(job.spec.file.resources.per_trial.cpu)))
    model = load(asked.checkpoint)
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model.network)  # Transformers' own wrapper has no types
    trials = [with_values(model.trial, values) for values in asked.settings]
    questions = read_questions(Path(asked.questions), asked.limit)
    with retriever_for(job, model.trial, f"evaluation {asked.key}") as retriever:
        pipeline = Pipeline(model, retriever, tokens_for(job.tokens, model, retriever))
        with closing(pipeline), validation_arithmetic(pipeline):
            swept = sweep(pipeline, trials, questions)
    return [_scored(examples, recall=retriever is not None) for examples in swept]


def _scored(examples: Sequence[Any], *, recall: bool) -> Scored:  # Any: importing it is slow
    from ragsearch.training.evaluation import summarise

    names = ("prediction", "em", "f1", "rouge_l", "nll", "n_tokens")
    rows = [
        {"id": one.question.id, "rank": one.rank if recall else None}
        | {name: getattr(one, name) for name in names}
        for one in examples
    ]
    return Scored(summarise(examples, recall=recall) | {"n": float(len(rows))}, rows)
