"""An index folder becomes a `PassageIndex`: checked against its manifest, memory-mapped.

Imports torch only for an index with a sketch: others open in a second.

Axes: Q queries, K passages per query, D embedding size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.manifest import (
    PASSAGES_FILE,
    Canary,
    IndexManifest,
    Shard,
    check_files,
    read_manifest,
    sketch_file,
)
from ragsearch.index.merge import merge_hits, shifted
from ragsearch.index.sketch import Sketch, read_sketch
from ragsearch.index.store import PassageStore
from ragsearch.index.vectors import read, search

_CANARY_TOLERANCE = 1e-3  # relative; scanning and BLAS differ by 6e-5


class OpenShard(NamedTuple):
    """The vectors of one run of passages, to be searched."""

    start: int
    """Number of its first passage."""
    vectors: faiss.Index
    """Mapped read-only: adding to it would end the process."""
    sketch: Sketch | None = None
    """Of a large flat index, where it makes searching quicker."""


@dataclass(frozen=True)
class PassageIndex:
    """An open index; its pages are shared by every process that opens it."""

    folder: Path
    manifest: IndexManifest
    store: PassageStore
    shards: tuple[OpenShard, ...]
    """All of them, or the one that was asked for."""

    def search(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs = Knobs()
    ) -> Hits:
        """Return the passages with the largest inner product, best first, of equals the first.

        A query finds the same to the last bit alone and among others.

        Args:
            queries: Finite vectors of the index's dimension.
            n_docs: Passages a query; ids are -1 where there are not so many.
            knobs: How thorough; the index must have a use for those that are set.
        """
        width = self.manifest.dimension
        assert queries.shape[1:] == (width,), f"{queries.shape} is not {width} wide"
        found = (
            shifted(search(shard.vectors, queries, n_docs, knobs, shard.sketch), shard.start)
            for shard in self.shards
        )
        return merge_hits(list(found), n_docs)


def open_index(
    folder: Path, *, verify: bool = True, shard: int | None = None, in_memory: bool = False
) -> PassageIndex:
    """Return an index folder opened for searching.

    Args:
        folder: What `build_index` wrote.
        verify: Compare checksums, which reads every byte. Sizes are always compared, and
            one search is repeated whose result is known.
        shard: Open this shard only; ids stay those of the whole index.
        in_memory: Read the vectors into memory of this process, which takes as long as the
            disk needs, instead of mapping their files.

    Raises:
        BadInputError: If it is no index, or a file is missing or altered.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest, contents=verify, shard=shard)
    store = PassageStore.open(folder / PASSAGES_FILE)
    if len(store) != manifest.n_passages:
        raise _altered(folder / PASSAGES_FILE, f"holds {len(store)} passages")
    chosen = manifest.shards if shard is None else (manifest.shards[shard],)
    opened = tuple(_open_shard(folder, manifest, one, in_memory=in_memory) for one in chosen)
    return PassageIndex(folder, manifest, store, opened)


def _open_shard(
    folder: Path, manifest: IndexManifest, shard: Shard, *, in_memory: bool
) -> OpenShard:
    path = folder / shard.file
    vectors = read(path, in_memory=in_memory)
    if (vectors.ntotal, vectors.d) != (shard.stop - shard.start, manifest.dimension):
        raise _altered(path, f"holds {vectors.ntotal} vectors of {vectors.d} dimensions")
    name = sketch_file(shard.file)
    sketch = read_sketch(vectors, folder / name) if name in manifest.files else None
    opened = OpenShard(shard.start, vectors, sketch)
    _check_canary(path, opened, manifest.canary, shard.canary_score)
    return opened


def _check_canary(path: Path, shard: OpenShard, canary: Canary, expected: float) -> None:
    query = np.array([canary.query], dtype=np.float32)
    hits = search(shard.vectors, query, 1, sketch=shard.sketch)
    score = float(hits.scores[0, 0])
    if not abs(score - expected) <= _CANARY_TOLERANCE * max(1.0, abs(expected)):
        raise _altered(
            path, f"answers a known query with {score:.5f} instead of {expected:.5f}"
        )


def _altered(path: Path, what: str) -> BadInputError:
    again = f"remove {path.parent} and run `ragsearch index build` again"
    return BadInputError.single(path, f"{what}, which is not what its manifest says; {again}")
