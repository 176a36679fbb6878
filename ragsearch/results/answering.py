"""A bundle joined to its index, answering as it did in the search's validation.

The same figures need the same arithmetic: the device Lightning would choose, its autocast, and
the number of threads a trial had, as each may move the last digits and so an answer.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.results.bundle import Bundle, IndexReference
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.spec.knobs import KNOBS, why_useless
from ragsearch.training.model import RagModel, load
from ragsearch.training.pipeline import Pipeline


def open_pipeline(
    bundle: Bundle, index: PassageIndex | None, *, encoder_only: bool = False
) -> Pipeline:
    """Load a bundle's model, ready to answer from an index or, without one, by itself.

    Args:
        bundle: The bundle.
        index: What it retrieves from.
        encoder_only: Leave the generator unread: passages can be retrieved, nothing answered.

    Returns:
        The pipeline, on a GPU if there is one.
    """
    model = load(bundle.folder, encoder_only=encoder_only)
    if torch.cuda.is_available():
        used = model.network
        if encoder_only and isinstance(model, RagModel):
            used = model.question_encoder
        torch.nn.Module.cuda(used)  # Transformers' own wrapper has no types
    retriever = None if index is None else InProcessRetriever(index, who=str(bundle.folder))
    return Pipeline(model, retriever)


def asking(
    pipeline: Pipeline, index: PassageIndex | None, retrieval: Mapping[str, int]
) -> Pipeline:
    """Return a pipeline that asks its retriever for other things than its trial did.

    Args:
        pipeline: A bundle's.
        index: What it retrieves from.
        retrieval: `n_docs`, `ef_search` and `nprobe`, as far as they are to differ.

    Raises:
        BadInputError: With everything that the index has no use for.
    """
    assert retrieval.keys() <= {"n_docs", *KNOBS}, f"{retrieval} is not what one asks with"
    if not retrieval:
        return pipeline
    mistakes = [
        Mistake(f"--{name.replace('_', '-')}", "", why)
        for name, value in retrieval.items()
        if (why := _why_useless(index, name, value))
    ]
    if mistakes:
        raise BadInputError(mistakes)
    trial = pipeline.model.trial
    section = trial.retrieval.model_copy(update=dict(retrieval))
    model = replace(pipeline.model, trial=trial.model_copy(update={"retrieval": section}))
    return Pipeline(model, pipeline.retriever)


def _why_useless(index: PassageIndex | None, name: str, value: int) -> str | None:
    if index is None:
        return "is of no use without retrieval; drop it, or --no-retrieval"
    if value < 1:
        return f"must be at least 1, not {value}"
    if name in KNOBS:
        why = why_useless(index.manifest.faiss, name, value)
        return why and f"the index {why}"
    n_passages = index.manifest.n_passages
    if value > n_passages:
        return f"asks for {value} passages, but the index holds {n_passages}; ask for fewer"
    return None


def open_its_index(bundle: Bundle, folder: Path | None, *, verify: bool) -> PassageIndex | None:
    """Return the index a bundle was trained with, open; None if it was trained without one.

    Args:
        bundle: The bundle.
        folder: Where the index lies now; where it lay at the export by default.
        verify: Whether to read the whole index and compare its checksums.

    Raises:
        BadInputError: If it is not there, damaged, or another index, or given to a bundle that
            has none.
    """
    wanted = bundle.manifest.index
    if wanted is None:
        if folder is not None:
            what = f"{bundle.folder} answers without passages; leave --index out"
            raise BadInputError.single(folder, what)
        return None
    if folder is None and not Path(wanted.folder).is_dir():
        what = f"the bundle's index {wanted.name!r} is gone; say where it is with --index"
        raise BadInputError.single(wanted.folder, what)
    index = open_index(folder or Path(wanted.folder), verify=verify)
    _check_fingerprint(index, wanted, bundle)
    return index


def _check_fingerprint(index: PassageIndex, wanted: IndexReference, bundle: Bundle) -> None:
    found = index.manifest.fingerprint
    if found != wanted.fingerprint:
        raise BadInputError.single(
            index.folder,
            f"this is index {found[:16]} but {bundle.folder} was trained with "
            f"{wanted.fingerprint[:16]} ({wanted.name}); give that one with --index, or build "
            "it again with `ragsearch index build`",
        )


def shares(doc_scores: Sequence[float]) -> list[float]:
    """Give p(passage | question) for the document scores of one question."""
    largest = max(doc_scores)
    grown = [math.exp(score - largest) for score in doc_scores]
    return [value / math.fsum(grown) for value in grown]


@contextmanager
def trial_threads(bundle: Bundle) -> Iterator[None]:
    """Give torch as many threads as each trial of the search had, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(bundle.manifest.spec["resources"]["per_trial"]["cpu"])))
    try:
        yield
    finally:
        torch.set_num_threads(before)
