"""Any lawful FAISS factory finds what exact search finds, and gives back what it scores."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from ragsearch.errors import BadInputError
from ragsearch.index.vectors import EF_SEARCH, create, read, rehearse, search, write

LAWFUL = [
    "Flat",
    "HNSW32",
    "HNSW32,Flat",
    "HNSW16,SQ8",
    "IVF8,Flat",
    "IVF4_HNSW8,Flat",
    "IVF4,Flat,RFlat",
    "SQfp16",
    "SQ8",
    "IVF4,SQ8",
    "PQ4x4",
    "PQ4x4fs",
    "IVF4,PQ4x4",
    "OPQ4,IVF4,PQ4x4",
    "OPQ4_16,PQ4x4",
]
LOSSY = [factory for factory in LAWFUL if "PQ" in factory]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    # 700: enough for FAISS to be silent about 16 centroids
    return np.random.default_rng(1).standard_normal((700, 32), dtype=np.float32)


@pytest.mark.parametrize("factory", LAWFUL)
def test_scores_are_inner_products_with_the_vectors_given_back(
    tmp_path: Path, vectors: np.ndarray, factory: str
) -> None:
    rehearse(factory, 32)
    write(create(factory, vectors), tmp_path / "x.faiss")

    hits = search(read(tmp_path / "x.faiss"), vectors[:8], 5)

    again = np.einsum("qd,qkd->qk", vectors[:8], hits.vectors)
    np.testing.assert_allclose(hits.scores, again, rtol=0.02, atol=0.3)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert hits.ids.dtype == np.int64
    if factory not in LOSSY:
        assert (hits.ids[:, 0] == np.arange(8)).all()


@pytest.mark.parametrize(
    ("factory", "what"),
    [
        ("bogus", "could not parse index string bogus"),
        ("", "could not parse"),
        ("LSH", "FAISS cannot make such an index"),
        ("IDMap,Flat", "add does not make sense with IndexIDMap"),
        ("IVF4,PQ4x4fs", "store_pairs not supported"),
        ("PQ5", "should be a multiple of the number of subquantizers"),
        ("L2norm,Flat", "does not score by inner product with the vectors it gives back"),
        ("PCA16,Flat", "does not score by inner product with the vectors it gives back"),
    ],
)
def test_an_unlawful_factory_is_refused_before_anything_is_embedded(
    factory: str, what: str
) -> None:
    with pytest.raises(BadInputError, match=f"'{factory}': faiss: .*{what}"):
        rehearse(factory, 32)


def test_a_rehearsal_of_many_cells_needs_few_points() -> None:
    rehearse("IVF65536,Flat", 32)


def test_more_cells_than_passages_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="asks for 1024 cells but there are only 700"):
        create("IVF1024,Flat", vectors)


def test_more_centroids_than_passages_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(BadInputError, match=r"Number of training points \(100\)"):
        create("PQ4", vectors[:100])


def test_search_effort_is_kept_in_the_file(tmp_path: Path, vectors: np.ndarray) -> None:
    write(create("HNSW8", vectors), tmp_path / "hnsw")
    write(create("IVF16,Flat", vectors), tmp_path / "ivf")
    write(create("IVF4_HNSW8,Flat", vectors), tmp_path / "both")

    assert read(tmp_path / "hnsw").hnsw.efSearch == EF_SEARCH
    assert read(tmp_path / "ivf").nprobe == 4
    both = read(tmp_path / "both")  # owns its quantizer
    assert faiss.downcast_index(both.quantizer).hnsw.efSearch == EF_SEARCH


def test_a_query_with_too_few_hits_is_filled_up(vectors: np.ndarray) -> None:
    hits = search(create("Flat", vectors[:3]), vectors[:2], 5)

    assert (hits.ids[:, 3:] == -1).all()
    assert (hits.scores[:, 3:] == -np.inf).all()
    assert (hits.vectors[:, 3:] == 0).all()
    assert np.isfinite(hits.scores[:, :3]).all()
    assert set(hits.ids[0, :3]) == {0, 1, 2}


def test_no_queries_give_no_hits(vectors: np.ndarray) -> None:
    hits = search(create("Flat", vectors), vectors[:0], 5)

    assert hits.ids.shape == (0, 5)
    assert hits.vectors.shape == (0, 5, 32)


def test_many_queries_at_once_find_what_each_finds_alone(vectors: np.ndarray) -> None:
    index = create("Flat", vectors)

    together = search(index, vectors[:20], 5)  # through BLAS
    alone = [search(index, vectors[row : row + 1], 5) for row in range(20)]

    assert (together.ids == np.concatenate([hits.ids for hits in alone])).all()
    scores = np.concatenate([hits.scores for hits in alone])
    np.testing.assert_allclose(together.scores, scores, atol=1e-4)


def test_threads_are_given_back(vectors: np.ndarray) -> None:
    before = faiss.omp_get_max_threads()

    create("Flat", vectors, threads=before + 1)

    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("content", [None, b"", b"no faiss index"])
def test_what_is_no_index_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.faiss").write_bytes(content)

    with pytest.raises(BadInputError, match=r"x.faiss: is no FAISS index .* build` again"):
        read(tmp_path / "x.faiss")


def test_an_index_the_disk_does_not_take_is_told(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="cannot be written"):
        write(create("Flat", vectors), tmp_path / "missing" / "x.faiss")
