"""FAISS indexes from a factory string: made, filled, written, mapped and searched.

The metric is inner product, and every index gives its vectors back: what a search scores is
the inner product with the vector it returns, so a model can compute the score again and send
gradients through it. A factory that breaks this law is refused, before anything is embedded.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits

EF_SEARCH = 64  # FAISS' own 16 finds 1 in 8 of the true five, random vectors, 10 k x 768
_BLAS_FROM_QUERIES = 6
"""Exact search of at least so many queries goes through BLAS. FAISS' own switch stands at 167
queries of 768 dimensions. Measured, 50 k x 768, one thread: scanning costs 5.9 ms a query,
BLAS 19 ms for 1 query, 20 ms for 8 (scan 42), 37 ms for 32 (scan 175); 20 k x 384 breaks even
at 7."""
_LAW_TOLERANCE = 0.02  # of |query| |vector|; fast-scan tables of 8 bits miss by 0.003
_N_SAMPLES, _K = 16, 5
_POINTS_A_CELL = 50  # FAISS warns below 39
_ROWS_A_BLOCK = 65_536


def rehearse(factory: str, dimension: int) -> None:
    """Try a factory string on random vectors, with few cells so that it takes a moment.

    Raises:
        BadInputError: If FAISS does not know it, or an index of it breaks the law above.
    """
    index = _create(_small(factory), dimension, factory)
    _hurry(index)
    chance = np.random.default_rng(0)
    points = chance.standard_normal((_n_centroids(factory), dimension), dtype=np.float32)
    with _translated(factory):
        index.train(points)
        index.add(points)
    _check_law(index, points[:_N_SAMPLES], factory)


def create(
    factory: str, vectors: Float32[np.ndarray, "N D"], *, threads: int | None = None
) -> faiss.Index:
    """Return an index of all vectors, with its effort at search time set.

    Args:
        factory: FAISS factory string.
        vectors: In the order of the passages; may be a memory map.
        threads: Threads FAISS uses here, all cores by default.

    Raises:
        BadInputError: If the factory cannot index these vectors, with the reason.
    """
    index = _create(factory, vectors.shape[1], factory)
    n_cells = _n_cells(index)
    if n_cells > len(vectors):
        what = f"asks for {n_cells} cells but there are only {len(vectors)} passages; lower it"
        raise BadInputError.single(f"{factory!r}", what, key="faiss")
    with _translated(factory), _threads(threads):
        if not index.is_trained:
            index.train(_sample(vectors, max(_POINTS_A_CELL * n_cells, 256 * 256)))
        for start in range(0, len(vectors), _ROWS_A_BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _ROWS_A_BLOCK]))
    _set_effort(index, n_cells)
    _check_law(index, _sample(vectors, _N_SAMPLES), factory)
    return index


def read(path: Path) -> faiss.Index:
    """Return a mapped index: the processes of a machine share its pages.

    Raises:
        BadInputError: If FAISS cannot read it.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        what = f"is no FAISS index ({_reason(error)}); run `ragsearch index build` again"
        raise BadInputError.single(path, what) from error


def write(index: faiss.Index, path: Path) -> None:
    """Write an index file.

    Raises:
        BadInputError: If the disk does not take it.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        what = f"cannot be written ({_reason(error)}); make room or choose another folder"
        raise BadInputError.single(path, what) from error


def search(index: faiss.Index, queries: Float32[np.ndarray, "Q D"], n_docs: int) -> Hits:
    """Return the passages with the largest inner product, best first."""
    # a switch of the whole process, so it is set for this index' width at every call
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM_QUERIES * index.d
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    scores, ids, vectors = index.search_and_reconstruct(queries, n_docs)
    missing = ids < 0
    scores[missing] = -np.inf
    vectors[missing] = 0.0
    return Hits(ids, scores, vectors)


def _create(factory: str, dimension: int, asked: str) -> faiss.Index:
    with _translated(asked):
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    for part in _parts(index):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # takes seconds, for a search not offered here
    return index


def _small(factory: str) -> str:
    """Return a factory string that obeys the same laws and trains in a moment."""
    few_cells = re.sub(r"IVF\d+", "IVF4", factory)
    any_rotation = re.sub(r"OPQ\d+_(\d+),", r"RR\1,", few_cells)
    return re.sub(r"OPQ\d+,", "", any_rotation)


def _n_centroids(factory: str) -> int:
    """Return how many centroids a code can have, which is the fewest points to train with."""
    n_bits = [int(found) for found in re.findall(r"x(\d+)", factory)]
    return int(2 ** min(max([8, *n_bits]), 16))


def _hurry(index: faiss.Index) -> None:
    """Train in one round, and without advice on the number of points."""
    for part in _parts(index):
        for trained in (part, getattr(part, "pq", part)):
            training = getattr(trained, "cp", None)
            if training is not None:
                training.niter = 1
                training.min_points_per_centroid = 1


def _n_cells(index: faiss.Index) -> int:
    ivf = faiss.try_extract_index_ivf(index)
    return 0 if ivf is None else int(ivf.nlist)


def _set_effort(index: faiss.Index, n_cells: int) -> None:
    """Set how far a search looks, for FAISS looks too short; the file keeps it."""
    if n_cells:
        # of 256 cells 16, of 4,096 cells 64
        faiss.extract_index_ivf(index).nprobe = max(1, round(n_cells**0.5))
    for part in _parts(index):
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.efSearch = EF_SEARCH


def _parts(index: faiss.Index) -> Iterator[faiss.Index]:
    """Yield an index and every index inside it."""
    index = faiss.downcast_index(index)
    yield index
    for name in ("index", "base_index", "quantizer"):
        inner = getattr(index, name, None)
        if isinstance(inner, faiss.Index):
            yield from _parts(inner)


def _check_law(index: faiss.Index, queries: Float32[np.ndarray, "Q D"], factory: str) -> None:
    with _translated(factory):
        hits = search(index, queries, _K)
    again = np.einsum("qd,qkd->qk", queries, hits.vectors)
    size = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(hits.vectors, axis=2)
    found = hits.ids >= 0
    if (np.abs(again - hits.scores) > _LAW_TOLERANCE * size)[found].any():
        what = (
            "does not score by inner product with the vectors it gives back, which training "
            "needs; use Flat, HNSW, IVF, SQ, PQ or OPQ, and `normalise` for cosine"
        )
        raise BadInputError.single(f"{factory!r}", what, key="faiss")


def _sample(vectors: Float32[np.ndarray, "N D"], most: int) -> Float32[np.ndarray, "Q D"]:
    """Return at most so many vectors, evenly spaced."""
    rows = np.linspace(0, len(vectors) - 1, min(len(vectors), most)).astype(np.int64)
    return np.ascontiguousarray(vectors[rows])


@contextmanager
def _translated(factory: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        what = f"FAISS cannot make such an index: {_reason(error)}; try Flat or HNSW32"
        raise BadInputError.single(f"{factory!r}", what, key="faiss") from error


def _reason(error: RuntimeError) -> str:
    """Return what FAISS says after the function and the file it says it of."""
    text = str(error).strip()
    _, _, said = text.rpartition("' failed: ")
    return said if said != text else re.sub(r"^.* at \S+:\d+: ", "", text, flags=re.DOTALL)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
