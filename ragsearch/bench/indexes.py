"""What is measured on: an index, the same in Transformers' format, and queries.

Indexes are made in blocks, so that of a million passages neither vectors nor texts lie in
memory twice. The vectors come in clusters of about a hundred, as texts on one topic do: among
independent vectors of many dimensions none is near another, and HNSW finds few of the true
neighbours. Here HNSW32 with efSearch 64 finds all but one in a thousand (20 k x 768).

Axes: N passages, D embedding size, C clients, S steps, Q queries a step.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
from datasets import disable_progress_bars
from jaxtyping import Float32

from ragsearch.bench.plan import Kind, kind_of
from ragsearch.index.hf import FAISS, write_hf_dataset
from ragsearch.index.manifest import (
    FAISS_FILE,
    FORMAT,
    MANIFEST_FILE,
    PASSAGES_FILE,
    Canary,
    IndexManifest,
    Shard,
    file_check,
    read_manifest,
    sketch_file,
)
from ragsearch.index.open import open_index
from ragsearch.index.place import building, locked
from ragsearch.index.sketch import sketch_vectors
from ragsearch.index.store import Passage, write_passages
from ragsearch.index.vectors import create, search, write

_PASSAGES_A_CLUSTER = 100
_NOISE = 0.7  # length of what sets a passage apart from its cluster, and a query from a passage
_ROWS_A_BLOCK = 8192
_WORDS_A_PASSAGE = 100  # as Wikipedia is cut for DPR
_SYLLABLES = ("ba", "den", "fi", "gor", "ha", "kel", "lu", "mi", "no", "ras", "ti", "vo")
WORDS = [first + last for first in _SYLLABLES for last in _SYLLABLES]
"""What the made passages are written in."""

FACTORIES = {Kind.EXACT: "Flat", Kind.HNSW: "HNSW32,Flat"}


@dataclass(frozen=True, slots=True)
class BenchIndex:
    """One index in both formats."""

    kind: Kind
    folder: Path
    """Index folder."""
    export: Path
    """The same as stock Transformers reads it."""
    manifest: IndexManifest

    @property
    def faiss(self) -> Path:
        """The whole index in one FAISS file, also where the folder has it in shards."""
        return self.export / FAISS

    @property
    def faiss_bytes(self) -> int:
        """Bytes of the FAISS index: what a process holds that loads it."""
        return self.faiss.stat().st_size


def taken(folder: Path, work: Path) -> BenchIndex:
    """Return an index that is there, exported below `work` if it is not yet.

    Raises:
        BadInputError: If it is no index, or of another kind.
    """
    manifest = read_manifest(folder)
    return _exported(folder, work / f"{manifest.fingerprint[:16]}-hf")


def made(kind: Kind, n_passages: int, dimension: int, work: Path) -> BenchIndex:
    """Return an index of random passages, made below `work` if it is not there yet."""
    making = _Making(kind, n_passages, dimension)
    place = work / f"{kind}-{n_passages}x{dimension}-{making.fingerprint[:8]}"
    with locked(place):
        if not (place / MANIFEST_FILE).is_file():
            with building(place) as folder:
                making.fill(folder)
    return _exported(place, place.with_name(f"{place.name}-hf"))


def _exported(folder: Path, export: Path) -> BenchIndex:
    manifest = read_manifest(folder)
    kind = kind_of(manifest, folder)
    with locked(export):
        if not export.is_dir():
            index = open_index(folder)
            disable_progress_bars()
            with building(export) as place:
                write_hf_dataset(index, place)
    return BenchIndex(kind, folder, export, manifest)


def make_queries(
    index: BenchIndex, to: Path, *, clients: int, steps: int, batch: int
) -> Float32[np.ndarray, "C S Q D"]:
    """Write queries that lie near passages, other ones for every call.

    No call repeats a query, so no design can answer from what it remembers.

    Returns:
        What was written.
    """
    chance = np.random.default_rng(1)
    vectors = faiss.read_index(str(index.faiss), faiss.IO_FLAG_MMAP_IFC)
    rows = chance.integers(vectors.ntotal, size=clients * steps * batch)
    near = vectors.reconstruct_batch(rows)
    length = np.linalg.norm(near, axis=1, keepdims=True)
    queries = near + _NOISE * length * _directions(chance, *near.shape)
    shaped: np.ndarray = queries.reshape(clients, steps, batch, -1)
    np.save(to, shaped)
    return shaped


@dataclass(frozen=True)
class _Making:
    """An index to be made of random passages."""

    kind: Kind
    n_passages: int
    dimension: int

    @property
    def fingerprint(self) -> str:
        """Hash of all it depends on; raise the first number when the passages change."""
        made_of = f"2 {FORMAT} {self.kind} {self.n_passages} {self.dimension} {_NOISE}"
        return hashlib.sha256(made_of.encode()).hexdigest()

    def fill(self, folder: Path) -> None:
        """Write passages, vectors and manifest."""
        write_passages(folder / PASSAGES_FILE, _passages(self.n_passages))
        path, shape = folder / "vectors.f32", (self.n_passages, self.dimension)
        vectors = np.memmap(path, np.float32, mode="w+", shape=shape)
        for start, block in self._blocks():
            vectors[start : start + len(block)] = block
        index = create(FACTORIES[self.kind], vectors)
        write(index, folder / FAISS_FILE)
        sketch_vectors(index, folder / sketch_file(FAISS_FILE))
        query = np.array(vectors[self.n_passages // 2])
        score = float(search(index, query[None], 1).scores[0, 0])
        self._manifest(folder, Canary(tuple(map(float, query)), score)).write(folder)
        path.unlink()

    def _blocks(self) -> Iterator[tuple[int, Float32[np.ndarray, "N D"]]]:
        """Yield vectors of length 1, and the number of the first."""
        chance = np.random.default_rng(0)
        n_clusters = max(1, self.n_passages // _PASSAGES_A_CLUSTER)
        centres = _directions(chance, n_clusters, self.dimension)
        for start in range(0, self.n_passages, _ROWS_A_BLOCK):
            n_rows = min(_ROWS_A_BLOCK, self.n_passages - start)
            clusters = chance.integers(n_clusters, size=n_rows)
            block = centres[clusters] + _NOISE * _directions(chance, n_rows, self.dimension)
            yield start, block / np.linalg.norm(block, axis=1, keepdims=True)

    def _manifest(self, folder: Path, canary: Canary) -> IndexManifest:
        names = (FAISS_FILE, sketch_file(FAISS_FILE), PASSAGES_FILE)
        return IndexManifest(
            format=FORMAT,
            fingerprint=self.fingerprint,
            n_passages=self.n_passages,
            n_texts=self.n_passages,
            dimension=self.dimension,
            encoder="none: random vectors",
            encoder_fingerprint="",
            pooling="cls",
            normalise=True,
            max_length=512,
            chunk_words=None,
            chunk_overlap=0,
            faiss=FACTORIES[self.kind],
            files={n: file_check(folder / n) for n in names if (folder / n).is_file()},
            canary=canary,
            shards=(Shard(FAISS_FILE, 0, self.n_passages, canary.score),),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: metadata.version(name) for name in ("faiss-cpu", "numpy")},
        )


def _passages(number: int) -> Iterator[Passage]:
    """Yield passages of a hundred invented words."""
    chance = np.random.default_rng(2)
    words = np.array(WORDS)
    for start in range(0, number, _ROWS_A_BLOCK):
        shape = (min(_ROWS_A_BLOCK, number - start), _WORDS_A_PASSAGE)
        for row, chosen in enumerate(words[chance.integers(len(words), size=shape)], start):
            yield Passage(f"p{row}", f"p{row}", f"Topic {row % 997}", " ".join(chosen))


def _directions(
    chance: np.random.Generator, number: int, dimension: int
) -> Float32[np.ndarray, "N D"]:
    """Return vectors of length about 1."""
    vectors = chance.standard_normal((number, dimension), dtype=np.float32)
    return vectors / np.float32(dimension**0.5)
