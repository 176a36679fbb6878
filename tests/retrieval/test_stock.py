"""The baseline: stock Transformers' index finds what ours finds."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ragsearch.errors import BadInputError
from ragsearch.index.hf import FAISS, write_hf_dataset
from ragsearch.index.hits import Knobs
from ragsearch.index.manifest import read_manifest
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import BadQueriesError, Retriever
from ragsearch.retrieval.stock import StockRetriever


@pytest.fixture(scope="module")
def export(exact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "hf"
    write_hf_dataset(open_index(exact.folder), folder)
    return folder


@pytest.fixture
def stock(exact, export) -> StockRetriever:
    return StockRetriever(export, read_manifest(exact.folder), who="trial 3")


@pytest.mark.parametrize("n_queries", [0, 1, 8, 19])
def test_stock_finds_what_the_index_finds(stock, exact, n_queries):
    queries = np.random.default_rng(1).normal(size=(n_queries, 32)).astype(np.float32)

    hits, same = stock.retrieve(queries, 5), open_index(exact.folder).search(queries, 5)

    np.testing.assert_array_equal(hits.ids, same.ids)
    np.testing.assert_array_equal(hits.vectors, same.vectors)
    np.testing.assert_allclose(hits.scores, same.scores, rtol=1e-4)
    assert [array.dtype for array in hits] == [array.dtype for array in same]


def test_hits_that_are_missing_are_marked(stock, queries):
    hits = stock.retrieve(queries, 50)

    assert (hits.ids[:, 40:] == -1).all()
    assert (hits.ids[:, :40] >= 0).all()
    assert (hits.scores[:, 40:] == -np.inf).all()
    assert (hits.vectors[:, 40:] == 0).all()


def test_stock_reads_title_and_text_of_the_same_passages(stock, exact):
    ids = np.array([7, 3])

    found = stock.passages(ids)

    same = open_index(exact.folder).store.take([7, 3])
    assert [one[2:] for one in found] == [one[2:] for one in same]
    with pytest.raises(BadQueriesError, match="trial 3: no passage has id -1"):
        stock.passages(np.array([-1]))


def test_stock_is_a_retriever_of_the_index(stock, exact):
    assert isinstance(stock, Retriever)
    assert (stock.fingerprint, stock.n_passages, stock.dimension) == (exact.fingerprint, 40, 32)


def test_the_index_is_read_at_the_first_search_only(export, exact, tmp_path, queries):
    without = tmp_path / "hf"
    without.mkdir()
    (without / "passages").symlink_to(export / "passages")
    reader = StockRetriever(without, read_manifest(exact.folder))

    assert len(reader.passages(np.array([0]))) == 1
    assert not (without / FAISS).exists()
    with pytest.raises(BadInputError, match=r"is no export .*index\.faiss.*; write it again"):
        reader.retrieve(queries, 1)


def test_queries_and_knobs_that_stock_cannot_take_are_refused(stock, queries):
    with pytest.raises(BadQueriesError, match="trial 3: 8 of 8 query vectors are NaN"):
        stock.retrieve(queries * np.nan, 5)
    with pytest.raises(BadQueriesError, match="trial 3: stock Transformers searches an index"):
        stock.retrieve(queries, 5, Knobs(ef_search=32))


def test_a_folder_without_the_dataset_is_refused(exact, tmp_path):
    with pytest.raises(BadInputError, match=r"is no export .*; write it again with `ragsearch"):
        StockRetriever(tmp_path, read_manifest(exact.folder))


def test_the_dataset_of_another_index_is_refused(exact, export):
    larger = replace(read_manifest(exact.folder), n_passages=41)

    with pytest.raises(BadInputError, match="has 40 passages, not the index' 41; write it"):
        StockRetriever(export, larger)


def test_transformers_is_imported_when_a_retriever_is_opened():
    code = (
        "import sys, ragsearch.retrieval.stock as s; assert 'transformers' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
