"""An index in shards is the same index in several files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index, index_fingerprint
from ragsearch.index.manifest import FAISS_FILE, MANIFEST_FILE, PASSAGES_FILE
from ragsearch.index.merge import merge_hits
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.spec.index_section import IndexSection

FILES = [f"index-{number}-of-3.faiss" for number in range(3)]


@pytest.fixture(scope="session")
def sharded(settings: IndexSection, tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    """Return the index of `index` in three shards, to be read only."""
    folder: Path = tmp_path_factory.mktemp("index") / "sharded"
    return build_index(settings.model_copy(update={"shards": 3}), folder)


def test_each_shard_is_a_file_over_a_run_of_passages(sharded: PassageIndex) -> None:
    shards = sharded.manifest.shards

    assert [(s.file, s.start, s.stop) for s in shards] == [
        (FILES[0], 0, 13),
        (FILES[1], 13, 26),
        (FILES[2], 26, 40),
    ]
    assert sorted(path.name for path in sharded.folder.iterdir()) == sorted([
        *FILES,
        MANIFEST_FILE,
        PASSAGES_FILE,
    ])


def test_one_shard_is_the_index_as_it_always_was(
    index: PassageIndex, settings: IndexSection
) -> None:
    said = json.loads((index.folder / MANIFEST_FILE).read_text())

    assert "shards" not in said
    assert [(s.file, s.start, s.stop) for s in index.manifest.shards] == [(FAISS_FILE, 0, 40)]
    assert open_index(index.folder).manifest == index.manifest
    one = settings.model_copy(update={"shards": 1})
    assert index_fingerprint(one) == index.manifest.fingerprint


def test_the_number_of_shards_is_part_of_the_fingerprint(
    index: PassageIndex, sharded: PassageIndex
) -> None:
    assert sharded.manifest.fingerprint != index.manifest.fingerprint


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    seed=st.integers(0, 2**32),  # of queries without ties, whose order nothing would decide
    n_queries=st.integers(1, 9),
    n_docs=st.integers(1, 45),
)
def test_hits_of_shards_are_those_of_one_index(
    index: PassageIndex, sharded: PassageIndex, seed: int, n_queries: int, n_docs: int
) -> None:
    chance = np.random.default_rng(seed)
    queries = chance.standard_normal((n_queries, 32), dtype=np.float32)

    one, several = index.search(queries, n_docs), sharded.search(queries, n_docs)

    np.testing.assert_array_equal(several.ids, one.ids)
    np.testing.assert_array_equal(several.vectors, one.vectors)
    np.testing.assert_array_equal(several.scores, one.scores)


def test_shards_opened_alone_find_together_what_all_find(
    sharded: PassageIndex, tmp_path: Path
) -> None:
    queries = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    parts = []
    for number, file in enumerate(FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in (file, PASSAGES_FILE, MANIFEST_FILE):
            shutil.copyfile(sharded.folder / name, folder / name)
        alone = open_index(folder, shard=number)
        parts.append(alone.search(queries, 5))

    for array, same in zip(merge_hits(parts, 5), sharded.search(queries, 5), strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_missing_shard_is_named(sharded: PassageIndex, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded.folder, tmp_path / "index"))
    (folder / FILES[1]).unlink()

    with pytest.raises(BadInputError, match=f"{FILES[1]}: is missing; the index is damaged"):
        open_index(folder)


def test_shards_swapped_are_noticed_without_checksums(
    settings: IndexSection, tmp_path: Path
) -> None:
    two = settings.model_copy(update={"shards": 2})
    folder = build_index(two, tmp_path / "index").folder
    one, other = folder / "index-0-of-2.faiss", folder / "index-1-of-2.faiss"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)

    with pytest.raises(BadInputError, match="answers a known query with"):
        open_index(folder, verify=False)


def test_more_shards_than_passages_are_refused(settings: IndexSection, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="shards: 41 shards for 40 passages; ask for fewer"):
        build_index(settings.model_copy(update={"shards": 41}), tmp_path / "index")

    assert list(tmp_path.iterdir()) == []
