"""Passages come back by number from a mapped file, and damage is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.index.store import Passage, PassageStore, windows, write_passages

PASSAGES = [Passage(f"{n}#0", str(n), f"Title {n}", f"text {n} é ☃") for n in range(9000)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PassageStore:
    path = tmp_path_factory.mktemp("store") / "passages.arrow"
    assert write_passages(path, iter(PASSAGES)) == 9000
    return PassageStore.open(path)


@given(st.lists(st.integers(0, 8999), max_size=20))
def test_any_passages_come_back_in_the_order_asked(store: PassageStore, ids: list[int]) -> None:
    assert store.take(ids) == [PASSAGES[number] for number in ids]


def test_a_store_iterates_over_everything_in_order(store: PassageStore) -> None:
    assert len(store) == 9000
    assert list(store) == PASSAGES


@pytest.mark.parametrize("number", [-1, 9000])
def test_the_number_of_a_missing_hit_is_no_passage(store: PassageStore, number: int) -> None:
    with pytest.raises(AssertionError, match=f"no passage {number}"):
        store.take([number])


def test_an_empty_store_opens(tmp_path: Path) -> None:
    assert write_passages(tmp_path / "p.arrow", []) == 0

    assert len(PassageStore.open(tmp_path / "p.arrow")) == 0


@pytest.mark.parametrize("content", [None, b"", b"no arrow at all", b"ARROW1\0\0 cut"])
def test_what_is_no_passage_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "passages.arrow"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(BadInputError, match=r"passages.arrow: is no passage file .* build"):
        PassageStore.open(path)


@given(st.lists(st.integers(), max_size=30), st.integers(1, 10))
def test_windows_lose_nothing(items: list[int], size: int) -> None:
    found = list(windows(items, size))

    assert [item for window in found for item in window] == items
    assert all(1 <= len(window) <= size for window in found)
