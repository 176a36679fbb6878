"""FAISS indexes from a factory string: made, filled, written, mapped and searched.

The metric is inner product, and every index gives its vectors back: what a search scores is
the inner product with the vector it returns, so a model can compute the score again and send
gradients through it. A factory that breaks this law is refused, before anything is embedded.

A query finds the same to the last bit whatever it is searched with: it is always searched to
the same depth, and what FAISS finds is scored again, each vector by itself.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Int64

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.merge import best_first
from ragsearch.index.sketch import MOST_DOCS, Sketch

EF_SEARCH = 64  # FAISS' own 16 finds 1 in 8 of the true five, random vectors, 10 k x 768
_BLAS_FROM_QUERIES = 6
"""Exact search of at least so many queries goes through BLAS. FAISS' own switch stands at 167
queries of 768 dimensions. Measured, 50 k x 768, one thread: scanning costs 5.9 ms a query,
BLAS 19 ms for 1 query, 20 ms for 8 (scan 42), 37 ms for 32 (scan 175); 20 k x 384 breaks even
at 7."""
_MARGIN = 3  # FAISS' rounding, which depends on the batch, decides what lies beyond it
_LEAST_DEPTH = 8
_MOST_DEPTH = 1024  # more passages that score alike than this are one text many times
_UNIT = (
    2.0**-24
)  # a float32 product of D numbers is off by at most D of these, |query| |vector|
_BATCHED = (faiss.IndexFlat, faiss.IndexHNSW, faiss.IndexIVF, faiss.IndexScalarQuantizer)
"""Kinds that look at each query of a batch by itself, rounding in `IndexFlat` aside."""
_QUERIES_A_SCORING = 16  # 16 x 8 x 768 numbers of 8 bytes: 0.8 MB, which caches hold
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
    set_effort(index)
    _check_law(index, _sample(vectors, _N_SAMPLES), factory)
    return index


def read(path: Path, *, in_memory: bool = False) -> faiss.Index:
    """Return a mapped index: the processes of a machine share its pages.

    Args:
        path: File of one index.
        in_memory: Read it into memory of this process instead.

    Raises:
        BadInputError: If FAISS cannot read it.
    """
    try:
        return faiss.read_index(str(path), 0 if in_memory else faiss.IO_FLAG_MMAP_IFC)
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


def depth(n_docs: int) -> int:
    """Return how many passages are looked at to find the best `n_docs`.

    Searches of one depth, over one index with the same knobs, can be put together: the hits of
    fewer passages are the first of the hits of more.
    """
    return max(_LEAST_DEPTH, 1 << (n_docs + _MARGIN - 1).bit_length())


def search(
    index: faiss.Index,
    queries: Float32[np.ndarray, "Q D"],
    n_docs: int,
    knobs: Knobs = Knobs(),
    sketch: Sketch | None = None,
) -> Hits:
    """Return the passages with the largest inner product, best first, of equals the first.

    Args:
        index: Its kind must have a use for every knob that is set.
        queries: Finite vectors.
        n_docs: Passages a query.
        knobs: How thorough; a graph looks at no fewer than `depth(n_docs)` candidates.
        sketch: Of the vectors of a flat index: finds the same, quicker.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if sketch is None or n_docs > MOST_DOCS:
        return _search_all(index, queries, n_docs, knobs)
    hits, unsure = sketch.search(queries, n_docs)
    if unsure.any():
        plain = _search_all(index, queries[unsure], n_docs, knobs)
        for array, sure in zip(hits, plain, strict=True):
            array[unsure] = sure
    return hits


def _search_all(
    index: faiss.Index, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs
) -> Hits:
    parts = list(_parts(index))
    parameters = _parameters(parts, knobs)
    is_exact = isinstance(parts[0], faiss.IndexFlat)
    # a switch of the whole process, so it is set for this index' width at every call; the cells
    # of an IVF are chosen by scanning: by BLAS the choice would depend on the batch
    faiss.cvar.distance_compute_blas_threshold = (
        _BLAS_FROM_QUERIES * index.d if is_exact else np.iinfo(np.int32).max
    )
    together = len(queries) if all(isinstance(part, _BATCHED) for part in parts) else 1
    pieces = [
        _find(index, queries[start : start + together], depth(n_docs), parameters)
        for start in range(0, len(queries), max(together, 1))
    ]
    found = _joined(pieces, len(queries), depth(n_docs), index.d)
    hits = _best(found, n_docs)
    if is_exact:
        for row in np.flatnonzero(_is_unsure(queries, found, hits, index.ntotal)):
            deeper = _search_deeper(index, queries[row : row + 1], n_docs)
            for array, better in zip(hits, deeper, strict=True):
                array[row] = better[0]
    return hits


class _Found(NamedTuple):
    """Hits to some depth in FAISS' order, scored again, and the worst score as FAISS has it."""

    ids: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]
    vectors: Float32[np.ndarray, "Q K D"]
    worst: Float32[np.ndarray, "Q 1"]


def _find(
    index: faiss.Index,
    queries: Float32[np.ndarray, "Q D"],
    n_found: int,
    parameters: faiss.SearchParameters | None,
) -> _Found:
    """Search and score again."""
    scores, ids, vectors = index.search_and_reconstruct(queries, n_found, params=parameters)
    worst = scores[:, -1:].copy()
    missing = ids < 0
    vectors[missing] = 0.0
    for start in range(0, len(queries), _QUERIES_A_SCORING):
        rows = slice(start, start + _QUERIES_A_SCORING)
        # products of float32 are exact in float64, and vecdot sums each vector by itself
        wide = queries[rows, None].astype(np.float64)
        scores[rows] = np.vecdot(vectors[rows].astype(np.float64), wide)
    scores[missing] = -np.inf
    return _Found(ids, scores, vectors, worst)


def _best(found: _Found, n_docs: int) -> Hits:
    """Return the best of what was found: largest score first, of equals the smallest id."""
    order = best_first(found.ids, found.scores)[:, :n_docs]
    rows = np.arange(len(order))[:, None]  # `take_along_axis` takes ten times as long
    return Hits(found.ids[rows, order], found.scores[rows, order], found.vectors[rows, order])


def _joined(pieces: list[_Found], n_queries: int, n_found: int, width: int) -> _Found:
    if len(pieces) == 1:
        return pieces[0]
    none = _Found(
        np.empty((0, n_found), np.int64),
        np.empty((0, n_found), np.float32),
        np.empty((0, n_found, width), np.float32),
        np.empty((0, 1), np.float32),
    )
    joined = _Found(*(np.concatenate(arrays) for arrays in zip(none, *pieces, strict=True)))
    assert len(joined.ids) == n_queries
    return joined


def _is_unsure(
    queries: Float32[np.ndarray, "Q D"], found: _Found, hits: Hits, n_passages: int
) -> Bool[np.ndarray, " Q"]:
    """Return for which queries a rounding may have left out one of the best passages."""
    n_found = found.ids.shape[1]
    if n_found >= n_passages:
        return np.zeros(len(queries), np.bool_)
    longest = np.linalg.norm(found.vectors, axis=2).max(axis=1, initial=0.0)
    tolerance = 4 * queries.shape[1] * _UNIT * np.linalg.norm(queries, axis=1) * longest
    unsure: np.ndarray = hits.scores[:, -1] - found.worst[:, 0] <= tolerance
    return unsure


def _search_deeper(index: faiss.Index, query: Float32[np.ndarray, "1 D"], n_docs: int) -> Hits:
    n_found = depth(n_docs)
    while True:
        n_found *= 2
        found = _find(index, query, n_found, None)
        hits = _best(found, n_docs)
        if n_found > _MOST_DEPTH or not _is_unsure(query, found, hits, index.ntotal).any():
            return hits


def _parameters(parts: list[faiss.Index], knobs: Knobs) -> faiss.SearchParameters | None:
    """Return FAISS' own words for knobs, nested as the parts of an index are."""
    if knobs == Knobs():
        return None
    made: Any = faiss  # its stubs lack these classes, or their arguments
    unused = {name for name, value in knobs._asdict().items() if value is not None}
    parameters = None
    for part in reversed(parts):
        if isinstance(part, faiss.IndexHNSW) and knobs.ef_search is not None:
            parameters = made.SearchParametersHNSW(efSearch=knobs.ef_search)
            unused.discard("ef_search")
        elif isinstance(part, faiss.IndexIVF):
            parameters = made.SearchParametersIVF(
                nprobe=knobs.nprobe or part.nprobe, quantizer_params=parameters
            )
            unused.discard("nprobe")
        elif isinstance(part, faiss.IndexRefine):
            parameters = made.IndexRefineSearchParameters(
                k_factor=part.k_factor, base_index_params=parameters
            )
    assert not unused, f"{type(parts[0]).__name__} has no use for {sorted(unused)}"
    return parameters


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


def set_effort(index: faiss.Index) -> None:
    """Set how far a search looks, for FAISS looks too short; the file keeps it."""
    if n_cells := _n_cells(index):
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
        scores, ids, vectors = index.search_and_reconstruct(queries, _K)
    again = np.einsum("qd,qkd->qk", queries, vectors)
    size = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=2)
    if (np.abs(again - scores) > _LAW_TOLERANCE * size)[ids >= 0].any():
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
