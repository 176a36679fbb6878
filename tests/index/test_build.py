"""An index appears whole or not at all, once, and holds what the corpus says."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ragsearch.data.passages import CorpusRow
from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index, cut, index_fingerprint
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.manifest import FAISS_FILE, MANIFEST_FILE, PASSAGES_FILE
from ragsearch.index.open import PassageIndex
from ragsearch.spec.index_section import ChunkSection, IndexSection
from tests.tiny import Tiny, tiny_corpus

BUILD = """
import sys, time
from pathlib import Path
from ragsearch.index.build import build_index
from ragsearch.spec.index_section import IndexSection

def report(done, total):
    print("embedding", flush=True)
    time.sleep(float(sys.argv[3]))

settings = IndexSection.model_validate_json(sys.argv[1])
print(build_index(settings, Path(sys.argv[2]), report=report).manifest.created, flush=True)
"""


def test_a_built_index_holds_the_vectors_of_its_encoder(
    index: PassageIndex, settings: IndexSection
) -> None:
    passages = list(index.store)
    encoder = TextEncoder.load(settings.encoder)
    vectors = encoder.encode_passages([p.title for p in passages], [p.text for p in passages])

    hits = index.search(vectors, 1)

    np.testing.assert_allclose(hits.vectors[:, 0], vectors, atol=1e-5)
    assert (hits.ids[:, 0] == np.arange(40)).all()


def test_the_manifest_tells_how_it_was_built(
    index: PassageIndex, settings: IndexSection
) -> None:
    manifest = index.manifest

    assert manifest.fingerprint == index_fingerprint(settings)
    assert (manifest.n_passages, manifest.n_texts, manifest.dimension) == (40, 40, 32)
    assert (manifest.pooling, manifest.faiss, manifest.chunk_words) == ("pooler", "Flat", None)
    assert sorted(manifest.files) == sorted([FAISS_FILE, PASSAGES_FILE])
    assert manifest.versions["faiss-cpu"]


def test_a_finished_folder_holds_three_files_and_no_leftovers(index: PassageIndex) -> None:
    names = sorted(path.name for path in index.folder.iterdir())

    assert names == [FAISS_FILE, MANIFEST_FILE, PASSAGES_FILE]
    assert [path.name for path in index.folder.parent.iterdir()] == ["flat"]


def test_long_texts_become_several_passages(settings: IndexSection, tmp_path: Path) -> None:
    chunked = settings.model_copy(update={"chunk": ChunkSection(words=3, overlap=1)})

    index = build_index(chunked, tmp_path / "index")

    store = index.store
    manifest = index.manifest
    assert manifest.n_passages == len(store) > manifest.n_texts == 40
    assert (manifest.chunk_words, manifest.chunk_overlap) == (3, 1)
    first = store.take([0, 1])
    assert first[0].id == "c0-geography#0"
    assert first[0].source_id == first[1].source_id == "c0-geography"
    assert first[0].title == first[1].title
    assert first[0].text.split()[-1] == first[1].text.split()[0]


def test_a_text_of_one_piece_keeps_its_id() -> None:
    row = CorpusRow("a", "Title", "two  words")

    assert [p.id for p in cut(row, None)] == ["a"]
    assert [p.text for p in cut(row, None)] == ["two  words"]
    assert [p.id for p in cut(row, ChunkSection(words=2))] == ["a"]
    assert [p.id for p in cut(row, ChunkSection(words=1))] == ["a#0", "a#1"]


def test_unchanged_inputs_are_not_built_again(settings: IndexSection, tmp_path: Path) -> None:
    first = build_index(settings, tmp_path / "index")
    seen: list[int] = []

    again = build_index(settings, tmp_path / "index", report=lambda done, _: seen.append(done))

    assert not seen
    assert again.manifest == first.manifest


def test_progress_is_reported_up_to_the_end(settings: IndexSection, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    small = settings.model_copy(update={"batch_size": 1})

    build_index(small, tmp_path / "i", report=lambda done, total: seen.append((done, total)))

    assert seen == [(16, 40), (32, 40), (40, 40)]


def test_an_empty_folder_is_a_free_place(settings: IndexSection, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()

    assert build_index(settings, tmp_path / "index").manifest.n_passages == 40


@pytest.mark.parametrize("factory", ["HNSW32", "IVF8,Flat", "SQfp16", "IVF4,PQ4x4"])
def test_any_factory_builds_a_whole_index(tiny: Tiny, tmp_path: Path, factory: str) -> None:
    corpus = tiny_corpus(tmp_path, n=700)  # FAISS is silent about 16 centroids
    settings = IndexSection(
        corpus=str(corpus), encoder=str(tiny.bert), faiss=factory, normalise=True
    )

    index = build_index(settings, tmp_path / "index", threads=1)

    query = np.array([index.manifest.canary.query], dtype=np.float32)
    hits = index.search(query, 3)
    assert index.manifest.pooling == "mean"
    assert hits.scores[0, 0] == pytest.approx(index.manifest.canary.score, abs=1e-4)
    assert (hits.ids >= 0).all()


def test_another_index_in_the_place_is_refused(
    index: PassageIndex, settings: IndexSection
) -> None:
    other = settings.model_copy(update={"faiss": "HNSW32"})

    with pytest.raises(
        BadInputError, match=f"holds another index, {index.manifest.fingerprint[:16]}"
    ):
        build_index(other, index.folder)


def test_a_place_with_other_files_is_refused(settings: IndexSection, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(BadInputError, match="is occupied by other files"):
        build_index(settings, tmp_path)
    with pytest.raises(BadInputError, match=r"thesis\.tex: is a file; choose a folder"):
        build_index(settings, tmp_path / "thesis.tex")

    assert (tmp_path / "thesis.tex").exists()


def test_a_damaged_index_is_mended_by_building(settings: IndexSection, tmp_path: Path) -> None:
    index = build_index(settings, tmp_path / "index")
    content = (index.folder / FAISS_FILE).read_bytes()
    (index.folder / FAISS_FILE).write_bytes(content[:-1])

    build_index(settings, tmp_path / "index")

    assert (index.folder / FAISS_FILE).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"faiss": "bogus"}, "'bogus': faiss: FAISS cannot make such an index"),
        ({"faiss": "IVF64,Flat"}, "asks for 64 cells but there are only 40 passages"),
        ({"max_length": 300}, "reads 256 tokens at most, not 300"),
        ({"max_length": 8}, r"corpus.jsonl:1: text: passage 'c0-geography' has \d+ tokens"),
        ({"encoder": "/no/model"}, "no such model folder"),
        ({"corpus": "/no/corpus.jsonl"}, "no such file"),
    ],
)
def test_what_cannot_be_built_leaves_nothing(
    settings: IndexSection, tmp_path: Path, change: dict[str, object], what: str
) -> None:
    with pytest.raises(BadInputError, match=what):
        build_index(settings.model_copy(update=change), tmp_path / "index")

    assert list(tmp_path.iterdir()) == []


def test_every_long_passage_is_named(settings: IndexSection, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="and 20 more mistakes") as caught:
        build_index(settings.model_copy(update={"max_length": 8}), tmp_path / "index")

    assert len(caught.value.mistakes) == 21


def test_a_corpus_that_changes_meanwhile_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    note = tmp_path / "corpus" / "note.txt"
    note.parent.mkdir()
    note.write_text("first")
    settings = IndexSection(corpus=str(note.parent), encoder=str(tiny.context_encoder))
    place = tmp_path / "place"
    place.mkdir()

    def rewrite_once_building() -> None:
        while not list(place.glob(".index.building-*")):
            time.sleep(0.001)
        note.write_text("second")

    thread = threading.Thread(target=rewrite_once_building)
    thread.start()
    with pytest.raises(BadInputError, match="changed while the index was built from it"):
        build_index(settings, place / "index")
    thread.join()


def test_weights_that_give_nan_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny.bert)
    model.embeddings.word_embeddings.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((tiny.bert / name).read_bytes())
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tmp_path / "model"))

    with pytest.raises(BadInputError, match="gives NaN or infinite vectors"):
        build_index(settings, tmp_path / "index")


def test_a_place_that_cannot_be_written_is_told(settings: IndexSection) -> None:
    with pytest.raises(BadInputError, match=r"/proc/ragsearch/index: cannot be written \("):
        build_index(settings, Path("/proc/ragsearch/index"))


def test_an_interrupted_build_leaves_nothing(settings: IndexSection, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(settings, tmp_path / "index", report=interrupt)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_build_is_never_taken_for_finished(
    settings: IndexSection, tmp_path: Path
) -> None:
    builder = _start(settings, tmp_path / "index", pause_s=60)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "embedding\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert not (tmp_path / "index").exists()
    assert list(tmp_path.iterdir())  # it died in the middle

    index = build_index(settings, tmp_path / "index")

    assert index.manifest.n_passages == 40
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.slow
def test_of_two_builders_one_waits_for_the_other(
    settings: IndexSection, tmp_path: Path
) -> None:
    first = _start(settings, tmp_path / "index", pause_s=2)
    second = _start(settings, tmp_path / "index", pause_s=2)

    said = [builder.communicate(timeout=120)[0].split() for builder in (first, second)]

    assert first.returncode == second.returncode == 0
    assert sorted(map(len, said)) == [1, 2]  # one of them embedded
    assert said[0][-1] == said[1][-1]  # and both opened the same index
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def _start(settings: IndexSection, to: Path, *, pause_s: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", BUILD, settings.model_dump_json(), str(to), str(pause_s)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
