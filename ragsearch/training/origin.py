"""What the state of a trial is of: whatever would make it go on differently.

In: a trial's configuration and surroundings. Out: JSON values by dotted names, to be kept with
a state and compared before it is gone on with.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

import torch

from ragsearch import __version__
from ragsearch.data.questions import Question
from ragsearch.retrieval.retriever import Retriever
from ragsearch.spec import TrialSection
from ragsearch.training.workers import Workers

_LIBRARIES = ("torch", "transformers", "pytorch-lightning", "peft")

Origin = dict[str, object]


def origin_of(
    trial: TrialSection,
    questions: tuple[Sequence[Question], Sequence[Question]],
    retriever: Retriever | None,
    workers: Workers,
    **settings: object,
) -> Origin:
    """Return what a trial's states are of.

    Args:
        trial: Its configuration.
        questions: Those it trains on and those it validates on, of which the numbers count.
        retriever: Of whose index the fingerprint counts.
        workers: Who trains it together.
        settings: What else there is, as JSON values.
    """
    train, val = questions
    versions = {f"version of {name}": metadata.version(name) for name in _LIBRARIES}
    return {
        **{f"trial.{path}": value for path, value in _flat(trial.model_dump(mode="json"))},
        **settings,
        "number of training questions": len(train),
        "number of validation questions": len(val),
        "fingerprint of the index": None if retriever is None else retriever.fingerprint,
        "number of workers": workers.n,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "version of ragsearch": __version__,
        # what follows + says for which device a library was built
        **{name: version.partition("+")[0] for name, version in versions.items()},
    }


def _flat(sections: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in sections.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return in words what is not as it was when a state was written."""
    return [
        f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
