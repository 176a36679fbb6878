"""A space file that names an index by its folder knows what the folder says of itself."""

import json
from pathlib import Path

import pytest

from ragsearch.data import check_inputs
from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec
from tests.spec.spaces import VALID, write_space

MANIFEST = {
    "format": 1,
    "n_passages": 7,
    "encoder": "facebook/dpr-ctx_encoder-multiset-base",
    "pooling": "pooler",
    "normalise": False,
    "faiss": "IVF9,Flat",
    "max_length": 256,
    "shards": [{}, {}],
}
ONE = """\
  one:
    corpus: kb.jsonl
    encoder: models/encoder
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = write_space(tmp_path, VALID.replace(ONE, "  one: {folder: kb-index}\n"))
    (tmp_path / "kb-index").mkdir()
    (tmp_path / "kb-index/manifest.json").write_text(json.dumps(MANIFEST))
    return path


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load_spec(path, overrides)
    return [str(each).replace(f"{path.parent}/", "") for each in caught.value.mistakes]


def test_the_settings_of_an_index_are_read_from_its_folder(path: Path):
    index = load_spec(path).file.indexes["one"]

    assert index.folder == str(path.parent / "kb-index")
    assert (index.corpus, index.encoder) == (None, MANIFEST["encoder"])
    assert (index.faiss, index.shards, index.pooling) == ("IVF9,Flat", 2, "pooler")


def test_a_resolved_file_with_a_folder_is_read_back_as_the_same(path: Path, tmp_path: Path):
    spec = load_spec(path)
    (tmp_path / "resolved.yaml").write_text(spec.to_yaml())

    assert load_spec(tmp_path / "resolved.yaml").resolved() == spec.resolved()


def test_the_passages_of_a_folder_are_counted_and_its_ids_believed(path: Path):
    inputs = check_inputs(load_spec(path))

    assert inputs.n_passages == {"one": 7, "two": 8}
    assert inputs.warnings == (
        "whether index one has the passage_ids of the questions is not checked",
    )


def test_a_folder_that_is_no_index_is_one_mistake(path: Path):
    (path.parent / "kb-index/manifest.json").write_text("{")

    (mistake,) = mistakes_of(path)

    what = "no index here (manifest.json is missing or damaged): kb-index; make one with"
    assert mistake.startswith(f"space.yaml:8: indexes.one.folder: {what}")
    assert "no index here" in mistakes_of(path, "indexes.one.folder=gone")[0]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (
            "faiss=Flat",
            "faiss: is 'Flat', but the index in kb-index has 'IVF9,Flat'; leave it out",
        ),
        (
            "encoder=models/encoder",
            "but the index in kb-index has 'facebook/dpr-ctx_encoder-mul",
        ),
        ("shards=3", "shards: is 3, but the index in kb-index has 2; leave it out"),
        (
            "chunk={words: 9}",
            "chunk: is of no use, for the index in folder is not built; leave it out",
        ),
    ],
)
def test_settings_other_than_the_folders_are_refused(override: str, what: str, path: Path):
    (mistake,) = mistakes_of(path, f"indexes.one.{override}")

    assert what in mistake


def test_a_knob_the_index_in_the_folder_has_no_use_for_is_refused(path: Path):
    path.write_text(path.read_text().replace("  retrieval.index: {choice: [one, two]}\n", ""))

    (mistake,) = mistakes_of(path, "trial.retrieval.nprobe=10")

    assert "index 'one' is IVF9,Flat, which has no 10 cells; lower it" in mistake


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{folder: kb-index, corpus: kb.jsonl}", "has corpus and folder; give the one or the"),
        (
            "{encoder: models/encoder}",
            "has neither corpus nor folder; give the one or the other",
        ),
    ],
)
def test_an_index_comes_from_a_corpus_or_a_folder(line: str, what: str, path: Path):
    path.write_text(path.read_text().replace("{folder: kb-index}", line))

    (mistake,) = mistakes_of(path)

    assert mistake.startswith(f"space.yaml:8: indexes.one: {what}")
