"""An index folder becomes a `PassageIndex`: checked against its manifest, memory-mapped.

Imports no torch: a process that only searches starts in a second.

Axes: Q queries, K passages per query, D embedding size.
"""

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits
from ragsearch.index.manifest import (
    FAISS_FILE,
    PASSAGES_FILE,
    IndexManifest,
    check_files,
    read_manifest,
)
from ragsearch.index.store import PassageStore
from ragsearch.index.vectors import read, search

_CANARY_TOLERANCE = 1e-3  # relative; scanning and BLAS differ by 6e-5


@dataclass(frozen=True)
class PassageIndex:
    """An open index; its pages are shared by every process that opens it."""

    folder: Path
    manifest: IndexManifest
    store: PassageStore
    vectors: faiss.Index
    """Mapped read-only: adding to it would end the process."""

    def search(self, queries: Float32[np.ndarray, "Q D"], n_docs: int) -> Hits:
        """Return the passages with the largest inner product, best first.

        Args:
            queries: Finite vectors of the index's dimension.
            n_docs: Passages a query; ids are -1 where there are not so many.
        """
        width = self.manifest.dimension
        assert queries.shape[1:] == (width,), f"{queries.shape} is not {width} wide"
        return search(self.vectors, queries, n_docs)


def open_index(folder: Path, *, verify: bool = True) -> PassageIndex:
    """Return an index folder opened for searching.

    Args:
        folder: What `build_index` wrote.
        verify: Compare checksums, which reads every byte. Sizes are always compared, and
            one search is repeated whose result is known.

    Raises:
        BadInputError: If it is no index, or a file is missing or altered.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest, contents=verify)
    store = PassageStore.open(folder / PASSAGES_FILE)
    vectors = read(folder / FAISS_FILE)
    found = (len(store), vectors.ntotal, vectors.d)
    if found != (manifest.n_passages, manifest.n_passages, manifest.dimension):
        raise _altered(
            folder, f"holds {found[0]} passages and {found[1]} vectors of {found[2]} dimensions"
        )
    index = PassageIndex(folder, manifest, store, vectors)
    _check_canary(index)
    return index


def _check_canary(index: PassageIndex) -> None:
    canary = index.manifest.canary
    hits = index.search(np.array([canary.query], dtype=np.float32), 1)
    score = float(hits.scores[0, 0])
    if not abs(score - canary.score) <= _CANARY_TOLERANCE * max(1.0, abs(canary.score)):
        raise _altered(
            index.folder,
            f"answers a known query with {score:.5f} instead of {canary.score:.5f}",
        )


def _altered(folder: Path, what: str) -> BadInputError:
    again = "remove it and run `ragsearch index build` again"
    return BadInputError.single(folder, f"{what}, which is not what its manifest says; {again}")
