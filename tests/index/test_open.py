"""An index opens as it was built, or says in one sentence what is wrong with it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ragsearch.index
from ragsearch.errors import BadInputError
from ragsearch.index.manifest import FAISS_FILE, MANIFEST_FILE, PASSAGES_FILE, read_manifest
from ragsearch.index.open import PassageIndex, open_index


@pytest.fixture
def folder(index: PassageIndex, tmp_path: Path) -> Path:
    """Return a copy of the index, to be damaged."""
    return Path(shutil.copytree(index.folder, tmp_path / "index"))


def test_a_moved_index_opens_with_the_same_passages(index: PassageIndex, folder: Path) -> None:
    opened = open_index(folder)

    assert opened.manifest == index.manifest
    assert list(opened.store) == list(index.store)


def test_more_passages_may_be_asked_for_than_there_are(index: PassageIndex) -> None:
    hits = index.search(np.ones((2, 32), dtype=np.float32), 50)

    assert (hits.ids[:, :40] >= 0).all()
    assert (hits.ids[:, 40:] == -1).all()


def test_queries_of_another_width_are_our_fault(index: PassageIndex) -> None:
    with pytest.raises(AssertionError, match="is not 32 wide"):
        index.search(np.ones((2, 31), dtype=np.float32), 5)


@pytest.mark.parametrize("name", [FAISS_FILE, PASSAGES_FILE])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_refused_always(folder: Path, name: str, *, verify: bool) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])

    with pytest.raises(
        BadInputError, match=rf"{name}: has \d+ bytes instead of {len(content)}"
    ):
        open_index(folder, verify=verify)


@pytest.mark.parametrize("name", [FAISS_FILE, PASSAGES_FILE])
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(BadInputError, match=f"{name}: was altered .* index build` again"):
        open_index(folder)


def test_every_missing_file_is_named(folder: Path) -> None:
    (folder / FAISS_FILE).unlink()
    (folder / PASSAGES_FILE).unlink()

    with pytest.raises(BadInputError, match=f"{FAISS_FILE}: is missing") as caught:
        open_index(folder)

    assert len(caught.value.mistakes) == 2


def test_altered_vectors_are_noticed_without_checksums(folder: Path) -> None:
    content = (folder / FAISS_FILE).read_bytes()
    (folder / FAISS_FILE).write_bytes(content[:-4000] + bytes(4000))

    with pytest.raises(BadInputError, match="answers a known query with"):
        open_index(folder, verify=False)


def test_files_of_two_indexes_do_not_mix(folder: Path) -> None:
    _edit(folder, lambda found: found.update(n_passages=41))

    with pytest.raises(BadInputError, match=r"passages\.arrow: holds 40 passages, which is"):
        open_index(folder)


def test_a_file_with_other_vectors_is_refused(folder: Path) -> None:
    _edit(folder, lambda found: found.update(dimension=31))

    with pytest.raises(BadInputError, match="holds 40 vectors of 32 dimensions, which is not"):
        open_index(folder)


def test_a_folder_without_a_manifest_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"is no index \(no manifest.json\); build one"):
        open_index(tmp_path)
    with pytest.raises(BadInputError, match="is no index"):
        open_index(tmp_path / "missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "1"}', "\xff"])
def test_a_damaged_manifest_is_told(folder: Path, text: str) -> None:
    (folder / MANIFEST_FILE).write_bytes(text.encode("latin-1"))

    with pytest.raises(BadInputError, match=r"manifest.json: is damaged \(.*remove .*/index"):
        open_index(folder)


def test_a_manifest_that_lacks_a_key_is_damaged(folder: Path) -> None:
    _edit(folder, lambda found: found.pop("pooling"))

    with pytest.raises(BadInputError, match=r"is damaged \(pooling: "):
        read_manifest(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    _edit(folder, lambda found: found.update(format=2, pooling="by magic"))

    with pytest.raises(BadInputError, match=r"is of format 2, newer than .* \(1\)"):
        open_index(folder)


def test_reading_a_manifest_loads_nothing_heavy(index: PassageIndex) -> None:
    code = (
        "import sys; from pathlib import Path; from ragsearch.index import read_manifest\n"
        f"assert read_manifest(Path({str(index.folder)!r})).n_passages == 40\n"
        "heavy = {'torch', 'faiss', 'transformers', 'pyarrow', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_opening_an_index_loads_no_torch(index: PassageIndex) -> None:
    code = (
        "import sys; from pathlib import Path; from ragsearch.index import open_index\n"
        f"open_index(Path({str(index.folder)!r}))\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_what_it_names() -> None:
    assert all(getattr(ragsearch.index, name) for name in ragsearch.index.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ragsearch.index.nonsense


def test_the_map_names_every_module() -> None:
    modules = {path.stem for path in Path(ragsearch.index.__file__).parent.glob("*.py")}

    assert len(modules) > 5
    for name in modules - {"__init__"}:
        assert f"- `{name}`:" in (ragsearch.index.__doc__ or "")


def _edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    found = json.loads((folder / MANIFEST_FILE).read_text())
    change(found)
    (folder / MANIFEST_FILE).write_text(json.dumps(found))
