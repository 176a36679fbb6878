"""Indexes and queries made for the bench."""

import faiss
import numpy as np
import pytest

from ragsearch.bench.indexes import made, make_queries, taken
from ragsearch.bench.plan import Kind
from ragsearch.errors import BadInputError
from ragsearch.index.open import open_index
from ragsearch.index.vectors import search


@pytest.mark.parametrize("kind", Kind)
def test_a_made_index_is_sound_and_searches_as_its_kind(tmp_path, kind):
    built = made(kind, 300, 16, tmp_path)

    index = open_index(built.folder)
    assert (built.kind, index.manifest.n_passages, index.manifest.dimension) == (kind, 300, 16)
    assert len(index.store.take([299])[0].text.split()) == 100
    (vectors,) = [shard.vectors for shard in index.shards]
    assert isinstance(faiss.downcast_index(vectors), faiss.IndexHNSW) == (kind is Kind.HNSW)
    assert built.faiss.read_bytes() == (built.folder / "index.faiss").read_bytes()
    assert built.faiss_bytes == built.faiss.stat().st_size


def test_a_large_exact_index_is_searched_with_its_sketch(tmp_path):
    bench = made(Kind.EXACT, 20_000, 32, tmp_path)
    queries = make_queries(bench, tmp_path / "q.npy", clients=1, steps=1, batch=8)[0, 0]

    index = open_index(bench.folder)

    assert "index.sketch" in index.manifest.files
    plain = search(index.shards[0].vectors, queries, 5)
    for found, expected in zip(index.search(queries, 5), plain, strict=True):
        np.testing.assert_array_equal(found, expected)
    (bench.folder / "index.sketch").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"index\.sketch.*has 0 bytes instead of"):
        open_index(bench.folder, verify=False)


def test_an_index_is_made_once_and_found_again(tmp_path):
    first = made(Kind.EXACT, 300, 16, tmp_path)
    written = first.faiss.stat().st_mtime_ns

    again = made(Kind.EXACT, 300, 16, tmp_path)

    assert again == first
    assert again.faiss.stat().st_mtime_ns == written
    assert made(Kind.EXACT, 301, 16, tmp_path).folder != first.folder


def test_an_index_that_is_there_is_taken_and_exported(exact, tmp_path):
    index = taken(exact.folder, tmp_path)

    assert index.folder == exact.folder
    assert index.manifest.fingerprint == exact.fingerprint
    assert index.faiss.is_file()


def test_queries_lie_near_passages_and_none_is_asked_twice(tmp_path):
    index = made(Kind.EXACT, 300, 16, tmp_path)

    queries = make_queries(index, tmp_path / "queries.npy", clients=3, steps=4, batch=8)

    assert queries.shape == (3, 4, 8, 16)
    np.testing.assert_array_equal(np.load(tmp_path / "queries.npy"), queries)
    flat = queries.reshape(-1, 16)
    assert len(np.unique(flat, axis=0)) == len(flat)
    best = open_index(index.folder).search(flat, 1).scores[:, 0]
    assert (best > 0.5).all()
