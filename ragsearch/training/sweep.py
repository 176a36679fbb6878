"""One trained model scored under several settings that need no training.

In: a pipeline and configurations that differ in how passages are found and answers decoded
only. Out: each one's examples, the very ones that an evaluation under it alone would give: what
settings have in common (hits, encoded contexts, logits of the gold answers) is computed once
where that changes nothing, and only there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from ragsearch.data.questions import Question
from ragsearch.index.hits import Knobs
from ragsearch.spec import TrialSection
from ragsearch.spec.trial import RetrievalSection
from ragsearch.training.evaluation import Example, answer_batch, batches, find, read_batch
from ragsearch.training.metrics import RECALL_AT
from ragsearch.training.pipeline import Pipeline, Retrieved

_Search = tuple[int, Knobs]
"""How many passages are looked for, and how hard: of an approximate index the hits depend on
both."""


@torch.no_grad()
def sweep(
    pipeline: Pipeline, trials: Sequence[TrialSection], questions: Sequence[Question]
) -> list[list[Example]]:
    """Return a model's answers under each of several configurations, in their order.

    Args:
        pipeline: Its model is put in evaluation mode; retriever and tokens serve all.
        trials: The model's configuration with other `decode` or `retrieval` keys.
        questions: What is asked, in batches of the trial's `eval_batch_size`.
    """
    pipeline.model.network.train(mode=False)
    examples: list[list[Example]] = [[] for _ in trials]
    for batch in batches(pipeline, questions):
        for number, answered in _answers(pipeline, trials, batch):
            examples[number] += answered
    return examples


def _answers(
    pipeline: Pipeline, trials: Sequence[TrialSection], batch: Sequence[Question]
) -> Iterator[tuple[int, list[Example]]]:
    """Yield the number of a configuration and its answers; in no order."""
    found: dict[_Search, Retrieved] = {}
    numbers = sorted(range(len(trials)), key=lambda number: _read(trials[number].retrieval))
    for _, group in groupby(numbers, key=lambda number: _read(trials[number].retrieval)):
        alike = list(group)
        reader = with_trial(pipeline, trials[alike[0]])
        search = _search(trials[alike[0]].retrieval)
        if search not in found:
            found[search] = find(reader, batch)
        reading = read_batch(reader, batch, found[search])
        for number in alike:
            model = with_trial(pipeline, trials[number]).model
            yield number, answer_batch(model, reading)


def with_trial(pipeline: Pipeline, trial: TrialSection) -> Pipeline:
    """Return a pipeline that finds and answers by another configuration, nothing loaded."""
    model = replace(pipeline.model, trial=trial)
    return Pipeline(model, pipeline.retriever, pipeline.tokens)


def _read(asked: RetrievalSection) -> tuple[int, int, int]:
    """Return what contexts depend on, in an order."""
    return asked.n_docs, asked.ef_search or 0, asked.nprobe or 0


def _search(asked: RetrievalSection) -> _Search:
    return max(asked.n_docs, *RECALL_AT), Knobs(asked.ef_search, asked.nprobe)
