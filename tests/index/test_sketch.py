"""Exact search by a sketch finds what exact search finds, to the bit."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.index.sketch import MOST_DOCS, Sketch, read_sketch, sketch_vectors, write_sketch
from ragsearch.index.vectors import create, read, search, write

N, D = 20_011, 32  # the last chunk of 64 is not full


def flat(vectors: np.ndarray) -> faiss.Index:
    return create("Flat", vectors.astype(np.float32))


def sketch_of(vectors: np.ndarray, folder: Path) -> Sketch:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    write_sketch(vectors, folder / "a.sketch")
    return Sketch(folder / "a.sketch", vectors)


def clustered(seed: int, spread: float) -> np.ndarray:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((50, D))
    noise = spread * chance.standard_normal((N, D))
    return (centres[chance.integers(50, size=N)] + noise).astype(np.float32)


@pytest.mark.parametrize(
    "vectors",
    [
        clustered(0, 1.0),
        clustered(1, 0.01),  # close together: many candidates
        clustered(2, 1.0) + 30.0,  # far from the origin
        clustered(3, 1.0) * np.where(np.arange(D) == 3, 100.0, 1.0),  # an outlying dimension
        clustered(4, 1.0) * np.random.default_rng(0).lognormal(sigma=1.5, size=(N, 1)),
    ],
    ids=["plain", "close", "far", "outlying", "lengths"],
)
def test_a_sketch_finds_the_very_bits_of_plain_search(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    vectors = vectors.astype(np.float32)
    index, sketch = flat(vectors), sketch_of(vectors, tmp_path)
    queries = vectors[::2003] + np.float32(0.1)

    for n_docs in (1, 5, 100):
        plain = search(index, queries, n_docs)
        quick = search(index, queries, n_docs, sketch=sketch)
        for found, expected in zip(quick, plain, strict=True):
            np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), n_docs=st.integers(1, 40), size=st.floats(1e-6, 1e6))
def test_any_query_finds_the_same_with_a_sketch(
    seed: int, n_docs: int, size: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    vectors = clustered(5, 1.0)
    index, sketch = flat(vectors), sketch_of(vectors, tmp_path_factory.mktemp("sketch"))
    queries = np.random.default_rng(seed).standard_normal((3, D)) * size
    queries = queries.astype(np.float32)

    plain = search(index, queries, n_docs)
    quick = search(index, queries, n_docs, sketch=sketch)

    for found, expected in zip(quick, plain, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_passages_that_score_alike_come_by_number(tmp_path: Path) -> None:
    vectors = clustered(6, 1.0)
    vectors[::100] = 3 * vectors[7]  # 201 times the same
    index, sketch = flat(vectors), sketch_of(vectors, tmp_path)

    plain = search(index, vectors[7:8], 50)
    quick = search(index, vectors[7:8], 50, sketch=sketch)

    np.testing.assert_array_equal(quick.ids, plain.ids)
    assert quick.ids[0, :3].tolist() == [0, 100, 200]


def test_a_query_that_rules_nothing_out_is_left_to_plain_search(tmp_path: Path) -> None:
    vectors = clustered(8, 1.0)
    sketch = sketch_of(vectors, tmp_path)
    queries = np.stack([np.zeros(D, np.float32), vectors[11]])

    hits, unsure = sketch.search(queries, 5)

    assert unsure.tolist() == [True, False]
    assert hits.ids[1, 0] == search(flat(vectors), queries[1:], 1).ids[0, 0]
    found = search(flat(vectors), queries, 5, sketch=sketch)
    np.testing.assert_array_equal(found.ids, search(flat(vectors), queries, 5).ids)


def test_the_hits_of_a_query_do_not_depend_on_company(tmp_path: Path) -> None:
    vectors = clustered(9, 1.0)
    index, sketch = flat(vectors), sketch_of(vectors, tmp_path)
    queries = vectors[:64] + np.float32(0.2)

    together = search(index, queries, 5, sketch=sketch)

    for number in (0, 17, 63):
        alone = search(index, queries[number : number + 1], 5, sketch=sketch)
        for found, expected in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found[0], expected[number])


def test_more_passages_than_a_sketch_is_good_for_are_searched_plainly(tmp_path: Path) -> None:
    vectors = clustered(10, 1.0)
    index, sketch = flat(vectors), sketch_of(vectors, tmp_path)

    many = search(index, vectors[:2], MOST_DOCS + 1, sketch=sketch)

    np.testing.assert_array_equal(many.ids, search(index, vectors[:2], MOST_DOCS + 1).ids)


def test_only_large_flat_indexes_get_a_sketch(tmp_path: Path) -> None:
    vectors = clustered(11, 1.0)

    assert sketch_vectors(flat(vectors), tmp_path / "large.sketch")
    assert not sketch_vectors(flat(vectors[:1000]), tmp_path / "small.sketch")
    assert not sketch_vectors(create("HNSW8,Flat", vectors[:2000]), tmp_path / "graph.sketch")
    assert [file.name for file in tmp_path.iterdir()] == ["large.sketch"]


def test_a_sketch_of_other_vectors_is_refused(tmp_path: Path) -> None:
    write_sketch(clustered(12, 1.0), tmp_path / "a.sketch")
    write(flat(clustered(12, 1.0)[:-1]), tmp_path / "index.faiss")

    with pytest.raises(BadInputError, match=r"a\.sketch.*20011, 32.*not \(20010, 32\)"):
        read_sketch(read(tmp_path / "index.faiss"), tmp_path / "a.sketch")


def test_a_truncated_sketch_is_refused(tmp_path: Path) -> None:
    write_sketch(clustered(13, 1.0), tmp_path / "a.sketch")
    whole = (tmp_path / "a.sketch").read_bytes()
    (tmp_path / "a.sketch").write_bytes(whole[:-100])

    with pytest.raises(BadInputError, match=r"a\.sketch.*no sketch of vectors.*build` again"):
        Sketch(tmp_path / "a.sketch", clustered(13, 1.0))
