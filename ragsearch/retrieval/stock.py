"""The retriever ragsearch is measured against: Transformers' own `CustomHFIndex`, as it comes.

In: the folder that `write_hf_dataset` writes. Out: `Hits`, found as `RagRetriever` finds them:
eight queries a search, then the rows of the dataset for the vectors, and the same rows again
for the texts. The index lies in private memory. Knows Transformers and `datasets`, imported
when the first one is opened; knows nothing of Ray or of other processes.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.manifest import IndexManifest
from ragsearch.index.store import Passage
from ragsearch.retrieval.retriever import BadQueriesError, check_ids, check_queries

if TYPE_CHECKING:
    from transformers.models.rag.retrieval_rag import CustomHFIndex

_AGAIN = "write it again with `ragsearch export --hf-retriever`"
_QUERIES_A_SEARCH = 8  # RagConfig's `retrieval_batch_size`


class StockRetriever:
    """An index as stock Transformers opens and searches it.

    Opening maps the passages; the index itself is read at the first search, so a process that
    only looks passages up does not hold it.

    Args:
        folder: What `write_hf_dataset` wrote.
        manifest: What the index says of itself that was written there.
        who: Asker's name in error messages.

    Raises:
        BadInputError: If the folder holds no such dataset, or another one.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, *, who: str = "") -> None:
        self._manifest = manifest
        self._who = who
        self._folder = folder
        self._rows = _open(folder, manifest)

    @property
    def fingerprint(self) -> str:
        """Hash of the index."""
        return self._manifest.fingerprint

    @property
    def n_passages(self) -> int:
        """Passages in the index."""
        return self._manifest.n_passages

    @property
    def dimension(self) -> int:
        """Width a query must have."""
        return self._manifest.dimension

    def retrieve(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs = Knobs()
    ) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first.

        Raises:
            BadQueriesError: If the queries do not fit the index or are not finite, or a knob
                is given, of which stock Transformers knows none.
        """
        check_queries(queries, self.dimension, self._who)
        if knobs != Knobs():
            asker = f"{self._who}: " if self._who else ""
            raise BadQueriesError(
                f"{asker}stock Transformers searches an index as it was built; leave ef_search "
                "and nprobe out"
            )
        found = [
            self._index.get_top_docs(queries[start : start + _QUERIES_A_SEARCH], n_docs)
            for start in range(0, len(queries), _QUERIES_A_SEARCH)
        ]
        return _hits(queries, n_docs, found)

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, in the order asked; the dataset has only title and text.

        Raises:
            BadQueriesError: If an id is out of range.
        """
        check_ids(ids, self.n_passages, self._who)
        (columns,) = self._rows.get_doc_dicts(ids[None])
        names = map(str, ids.tolist())
        return [
            Passage(name, name, title, text)
            for name, title, text in zip(names, columns["title"], columns["text"], strict=True)
        ]

    @cached_property
    def _index(self) -> "CustomHFIndex":
        with _translated(self._folder):
            self._rows.init_index()  # type: ignore[no-untyped-call]
        return self._rows


def _open(folder: Path, manifest: IndexManifest) -> "CustomHFIndex":
    from transformers.models.rag.retrieval_rag import CustomHFIndex

    from ragsearch.index.hf import FAISS, PASSAGES

    with _translated(folder):
        index: CustomHFIndex = CustomHFIndex.load_from_disk(  # type: ignore[no-untyped-call]
            manifest.dimension, str(folder / PASSAGES), str(folder / FAISS)
        )
    if len(index.dataset) != manifest.n_passages:
        what = f"has {len(index.dataset)} passages, not the index' {manifest.n_passages}"
        raise BadInputError.single(folder, f"{what}; {_AGAIN}")
    return index


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInputError.single(folder, f"is no export ({error}); {_AGAIN}") from error


def _hits(
    queries: Float32[np.ndarray, "Q D"],
    n_docs: int,
    found: list[tuple[np.ndarray, np.ndarray]],
) -> Hits:
    """Return what was found, scored by the vectors, as the model scores it."""
    shape = (len(queries), n_docs)
    ids = np.concatenate([np.empty((0, n_docs), np.int64), *(ids for ids, _ in found)])
    vectors = np.zeros((*shape, queries.shape[1]), np.float32)
    if found:
        vectors[:] = np.concatenate([vectors for _, vectors in found])
    scores = np.einsum("qd,qkd->qk", queries, vectors)
    return Hits(ids, np.where(ids < 0, np.float32(-np.inf), scores), vectors)
