"""Stock Transformers opens the exported index and finds the same passages."""

from pathlib import Path

import numpy as np
import pytest
from transformers import (
    AutoTokenizer,
    DPRConfig,
    RagConfig,
    RagRetriever,
    T5Config,
)

from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index
from ragsearch.index.hf import FAISS, PASSAGES, write_hf_dataset
from ragsearch.index.open import PassageIndex
from ragsearch.spec.index_section import IndexSection
from tests.tiny import Tiny


@pytest.mark.parametrize(
    ("factory", "shards"),
    [("Flat", 1), ("HNSW32", 1), ("IVF4,Flat", 1), ("SQfp16", 1), ("Flat", 3)],
)
def test_stock_rag_retriever_finds_what_we_find(
    tiny: Tiny, settings: IndexSection, tmp_path: Path, factory: str, shards: int
) -> None:
    asked = settings.model_copy(update={"faiss": factory, "shards": shards})
    index = build_index(asked, tmp_path / "index")
    write_hf_dataset(index, tmp_path / "hf")
    queries = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)

    vectors, ids, passages = _retriever(tiny, tmp_path / "hf").retrieve(queries, 5)

    hits = index.search(queries, 5)
    assert (ids == hits.ids).all()
    np.testing.assert_allclose(vectors, hits.vectors, atol=1e-6)
    ours = index.store.take(hits.ids[0].tolist())
    assert list(passages[0]["title"]) == [passage.title for passage in ours]
    assert list(passages[0]["text"]) == [passage.text for passage in ours]


def test_an_export_leaves_only_what_transformers_reads(
    index: PassageIndex, tmp_path: Path
) -> None:
    write_hf_dataset(index, tmp_path / "hf")

    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == sorted([
        FAISS,
        PASSAGES,
    ])


def test_an_occupied_folder_is_refused(index: PassageIndex, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadInputError, match="is occupied; choose an empty folder"):
            write_hf_dataset(index, place)


def _retriever(tiny: Tiny, folder: Path) -> RagRetriever:
    config = RagConfig.from_question_encoder_generator_configs(
        DPRConfig.from_pretrained(tiny.question_encoder),
        T5Config.from_pretrained(tiny.t5),
        index_name="custom",
        passages_path=str(folder / PASSAGES),
        index_path=str(folder / FAISS),
        retrieval_vector_size=32,
    )
    return RagRetriever(
        config,
        question_encoder_tokenizer=AutoTokenizer.from_pretrained(tiny.question_encoder),
        generator_tokenizer=AutoTokenizer.from_pretrained(tiny.t5),
    )
