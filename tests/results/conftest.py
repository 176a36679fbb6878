"""Searches and bundles that the tests of this floor read, made once."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from ragsearch.results.bundle import Bundle
from ragsearch.results.export import export_best
from ragsearch.search.record import SearchRecord
from tests.results.searches import Settings, fitted_search, made_search
from tests.tiny import Tiny

SearchOf = Callable[[Settings], SearchRecord]
BundleOf = Callable[[Settings], Bundle]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as a trial in a Ray worker does, by `resources.per_trial.cpu`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> SearchOf:
    """Return a maker of untrained searches; read them, never write to them."""
    return cache(lambda settings: made_search(tiny, tmp_path_factory.mktemp("made"), settings))


@pytest.fixture(scope="session")
def fitted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> SearchOf:
    """Return a maker of searches of one trained trial; read them, never write to them."""
    return cache(lambda settings: fitted_search(tiny, tmp_path_factory.mktemp("fit"), settings))


@pytest.fixture(scope="session")
def exported(made: SearchOf, tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """Return a maker of bundles of untrained models; read them, never write to them."""

    def export(settings: Settings) -> Bundle:
        to: Path = tmp_path_factory.mktemp("bundle") / "best"
        return export_best(made(settings).folder, to, hf_retriever=settings.encoder == "dpr")

    return cache(export)
