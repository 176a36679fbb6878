from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray import tune

from ragsearch.errors import BadInputError
from ragsearch.index.build import build_index
from ragsearch.search.trainable import (
    IndexAddress,
    TrialJob,
    _state_before,
    retriever_of,
    run_trial,
)
from ragsearch.spec import IndexSection, TrialSection


@pytest.fixture(scope="module")
def address(tiny, tmp_path_factory):
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    index = build_index(settings, tmp_path_factory.mktemp("indexes") / "tiny")
    return IndexAddress(str(index.folder), index.manifest.fingerprint)


def trial(backend):
    models = {"question_encoder": "-", "generator": "-"}
    return TrialSection.model_validate({"model": models, "retrieval": {"backend": backend}})


def test_a_trial_without_a_pool_opens_the_index_once(address):
    with retriever_of(address, trial("in_process"), "trial 0") as one:
        hits = one.retrieve(np.ones((1, 32), np.float32), 3)
    with retriever_of(address, trial("in_process"), "trial 1") as same:
        pass

    assert one.fingerprint == address.fingerprint
    assert hits.ids.shape == (1, 3)
    assert one._index is same._index


def test_the_group_of_a_trial_ends_with_it(address):
    for _ in range(2):
        with retriever_of(address, trial("torch_distributed"), "trial 0") as grouped:
            hits = grouped.retrieve(np.ones((1, 32), np.float32), 3)
        assert not torch.distributed.is_initialized()

    with retriever_of(address, trial("in_process"), "trial 0") as alone:
        same = alone.retrieve(np.ones((1, 32), np.float32), 3)
    for one, other in zip(hits, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_index_on_the_trials_machine_is_refused(address):
    other = replace(address, fingerprint="f" * 64)

    with (
        pytest.raises(BadInputError, match=r"holds index \w{16} on this machine, but the sear"),
        retriever_of(other, trial("in_process"), "trial 0"),
    ):
        pass


def test_an_index_that_is_not_on_the_trials_machine_is_refused(address, tmp_path):
    elsewhere = replace(address, folder=str(tmp_path))

    with (
        pytest.raises(BadInputError, match="is no index"),
        retriever_of(elsewhere, trial("in_process"), "trial 0"),
    ):
        pass


def test_a_bug_ends_a_trial_with_a_report_and_is_not_raised_to_be_tried_again(
    space_of, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(tune, "report", told.append)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: None)
    job = TrialJob(space_of(), {}, tmp_path)  # it knows no index, by whoever's mistake

    run_trial({"trial": 0}, job)

    (result,) = told
    assert (result["verdict"], result["reason"]) == ("failed", "KeyError: 'tiny'")
    assert result["log"].endswith("KeyError: 'tiny'")


def test_a_trial_goes_on_from_this_run_before_it_does_from_an_earlier_one(
    space_of, tmp_path, monkeypatch
):
    job = TrialJob(space_of(), {}, tmp_path, resumable={1: tmp_path / "earlier"})
    here = SimpleNamespace(path=str(tmp_path / "here"))

    for checkpoint, number, state in (
        (None, 0, None),
        (None, 1, tmp_path / "earlier" / "state"),
        (here, 1, tmp_path / "here" / "state"),
    ):
        monkeypatch.setattr(tune, "get_checkpoint", lambda found=checkpoint: found)
        assert _state_before({"trial": number}, job) == state
