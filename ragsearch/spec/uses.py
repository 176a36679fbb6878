"""Which keys of a trial have no use under some values of another key.

A key that no trial of a search has a use for is a mistake. Where some trials have, the others
leave it at its default, so that their configuration says only what they did.
"""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft
from ragsearch.spec.keys import field_at, leaves
from ragsearch.spec.messages import shown
from ragsearch.spec.models import OPTIONAL_KEYS
from ragsearch.spec.trial import (
    LoraSection,
    OptimSection,
    RegularisationSection,
    TrialSection,
)


class Use(NamedTuple):
    """A key, and the values of another key under which it has no use."""

    key: str
    of: str
    useless: tuple[object, ...]


_OF_RETRIEVAL = (
    "model.question_encoder",
    "model.pooling",
    "model.normalise",
    "model.freeze_question_encoder",
    "model.title_separator",
    "model.doc_separator",
    "retrieval.index",
    "retrieval.n_docs",
    "retrieval.ef_search",
    "retrieval.nprobe",
    "retrieval.backend",
    "retrieval.prefetch",
    "optim.question_encoder_lr_ratio",
    "train.max_source_length",
    "decode.document_temperature",
)
_OF_ADAPTERS = ("alpha", "dropout", "targets")
_OF_A_TRAINED_GENERATOR = (
    "regularisation.dropout",
    *(f"regularisation.{key}" for key in OPTIONAL_KEYS),
)
_WITHOUT_RESTARTS = ("constant", "linear", "cosine", "polynomial")
_RETRIEVES_NOT = ("closed_book",)
_OF_TRAINING = (
    *leaves(OptimSection, "optim."),
    *leaves(RegularisationSection, "regularisation."),
    *leaves(LoraSection, "model.lora."),
    "model.freeze_question_encoder",
    "model.freeze_generator",
    "train.early_stopping_patience",
    "train.batch_size",
    "train.gradient_checkpointing",
    "train.compile",
    "train.profile",
    "retrieval.prefetch",
)
_USES = (
    Use("optim.question_encoder_lr_ratio", "model.freeze_question_encoder", (True,)),
    *(Use(key, "model.freeze_generator", (True,)) for key in _OF_A_TRAINED_GENERATOR),
    *(Use(f"model.lora.{key}", "model.lora.rank", (None,)) for key in _OF_ADAPTERS),
    Use("optim.adam_epsilon", "optim.optimizer", ("adafactor",)),
    Use("optim.n_cycles", "optim.schedule", _WITHOUT_RESTARTS),
    *(Use(key, "model.type", _RETRIEVES_NOT) for key in _OF_RETRIEVAL),
    *(Use(key, "train.max_epochs", (0,)) for key in _OF_TRAINING),
)


def useless_keys(draft: Draft) -> Iterator[Finding]:
    """Find keys with another value than their default that no trial has a use for.

    Yields:
        At most one finding a key.
    """
    for use in _USES:
        if _has_use(draft, use):
            continue
        options = [*draft.varied(use.key), draft.baseline(use.key)]
        set_here = [option.path for option in options if option.value != _default(use.key)]
        if set_here:
            values = (option.value for option in draft.options(use.of))
            where = " or ".join(map(shown, dict.fromkeys(values)))
            what = f"has no use, as {use.of} is {where}; leave it out"
            unset = json.dumps(_default(use.key)) if set_here[0][0] == "trial" else ""
            yield Finding(set_here[0], what, cause=("trial", *use.of.split(".")), unset=unset)


def _has_use(draft: Draft, use: Use) -> bool:
    # a value that is none of the key's is not among the useless ones: the schema reports it
    return any(option.value not in use.useless for option in draft.options(use.of))


def reads_passages(draft: Draft) -> bool:
    """Tell whether some trial retrieves."""
    return _has_use(draft, Use("retrieval.index", "model.type", _RETRIEVES_NOT))


def without_useless(trial: Mapping[str, object]) -> dict[str, object]:
    """Return plain data of a trial without the keys that have no use in it."""
    kept = dict(trial)
    for use in _USES:
        if _found(kept, use.of) in use.useless:
            kept = _without(kept, use.key)
    return kept


def _found(trial: Mapping[str, object], path: str) -> object:
    here: object = trial
    for key in path.split("."):
        if not isinstance(here, Mapping) or key not in here:
            return _default(path)
        here = here[key]
    return here


def _without(trial: Mapping[str, object], path: str) -> dict[str, object]:
    head, _, rest = path.partition(".")
    if not rest:
        return {key: value for key, value in trial.items() if key != head}
    inner = trial.get(head)
    return {**trial, head: _without(inner, rest)} if isinstance(inner, Mapping) else {**trial}


def _default(path: str) -> object:
    field = field_at(TrialSection, tuple(path.split(".")))
    assert field is not None, f"{path} is no key of a trial"
    return field.get_default(call_default_factory=True)
