"""The torch.distributed baseline, with two real gloo processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from ragsearch.index.open import open_index
from ragsearch.retrieval.distributed import (
    DistributedRetriever,
    GroupUnavailableError,
    gloo_group,
)
from ragsearch.retrieval.retriever import InProcessRetriever, Retriever
from tests.command import CHECKOUT, environment
from tests.retrieval.ranks import LATE_S, queries


def ranks(scenario: str, folder: Path, place: Path) -> list[list[dict]]:
    """Run both ranks to their end and return what each tells."""
    words = (sys.executable, "-m", "tests.retrieval.ranks", scenario, f"file://{place}", folder)
    started = [
        subprocess.Popen(
            [*words, str(rank)], cwd=CHECKOUT, stdout=subprocess.PIPE,
            env=environment() | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        told = [one.communicate(timeout=60)[0].decode() for one in started]
    finally:
        for one in started:
            one.kill()
    return [[json.loads(line) for line in text.splitlines()] for text in told]


@pytest.fixture(scope="module")
def told(exact, tmp_path_factory):
    return ranks("talk", exact.folder, tmp_path_factory.mktemp("group") / "place")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("turn", "n_queries", "n_docs"),
    [(0, (8, 3), (5, 5)), (1, (0, 4), (2, 50)), (4, (9, 9), (3, 3))],
)
def test_each_rank_gets_its_own_hits(told, exact, rank, turn, n_queries, n_docs):
    index = open_index(exact.folder)

    found = told[rank][turn]

    hits = index.search(queries(rank, n_queries[rank]), n_docs[rank])
    assert found["ids"] == hits.ids.tolist()
    np.testing.assert_allclose(found["scores"], hits.scores.tolist(), rtol=1e-5)
    same = index.store.take(hits.ids[hits.ids >= 0].tolist())
    assert found["found"] == [passage.text for passage in same]


def test_bad_queries_are_refused_on_every_rank_and_the_group_goes_on(told):
    theirs, own = told[0][2], told[1][2]

    assert (theirs["kind"], theirs["code"]) == ("BadQueriesError", 2)
    assert theirs["error"].startswith("rank 1 of the retrieval group asked what no index can")
    assert own["kind"] == "BadQueriesError"
    assert own["error"].startswith("rank 1: 2 of 2 query vectors are NaN")
    assert "ids" in told[0][4]


def test_a_knob_without_use_is_refused_on_every_rank(told):
    for rank in (0, 1):
        assert told[rank][3]["kind"] == "BadQueriesError"
        assert told[rank][3]["error"].startswith("nprobe is 4 but the index ")


def test_a_search_that_fails_on_rank_0_is_told_to_the_others(exact, tmp_path):
    words = (
        sys.executable,
        "-m",
        "tests.retrieval.ranks",
        "broken",
        f"file://{tmp_path}/place",
    )
    first, second = (
        subprocess.Popen(
            [*words, str(exact.folder), rank], cwd=CHECKOUT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment() | {"GLOO_SOCKET_IFNAME": "lo"}, text=True,
        )
        for rank in ("0", "1")
    )  # fmt: skip

    _, trace = first.communicate(timeout=60)
    said, _ = second.communicate(timeout=60)

    assert "OSError: the disk is gone" in trace
    told = json.loads(said)
    assert told["kind"] == "GroupUnavailableError"
    assert "rank 0 of the retrieval group could not search (the disk is gone)" in told["error"]


@pytest.mark.parametrize("scenario", ["dies", "late"])
def test_a_rank_that_dies_or_does_not_come_is_an_error_in_time(exact, tmp_path, scenario):
    (told,), _ = ranks(scenario, exact.folder, tmp_path / "place")

    assert (told["kind"], told["code"]) == ("GroupUnavailableError", 3)
    assert told["error"].startswith("the retrieval group does not answer (")
    assert told["error"].endswith("see the logs of its processes, then start them all again")
    assert told["seconds"] < 3 * LATE_S  # not the minute that ranks may be late otherwise


def test_a_group_of_one_is_its_own_retriever(exact, tmp_path, queries):
    index = open_index(exact.folder)
    with gloo_group(f"file://{tmp_path}/place", 0, 1) as group:
        retriever = DistributedRetriever(InProcessRetriever(index), group)

        hits = retriever.retrieve(queries, 5)

    np.testing.assert_array_equal(hits.ids, index.search(queries, 5).ids)
    assert isinstance(retriever, Retriever)
    assert (retriever.fingerprint, retriever.n_passages, retriever.dimension) == (
        exact.fingerprint,
        40,
        32,
    )
    assert not dist.is_initialized()


def test_a_group_that_does_not_come_together_is_an_error(tmp_path):
    with (
        pytest.raises(GroupUnavailableError, match="the retrieval group cannot be joined"),
        gloo_group(f"file://{tmp_path}/place", 0, 2, timeout_s=1.0),
    ):
        pass
