"""Which keys of a trial have a use only under some values of another key.

A key that no trial of a search has a use for is a mistake. Where some trials have, the others
leave it at its default, so that their configuration says only what they did.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

from pydantic.fields import FieldInfo

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft
from ragsearch.spec.keys import field_at
from ragsearch.spec.models import OPTIONAL_KEYS
from ragsearch.spec.schema import RAG_TYPES, TrialSection


class Use(NamedTuple):
    """A key, and the values of another key under which it has a use."""

    key: str
    of: str
    values: tuple[str | bool, ...]


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
    "optim.question_encoder_lr_ratio",
    "train.max_source_length",
)
_OF_A_TRAINED_GENERATOR = (
    "regularisation.dropout",
    *(f"regularisation.{key}" for key in OPTIONAL_KEYS),
)
_USES = (
    Use("optim.question_encoder_lr_ratio", "model.freeze_question_encoder", (False,)),
    *(Use(key, "model.freeze_generator", (False,)) for key in _OF_A_TRAINED_GENERATOR),
    Use("optim.adam_epsilon", "optim.optimizer", ("adamw",)),
    Use("optim.n_cycles", "optim.schedule", ("cosine_with_restarts",)),
    *(Use(key, "model.type", RAG_TYPES) for key in _OF_RETRIEVAL),
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
            values = " or ".join(map(str, use.values)).lower()
            what = f"has no use, as {use.of} is never {values}; leave it out"
            yield Finding(set_here[0], what)


def _has_use(draft: Draft, use: Use) -> bool:
    useless = [value for value in _values(use.of) if value not in use.values]
    # a value that is none is the schema's to report
    return any(option.value not in useless for option in draft.options(use.of))


def reads_passages(draft: Draft) -> bool:
    """Tell whether some trial retrieves."""
    return _has_use(draft, Use("retrieval.index", "model.type", RAG_TYPES))


def without_useless(trial: Mapping[str, object]) -> dict[str, object]:
    """Return plain data of a trial without the keys that have no use in it."""
    sections = {name: dict(keys) for name, keys in trial.items() if isinstance(keys, Mapping)}
    for use in _USES:
        section, key = use.of.split(".")
        if sections.get(section, {}).get(key, _default(use.of)) not in use.values:
            section, key = use.key.split(".")
            sections.get(section, {}).pop(key, None)
    return {**trial, **sections}


def _values(path: str) -> tuple[object, ...]:
    annotation = _field(path).annotation
    return (False, True) if annotation is bool else get_args(annotation)


def _default(path: str) -> object:
    return _field(path).get_default(call_default_factory=True)


def _field(path: str) -> FieldInfo:
    field = field_at(TrialSection, tuple(path.split(".")))
    assert field is not None, f"{path} is no key of a trial"
    return field
