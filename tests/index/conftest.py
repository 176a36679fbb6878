"""An index built once for every test that only reads it."""

from pathlib import Path

import pytest

from ragsearch.index.build import build_index
from ragsearch.index.open import PassageIndex
from ragsearch.spec.index_section import IndexSection
from tests.tiny import Tiny


@pytest.fixture(scope="session")
def settings(tiny: Tiny) -> IndexSection:
    """Return settings of a small exact index."""
    return IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))


@pytest.fixture(scope="session")
def index(settings: IndexSection, tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    """Return that index, to be read only."""
    folder: Path = tmp_path_factory.mktemp("index") / "flat"
    return build_index(settings, folder)
