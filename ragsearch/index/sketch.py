"""A sketch of flat vectors, one byte a number, that says which passages cannot be the best.

Exact search reads every number of every vector. The sketch is a quarter of that, and recent
processors multiply bytes several times faster than floats. Each score found with it carries a
bound on its error, so passages are ruled out for certain, and the few that are left are scored
with their own vectors: the hits are those of exact search, to the bit.

The vectors are centred (which moves all scores of a query by the same amount), turned by a
random rotation (which spreads outlying dimensions, as in Jegou et al. 2010 and Gao and Long
2024, RaBitQ) and rounded to multiples of one step.

Axes: Q queries, K passages per query, D embedding size, N passages, C candidates.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits
from ragsearch.index.manifest import SKETCH_FROM_PASSAGES

if TYPE_CHECKING:
    import torch

MOST_DOCS = 256
"""Passages a query beyond which so much is rescored that plain search is as quick."""
_MOST_CANDIDATES = 4096  # a query
_LARGEST = 127  # of a signed byte; -128 is left out, so that both signs have the same steps
_UNIT = 2.0**-24  # relative rounding of float32
_ROWS_A_BLOCK = 16_384  # 64 queries: 4 MB of products; no fewer chunks in it than `MOST_DOCS`
_ROWS_A_CHUNK = 64  # one largest product is kept of so many, and the others looked at seldom
_ROWS_A_SCORING = 2048  # 2,048 x 768 numbers of 8 bytes: 12 MB
_ROWS_OF_TRIAL, _QUERIES_OF_TRIAL, _N_TRIALS = 8192, 8, 3


class _Bounds(NamedTuple):
    """What is known of every query before the search."""

    codes: Float32[np.ndarray, "Q D"]
    """The rotated query in steps."""
    step: Float64[np.ndarray, " Q"]
    """What one unit of the products of codes is worth."""
    shift: Float64[np.ndarray, " Q"]
    """Score of the centre."""
    error: Float64[np.ndarray, " Q"]
    """Most by which a score differs from shift + step x product."""


class _Candidates(NamedTuple):
    """Passages that were not ruled out, by query, the largest product first."""

    query: Int64[np.ndarray, " C"]
    passage: Int64[np.ndarray, " C"]
    product: Int64[np.ndarray, " C"]

    def only(self, kept: np.ndarray) -> "_Candidates":
        """Return some of them, or all in another order."""
        return _Candidates(*(array[kept] for array in self))


class Sketch:
    """An open sketch and the vectors it is of.

    Args:
        path: What `write_sketch` wrote; memory-mapped.
        vectors: The vectors themselves, which may be mapped too: few of them are read.

    Raises:
        BadInputError: If the file is no sketch of such vectors.
    """

    def __init__(self, path: Path, vectors: Float32[np.ndarray, "N D"]) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                self._codes: torch.Tensor = file.get_tensor("codes")
                self._rotation = file.get_tensor("rotation").numpy()
                self._centre = file.get_tensor("centre").numpy()
                figures = file.get_tensor("figures").tolist()
        except (OSError, SafetensorError) as error:
            what = f"is no sketch of vectors ({error}); run `ragsearch index build` again"
            raise BadInputError.single(path, what) from error
        self._scale, self._error, self._longest_code, self._longest = figures
        self._vectors = vectors
        if tuple(self._codes.shape) != vectors.shape:
            found = tuple(self._codes.shape)
            what = f"is of {found} numbers, not {vectors.shape}; build the index again"
            raise BadInputError.single(path, what)

    def is_quick(self) -> bool:
        """Return whether this processor multiplies bytes clearly faster than floats."""
        import torch

        codes = self._codes[:_ROWS_OF_TRIAL]
        floats = codes.float()
        times = []
        for left, right, product in (
            (codes[:_QUERIES_OF_TRIAL], codes, torch._int_mm),  # noqa: SLF001 (no other name)
            (floats[:_QUERIES_OF_TRIAL], floats, torch.mm),
        ):
            took_s = []
            for _ in range(_N_TRIALS):
                started = time.perf_counter()
                product(left, right.T)
                took_s.append(time.perf_counter() - started)
            times.append(min(took_s))
        return 1.25 * times[0] < times[1]

    def search(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int
    ) -> tuple[Hits, Bool[np.ndarray, " Q"]]:
        """Return the passages with the largest inner product, of equals the first.

        Args:
            queries: Finite vectors.
            n_docs: At most `MOST_DOCS`, and no more than there are passages.

        Returns:
            The hits, and for which queries they are not sure because too many passages score
            alike.
        """
        bounds = self._bounds(queries)
        found = self._candidates(bounds, n_docs)
        n_found = np.bincount(found.query, minlength=len(queries))
        unsure = n_found > _MOST_CANDIDATES
        found = found.only(~unsure[found.query])
        place = _place(found.query, len(queries))
        scores = np.full(len(place), -np.inf)
        first = place < n_docs
        scores[first] = self._score(queries, found.only(first))
        worst = np.full(len(queries), np.finfo(np.float32).max, np.float64)
        np.minimum.at(worst, found.query[first], scores[first])
        worst -= np.abs(worst) * 4 * _UNIT  # what rounds to the same score is as good
        reach = (bounds.shift + bounds.error)[found.query]
        near = ~first & (bounds.step[found.query] * found.product + reach >= worst[found.query])
        scores[near] = self._score(queries, found.only(near))
        return self._hits(len(queries), n_docs, found, scores), unsure

    def _bounds(self, queries: Float32[np.ndarray, "Q D"]) -> _Bounds:
        turned = queries @ self._rotation
        step = np.maximum(np.abs(turned).max(axis=1) / _LARGEST, np.finfo(np.float32).tiny)
        codes = np.rint(turned / step[:, None])
        length = np.linalg.norm(queries.astype(np.float64), axis=1)
        rounded = np.linalg.norm(turned - step[:, None] * codes, axis=1)
        # |q.v - (step codes).(scale v's codes)| <= |q| |v's rounding| + |q's rounding| |v|,
        # and the float32 roundings on the way
        slack = 8 * queries.shape[1] * _UNIT * length * self._longest
        error = length * self._error + rounded * self._longest_code + slack
        shift = queries.astype(np.float64) @ self._centre.astype(np.float64)
        return _Bounds(codes, step.astype(np.float64) * self._scale, shift, error)

    def _candidates(self, bounds: _Bounds, n_docs: int) -> _Candidates:
        """Return the passages that may be among the best, the largest product first."""
        import torch

        codes = torch.from_numpy(bounds.codes.astype(np.int8))
        lowest = torch.iinfo(torch.int32).min // 2
        best = torch.full((len(codes), n_docs), lowest, dtype=torch.int32)
        margin = np.minimum(np.ceil(2 * bounds.error / bounds.step) + 1, -float(lowest))
        margins = torch.from_numpy(margin.astype(np.int32))
        pieces = []
        with torch.inference_mode():
            for start in range(0, len(self._codes), _ROWS_A_BLOCK):
                block = self._codes[start : start + _ROWS_A_BLOCK]
                chunks = _chunked(torch._int_mm(codes, block.T))  # noqa: SLF001 (no other name)
                largest = chunks.amax(dim=2)  # each of another passage
                best = torch.cat([best, largest], dim=1).topk(n_docs, dim=1).values
                least = best[:, -1] - margins
                query, chunk = (largest >= least[:, None]).nonzero(as_tuple=True)
                products = chunks[query, chunk]
                row, column = (products >= least[query, None]).nonzero(as_tuple=True)
                passage = start + chunk[row] * _ROWS_A_CHUNK + column
                pieces.append((query[row], passage, products[row, column].long()))
            found = _Candidates(
                *(torch.cat(each).numpy() for each in zip(*pieces, strict=True))
            )
            least = best[:, -1].long() - margins
        found = found.only(found.product >= least.numpy()[found.query])
        return found.only(np.lexsort((-found.product, found.query)))

    def _score(
        self, queries: Float32[np.ndarray, "Q D"], found: _Candidates
    ) -> Float64[np.ndarray, " C"]:
        """Return the scores that plain search gives, before they are rounded."""
        scores = np.empty(len(found.query))
        wide = queries.astype(np.float64)
        for start in range(0, len(scores), _ROWS_A_SCORING):
            rows = slice(start, start + _ROWS_A_SCORING)
            vectors = self._vectors[found.passage[rows]].astype(np.float64)
            scores[rows] = np.vecdot(vectors, wide[found.query[rows]])
        return scores

    def _hits(
        self, n_queries: int, n_docs: int, found: _Candidates, scores: np.ndarray
    ) -> Hits:
        rounded = scores.astype(np.float32)
        order = np.lexsort((found.passage, -rounded, found.query))
        place = _place(found.query[order], n_queries)
        order, place = order[place < n_docs], place[place < n_docs]
        ids = np.full((n_queries, n_docs), -1, np.int64)
        best = np.full((n_queries, n_docs), -np.inf, np.float32)
        ids[found.query[order], place] = found.passage[order]
        best[found.query[order], place] = rounded[order]
        return Hits(ids, best, self._vectors[ids])


def write_sketch(vectors: Float32[np.ndarray, "N D"], path: Path) -> None:
    """Write the sketch of vectors; takes a second for 100,000 of 768 numbers.

    Args:
        vectors: In the order of the passages; may be a memory map.
        path: File to write (safetensors).
    """
    from safetensors.numpy import save_file

    n_vectors, width = vectors.shape
    chance = np.random.default_rng(0)
    rotation = np.linalg.qr(chance.standard_normal((width, width)))[0].astype(np.float32)
    centre = np.mean([block.mean(axis=0) for block in _blocks(vectors)], axis=0)
    centre = centre.astype(np.float32)
    sample = vectors[:: max(1, n_vectors // _ROWS_A_BLOCK)][:_ROWS_A_BLOCK]
    scale = float(np.abs((sample - centre) @ rotation).max()) / _LARGEST or 1.0
    codes = np.empty((n_vectors, width), np.int8)
    figures = np.zeros(3)
    done = 0
    for block in _blocks(vectors):
        turned = (block - centre) @ rotation
        rounded = np.clip(np.rint(turned / np.float32(scale)), -_LARGEST, _LARGEST)
        codes[done : done + len(block)] = rounded
        done += len(block)
        steps = np.float32(scale) * rounded
        lengths = [np.linalg.norm(each, axis=1).max() for each in (turned - steps, steps)]
        longest = np.linalg.norm(block, axis=1).max() + np.linalg.norm(centre)
        figures = np.maximum(figures, [*lengths, longest])
    arrays = {"codes": codes, "rotation": rotation, "centre": centre}
    save_file(arrays | {"figures": np.array([scale, *figures])}, path)


def sketch_vectors(index: faiss.Index, path: Path) -> bool:
    """Write the sketch of an index that it makes quicker: a large flat one.

    Returns:
        Whether there is one now.
    """
    vectors = _flat(index)
    if vectors is None or len(vectors) < SKETCH_FROM_PASSAGES:
        return False
    write_sketch(vectors, path)
    return True


def read_sketch(index: faiss.Index, path: Path) -> Sketch | None:
    """Return the mapped sketch of a flat index, None where this processor gains nothing by it.

    Raises:
        BadInputError: If the file is not the sketch of such an index.
    """
    vectors = _flat(index)
    assert vectors is not None, "a sketch of an index that is not flat"
    sketch = Sketch(path, vectors)
    return sketch if sketch.is_quick() else None


def _flat(index: faiss.Index) -> Float32[np.ndarray, "N D"] | None:
    """Return the vectors of a flat index where they lie; good while the index is."""
    flat = faiss.downcast_index(index)
    if not isinstance(flat, faiss.IndexFlat):
        return None
    numbers: np.ndarray = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return numbers.reshape(flat.ntotal, flat.d)


def _blocks(vectors: Float32[np.ndarray, "N D"]) -> Iterator[Float32[np.ndarray, "R D"]]:
    for start in range(0, len(vectors), _ROWS_A_BLOCK):
        yield vectors[start : start + _ROWS_A_BLOCK]


def _chunked(products: "torch.Tensor") -> "torch.Tensor":
    """Return products [Q, R] as [Q, chunks, rows], the last chunk filled up."""
    import torch

    missing = -products.shape[1] % _ROWS_A_CHUNK
    if missing:
        lowest = torch.iinfo(products.dtype).min
        products = torch.nn.functional.pad(products, (0, missing), value=lowest)
    return products.view(len(products), -1, _ROWS_A_CHUNK)


def _place(query: Int64[np.ndarray, " C"], n_queries: int) -> Int64[np.ndarray, " C"]:
    """Return the place of each candidate among those of its query, which stand together."""
    starts = np.searchsorted(query, np.arange(n_queries))
    place: np.ndarray = np.arange(len(query)) - starts[query]
    return place
