from dataclasses import replace

import numpy as np
import pytest

from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index
from ragsearch.search.trainable import IndexAddress, open_retriever
from ragsearch.spec import IndexSection


@pytest.fixture(scope="module")
def address(tiny, tmp_path_factory):
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    index = build_index(settings, tmp_path_factory.mktemp("indexes") / "tiny")
    return IndexAddress(str(index.folder), index.manifest.fingerprint)


def test_a_trial_without_a_pool_opens_the_index_once(address):
    one, same = (open_retriever(address, f"trial {number}") for number in (0, 1))

    assert one.fingerprint == address.fingerprint
    assert one.retrieve(np.ones((1, 32), np.float32), 3).ids.shape == (1, 3)
    assert one._index is same._index


def test_another_index_on_the_trials_machine_is_refused(address):
    other = replace(address, fingerprint="f" * 64)

    with pytest.raises(
        BadInputError, match=r"holds index \w{16} on this machine, but the sear"
    ):
        open_retriever(other, "trial 0")


def test_an_index_that_is_not_on_the_trials_machine_is_refused(address, tmp_path):
    with pytest.raises(BadInputError, match="is no index"):
        open_retriever(replace(address, folder=str(tmp_path)), "trial 0")
