"""Two tiny indexes over one corpus, and queries for them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ragsearch.index.build import build_index
from ragsearch.spec.index_section import IndexSection
from tests.tiny import Tiny


class TinyIndex(NamedTuple):
    """An index on disk."""

    folder: Path
    fingerprint: str


@pytest.fixture(scope="session")
def exact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TinyIndex:
    """Return an exact index of 40 passages, 32 wide."""
    return _index(tiny, "Flat", tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="session")
def other(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TinyIndex:
    """Return another index of the same corpus."""
    return _index(tiny, "HNSW8,Flat", tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="session")
def sharded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TinyIndex:
    """Return the exact index in two shards."""
    return _index(tiny, "Flat", tmp_path_factory.mktemp("indexes"), shards=2)


@pytest.fixture(scope="session")
def queries() -> np.ndarray:
    """Return 8 query vectors, 32 wide."""
    return np.random.default_rng(5).normal(size=(8, 32)).astype(np.float32)


def _index(tiny: Tiny, faiss: str, root: Path, shards: int = 1) -> TinyIndex:
    settings = IndexSection(
        corpus=str(tiny.corpus), encoder=str(tiny.context_encoder), faiss=faiss, shards=shards
    )
    index = build_index(settings, root / "index")
    return TinyIndex(index.folder, index.manifest.fingerprint)
