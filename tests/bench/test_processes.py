"""Clients in child processes: asked, failing, dying, weighed."""

import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ragsearch.bench.client import Client
from ragsearch.bench.connections import ToFaiss, ToIndex
from ragsearch.bench.indexes import made, make_queries
from ragsearch.bench.plan import Kind
from ragsearch.bench.processes import BenchError, PlainProcess, ask
from ragsearch.retrieval.memory import pss_bytes


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return made(Kind.EXACT, 300, 16, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def queries(index, tmp_path_factory):
    file = tmp_path_factory.mktemp("queries") / "queries.npy"
    make_queries(index, file, clients=2, steps=4, batch=8)
    return file


@pytest.fixture
def process(queries) -> Iterator[PlainProcess]:
    process = PlainProcess(Client, queries, threads=2)
    yield process
    process.end()


def test_faiss_searches_for_all_clients_at_once_and_finds_what_the_index_finds(process, index):
    found = []
    for connection in (ToIndex(index.folder), ToFaiss(index.faiss, threads=2)):
        ask([process], "connect", connection, [0, 1])
        found += ask([process], "answer", 3)

    ours, bare = found
    assert ours.ids.shape == (16, 5)
    np.testing.assert_array_equal(ours.ids, bare.ids)


def test_laps_begin_together_and_follow_each_other(process, index):
    ask([process], "connect", ToIndex(index.folder), [1])

    (laps,) = ask([process], "run", range(1, 4), 0.0)

    assert len(laps.starts) == len(laps.ends) == 3
    times = [time for lap in zip(laps.starts, laps.ends, strict=True) for time in lap]
    assert times == sorted(times)


def test_a_client_that_fails_says_why_and_goes_on(process, tmp_path):
    with pytest.raises(
        BenchError, match=r"a process of the bench failed: BadInputError.*no ind"
    ):
        ask([process], "connect", ToIndex(tmp_path), [0])

    assert ask([process], "pid") != [os.getpid()]


def test_a_client_that_is_killed_is_an_error(process):
    (pid,) = ask([process], "pid")
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(BenchError, match="a process of the bench ended with code -9"):
        ask([process], "pid")


def test_a_client_that_cannot_be_made_says_why(tmp_path):
    with pytest.raises(BenchError, match="a process of the bench failed: FileNotFoundError"):
        PlainProcess(Client, tmp_path / "missing.npy", threads=1)


def test_a_client_ends_with_whoever_asked_it_even_while_it_works(process):
    (pid,) = ask([process], "pid")
    process.begin("run", range(1), time.monotonic() + 1e6)

    process.end()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_pages_that_processes_share_are_counted_once(process):
    (child,) = ask([process], "pid")
    assert 10e6 < pss_bytes([child]) < 500e6
    assert pss_bytes([child, os.getpid()]) > pss_bytes([child])
