"""The fingerprint follows contents and settings, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ragsearch.data.passages import CorpusRow
from ragsearch.errors import BadInputError
from ragsearch.index.fingerprint import CorpusDigest, index_fingerprint
from ragsearch.spec.index_section import ChunkSection, IndexSection
from tests.tiny import Tiny, tiny_dpr

CHANGES = {
    "chunk": st.builds(ChunkSection, words=st.integers(10, 200), overlap=st.integers(0, 9)),
    "normalise": st.just(value=True),
    "faiss": st.sampled_from(["HNSW32", "SQ8", "flat"]),
    "max_length": st.integers(8, 255),
    "shards": st.integers(1, 4),
}
texts = st.text(alphabet="ab \n\"'\\,[]", max_size=4)
rows = st.lists(st.builds(CorpusRow, texts, texts, texts), max_size=3)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.fixed_dictionaries({}, optional=CHANGES))
def test_any_changed_setting_changes_the_fingerprint(
    settings: IndexSection, changes: dict[str, object]
) -> None:
    changed = settings.model_copy(update=changes)

    same = index_fingerprint(changed) == index_fingerprint(settings)

    assert same == (changed == settings)


@given(rows, rows)
def test_corpora_have_one_hash_only_if_they_are_equal(
    one: list[CorpusRow], other: list[CorpusRow]
) -> None:
    assert (_digest(one) == _digest(other)) == (one == other)


def test_moving_touching_and_reformatting_keep_the_fingerprint(
    settings: IndexSection, tiny: Tiny, tmp_path: Path
) -> None:
    encoder = shutil.copytree(tiny.context_encoder, tmp_path / "moved")
    records = [json.loads(line) for line in tiny.corpus.read_text().splitlines()]
    lines = ["\t".join(record.values()) for record in records]
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("\n".join(["id\ttitle\ttext", *lines]))
    os.utime(corpus, (1, 1))
    moved = settings.model_copy(update={"encoder": str(encoder), "corpus": str(corpus)})

    assert index_fingerprint(moved) == index_fingerprint(settings)


def test_batch_size_keeps_the_fingerprint(settings: IndexSection) -> None:
    other = settings.model_copy(update={"batch_size": 1})

    assert index_fingerprint(other) == index_fingerprint(settings)


def test_auto_pooling_is_the_pooling_it_stands_for(settings: IndexSection) -> None:
    explicit = settings.model_copy(update={"pooling": "pooler"})

    assert index_fingerprint(explicit) == index_fingerprint(settings)


def test_another_encoder_of_the_same_shape_changes_it(
    settings: IndexSection, tmp_path: Path
) -> None:
    other = tiny_dpr(tmp_path, "context", seed=1)

    changed = settings.model_copy(update={"encoder": str(other)})

    assert index_fingerprint(changed) != index_fingerprint(settings)


def test_a_bad_corpus_has_no_fingerprint(settings: IndexSection, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")

    with pytest.raises(BadInputError, match=r"bad\.jsonl:1"):
        index_fingerprint(settings.model_copy(update={"corpus": str(tmp_path / "bad.jsonl")}))


def _digest(corpus: list[CorpusRow]) -> str:
    digest = CorpusDigest()
    for row in corpus:
        digest.add(row)
    return digest.value()
