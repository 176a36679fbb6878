"""Passages tokenised before a search, for every generator that some of its trials can have.

In: a spec and its open indexes. Out: a folder of `training.tokens`, beside the indexes and
shared by all searches of an output folder. Trials are told the folder only.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path

from ragsearch.data.questions import read_questions
from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.memory import readable
from ragsearch.spec import Spec
from ragsearch.spec.trial import RAG_TYPES
from ragsearch.training.contexts import ContextBuilder, InseparableError
from ragsearch.training.parts import open_generator_tokenizer
from ragsearch.training.tokens import write_tokens

log = logging.getLogger(__name__)

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar with a title; what it gives takes passages done and passages in all."""

_TEXTS = ("generator", "prefix", "title_separator", "doc_separator")
"""Keys of `trial.model` that decide which tokens a passage becomes."""
_KEYS = tuple(f"model.{key}" for key in ("type", *_TEXTS))
_N_QUESTIONS = 100  # to check with


def tokenise_passages(
    spec: Spec,
    indexes: dict[str, PassageIndex],
    output: Path,
    progress: Progress | None = None,
) -> Path:
    """Tokenise the passages of indexes as trials will read them, unless that is done.

    Where the tokens of a passage depend on the question none are kept, and each trial tokenises
    for itself.

    Args:
        spec: The search.
        indexes: Those its trials can ask for, by name.
        output: Folder for searches and indexes.
        progress: Shows how far it is.

    Returns:
        The folder for `fit_trial`.

    Raises:
        BadInputError: If a generator has no tokenizer that can be used, or the folder cannot
            be written.
    """
    folder = output.resolve() / "tokens"
    readers = list(_readers(spec))
    if not readers:
        log.info("tokens: none are kept, as no trial reads passages")
    questions = _questions(spec) if readers else []
    for (name, index), reader in product(indexes.items(), readers):
        started = time.monotonic()
        with nullcontext() if progress is None else progress(f"tokens {name}") as report:
            try:
                tokens = write_tokens(folder, index, reader, questions, report)
            except InseparableError as error:
                log.warning("tokens %s: each trial makes its own, as %s", name, error)
                continue
        log.info(
            "tokens %s: %d passages, %s, %.1f s",
            name, len(tokens), readable(tokens.n_bytes), time.monotonic() - started,
        )  # fmt: skip
    return folder


def _readers(spec: Spec) -> Iterator[ContextBuilder]:
    """Yield what builds contexts, once for all trials whose passages become the same tokens."""
    chosen = (dict(zip(_KEYS, values, strict=True)) for values in spec.combinations(*_KEYS))
    trials = [spec.file.trial, *map(spec.trial_with, chosen)]
    reading = [trial for trial in trials if trial.model.type in RAG_TYPES]
    distinct = {tuple(getattr(trial.model, key) for key in _TEXTS): trial for trial in reading}
    for trial in distinct.values():
        yield ContextBuilder.of_trial(open_generator_tokenizer(trial.model.generator), trial)


def _questions(spec: Spec) -> list[str]:
    """Return questions to check with."""
    data = spec.file.data
    return [question.question for question in read_questions(Path(data.train), _N_QUESTIONS)]
