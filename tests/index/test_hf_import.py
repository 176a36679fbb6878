"""A knowledge set as the original script wrote it becomes an index like one built here."""

import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from ragsearch.data.passages import iter_corpus
from ragsearch.errors import BadInputError
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.hf import FAISS, PASSAGES, write_hf_dataset
from ragsearch.index.hf_import import KnowledgeSet, import_index
from ragsearch.index.open import PassageIndex, open_index
from tests.tiny import Tiny, tiny_dpr


class Made:
    """Files as `use_own_knowledge_dataset.py` makes them, written anew for each test."""

    def __init__(self, folder: Path, tiny: Tiny) -> None:
        self.passages = folder / "my_knowledge_dataset"
        self.vectors = folder / "my_knowledge_dataset_hnsw_index.faiss"
        self.encoder = str(tiny.context_encoder)
        rows = list(iter_corpus(tiny.corpus))
        self.columns: dict[str, list[object]] = {
            "title": [row.title for row in rows],
            "text": [row.text for row in rows],
        }
        self.embed()

    def embed(self) -> None:
        """Give every row the vector of its title and text."""
        columns = self.columns["title"], self.columns["text"]
        embedded = TextEncoder.load(self.encoder).encode_passages(*columns)
        self.columns["embeddings"] = list(embedded)

    def write(self, factory: str = "HNSW128,Flat", metric: int = faiss.METRIC_INNER_PRODUCT):
        """Write both files and return where they are."""
        Dataset.from_dict(self.columns).save_to_disk(self.passages)
        vectors = np.stack(self.columns["embeddings"])
        index = faiss.index_factory(vectors.shape[1], factory, metric)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(self.vectors))
        return KnowledgeSet(self.passages, self.vectors, self.encoder)


@pytest.fixture
def made(tmp_path: Path, tiny: Tiny) -> Made:
    return Made(tmp_path, tiny)


def queries(n: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 32)).astype(np.float32)


@pytest.mark.parametrize("factory", ["HNSW128,Flat", "Flat"])
def test_an_imported_index_finds_what_a_built_one_finds(
    made: Made, index: PassageIndex, factory: str, tmp_path: Path
) -> None:
    imported = import_index(made.write(factory), tmp_path / "kb")

    again = open_index(tmp_path / "kb")
    ours, theirs = index.search(queries(), 5), again.search(queries(), 5)
    assert (ours.ids == theirs.ids).all()
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-5)
    best = ours.ids[0].tolist()
    assert [passage[2:] for passage in again.store.take(best)] == [
        passage[2:] for passage in index.store.take(best)
    ]
    assert imported.manifest == again.manifest
    assert (again.manifest.faiss, again.manifest.n_passages) == (factory, 40)
    assert again.manifest.encoder_fingerprint == index.manifest.encoder_fingerprint


def test_an_imported_ivf_index_looks_into_more_than_one_cell(
    made: Made, tmp_path: Path
) -> None:
    imported = import_index(made.write("IVF9,Flat"), tmp_path / "kb")

    assert imported.manifest.faiss == "IVF9,Flat"
    assert faiss.extract_index_ivf(imported.shards[0].vectors).nprobe == 3


def test_what_export_writes_is_imported_again(
    made: Made, index: PassageIndex, tmp_path: Path
) -> None:
    write_hf_dataset(index, tmp_path / "hf")
    folder = tmp_path / "hf"

    imported = import_index(
        KnowledgeSet(folder / PASSAGES, folder / FAISS, made.encoder), tmp_path / "kb"
    )

    assert (imported.search(queries(), 3).ids == index.search(queries(), 3).ids).all()
    assert [passage.id for passage in imported.store.take([0, 39])] == ["1", "40"]


def test_the_same_set_has_the_same_fingerprint_wherever_it_lies(
    made: Made, tmp_path: Path
) -> None:
    first = import_index(made.write(), tmp_path / "one")
    moved = KnowledgeSet(
        made.passages.rename(tmp_path / "moved"),
        made.vectors.rename(tmp_path / "moved.faiss"),
        made.encoder,
    )

    assert import_index(moved, tmp_path / "two").manifest.fingerprint == (
        first.manifest.fingerprint
    )
    assert import_index(moved, tmp_path / "two").manifest.created  # opened: it is there already


def test_another_set_is_another_index_and_does_not_replace_the_first(
    made: Made, tmp_path: Path
) -> None:
    first = import_index(made.write(), tmp_path / "kb")
    shutil.rmtree(made.passages)
    made.columns["text"] = [f"{text} " * 2 for text in made.columns["text"]]
    made.embed()
    other = made.write()

    with pytest.raises(BadInputError, match="holds another index"):
        import_index(other, tmp_path / "kb")
    found = import_index(other, tmp_path / "other").manifest.fingerprint
    assert found != first.manifest.fingerprint


def test_a_missing_title_is_an_empty_one(made: Made, tmp_path: Path) -> None:
    made.columns["title"][0] = None
    made.columns["embeddings"][0] = TextEncoder.load(made.encoder).encode_passages(
        [""], made.columns["text"][:1]
    )[0]

    imported = import_index(made.write(), tmp_path / "kb")

    assert imported.store.take([0])[0].title == ""


def test_rows_without_text_are_all_placed(made: Made, tmp_path: Path) -> None:
    made.columns["text"][4] = made.columns["text"][7] = None
    made.columns["text"][9] = " "

    with pytest.raises(BadInputError) as caught:
        import_index(made.write(), tmp_path / "kb")

    assert [str(mistake).rpartition("/")[2] for mistake in caught.value.mistakes] == [
        "my_knowledge_dataset: row 5: text: is missing; this row has text",
        "my_knowledge_dataset: row 8: text: is missing; this row has text",
        "my_knowledge_dataset: row 10: text: is empty; give text or drop the row",
    ]
    assert not (tmp_path / "kb").exists()


def test_files_of_different_sets_are_refused(made: Made, tmp_path: Path) -> None:
    knowledge = made.write()
    short = faiss.IndexFlatIP(16)
    short.add(np.ones((39, 16), np.float32))
    faiss.write_index(short, str(made.vectors))

    with pytest.raises(BadInputError) as caught:
        import_index(knowledge, tmp_path / "kb")

    rows, width = (
        str(mistake).rpartition(f"{tmp_path}/")[2] for mistake in caught.value.mistakes
    )
    assert "40 passages; give files of one set" in rows
    assert width.endswith(
        "has vectors of 16 numbers, but the embeddings have 32; give files of one set"
    )


def test_vectors_in_another_order_are_refused(made: Made, tmp_path: Path) -> None:
    knowledge = made.write("Flat")
    vectors = np.stack(made.columns["embeddings"])[::-1].copy()
    index = faiss.IndexFlatIP(32)
    index.add(vectors)
    faiss.write_index(index, str(made.vectors))

    with pytest.raises(BadInputError, match="has another vector of row 1 than the dataset"):
        import_index(knowledge, tmp_path / "kb")


def test_an_encoder_that_did_not_embed_the_set_is_refused(made: Made, tmp_path: Path) -> None:
    made.encoder = str(tiny_dpr(tmp_path / "other", "context", seed=9))

    with pytest.raises(BadInputError, match="gives another vector for row 1 than the dataset"):
        import_index(made.write(), tmp_path / "kb")


def test_an_encoder_of_another_width_is_refused(made: Made, tmp_path: Path) -> None:
    made.columns["embeddings"] = [row[:16] for row in made.columns["embeddings"]]

    with pytest.raises(BadInputError, match="gives vectors of 32 numbers, but the embeddings"):
        import_index(made.write(), tmp_path / "kb")


@pytest.mark.parametrize(
    ("factory", "metric", "what"),
    [
        (
            "HNSW16,Flat",
            faiss.METRIC_L2,
            "does not search by inner product, by which RAG scores",
        ),
        (
            "SQfp16",
            faiss.METRIC_INNER_PRODUCT,
            "is an IndexScalarQuantizer, and only flat, HNSW",
        ),
        ("IVF4_HNSW4,Flat", faiss.METRIC_INNER_PRODUCT, "is an IndexIVFFlat, and only flat"),
    ],
)
def test_other_kinds_of_index_are_refused(
    factory: str, metric: int, what: str, made: Made, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=what):
        import_index(made.write(factory, metric), tmp_path / "kb")


def test_what_is_pickled_is_refused(made: Made, tmp_path: Path) -> None:
    knowledge = made.write()
    legacy = tmp_path / "legacy"
    legacy.mkdir()
    (legacy / "psgs_w100.tsv.pkl").touch()
    (tmp_path / "hnswSQ8.index_meta.dpr").touch()

    for passages, vectors in (
        (legacy, knowledge.vectors),
        (knowledge.passages, tmp_path / "hnswSQ8.index_meta.dpr"),
    ):
        with pytest.raises(BadInputError, match="is of the pickled legacy index, which is not"):
            import_index(KnowledgeSet(passages, vectors, made.encoder), tmp_path / "kb")


def test_what_is_no_knowledge_set_is_refused(made: Made, tmp_path: Path) -> None:
    knowledge = made.write()
    one = Dataset.from_dict({"title": ["T"], "text": ["t"]})
    DatasetDict({"train": one}).save_to_disk(tmp_path / "several")
    one.save_to_disk(tmp_path / "bare")
    Dataset.from_dict({"title": [], "text": [], "embeddings": []}).save_to_disk(
        tmp_path / "none"
    )

    for folder, what in (
        ("several", r"holds several datasets \(train\); give the folder of one"),
        ("bare", "lacks embeddings; its columns are title, text"),
        ("none", "holds no passages; give at least one"),
        ("gone", "is no saved dataset; give the folder that `save_to_disk` wrote"),
    ):
        other = KnowledgeSet(tmp_path / folder, knowledge.vectors, made.encoder)
        with pytest.raises(BadInputError, match=what):
            import_index(other, tmp_path / "kb")
    lost = KnowledgeSet(knowledge.passages, tmp_path / "gone.faiss", made.encoder)
    with pytest.raises(BadInputError, match=r"gone\.faiss: no such file; give the FAISS file"):
        import_index(lost, tmp_path / "kb")
