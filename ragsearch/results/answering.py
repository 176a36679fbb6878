"""A bundle joined to its index, answering as it did in the search's validation.

The same figures need the same arithmetic: the device Lightning would choose, its autocast, and
the number of threads a trial had, as each may move the last digits and so an answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ragsearch.errors import BadInputError
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.results.bundle import Bundle, IndexReference
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.training.model import load
from ragsearch.training.pipeline import Pipeline

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def open_pipeline(bundle: Bundle, index: PassageIndex | None) -> Pipeline:
    """Load a bundle's model, ready to answer from an index or, without one, by itself."""
    model = load(bundle.folder)
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model.network)  # Transformers' own wrapper has no types
    retriever = None if index is None else InProcessRetriever(index, who=str(bundle.folder))
    return Pipeline(model, retriever)


def open_its_index(bundle: Bundle, folder: Path | None, *, verify: bool) -> PassageIndex:
    """Return the index a bundle was trained with, open.

    Args:
        bundle: The bundle.
        folder: Where the index lies now; where it lay at the export by default.
        verify: Whether to read the whole index and compare its checksums.

    Raises:
        BadInputError: If it is not there, damaged, or another index.
    """
    wanted = bundle.manifest.index
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


@contextmanager
def validation_arithmetic(pipeline: Pipeline) -> Iterator[None]:
    """Compute as the validation of the pipeline's trial did: its autocast, no gradients."""
    dtype = _AUTOCAST.get(pipeline.model.trial.train.precision)
    device = pipeline.model.network.device.type
    with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        yield


@contextmanager
def trial_threads(bundle: Bundle) -> Iterator[None]:
    """Give torch as many threads as each trial of the search had, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(bundle.manifest.spec["resources"]["per_trial"]["cpu"])))
    try:
        yield
    finally:
        torch.set_num_threads(before)
