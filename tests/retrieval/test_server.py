"""The short way: what comes by a socket is answered as the index would, whatever else comes."""

import os
import socket
from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest

from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.retrieval import server as module
from ragsearch.retrieval.batcher import BusyError, Request
from ragsearch.retrieval.local import LocalConnection, SearchFailedError
from ragsearch.retrieval.meter import Meter
from ragsearch.retrieval.server import Server
from ragsearch.retrieval.wire import (
    REQUEST,
    RequestHead,
    Status,
    pack_hello,
    split_reply,
    unpack_hits,
)
from tests.retrieval.waiting import wait

WIDTH = 32


class Gate:
    """An index whose searches last until they are let through; a knob of 13 fails."""

    def __init__(self, index: PassageIndex) -> None:
        self.index = index
        self.open = Event()
        self.open.set()
        self.sizes: list[int] = []

    def search(self, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
        """Search when it may."""
        self.sizes.append(len(queries))
        assert self.open.wait(10)
        if knobs.ef_search == 13:
            message = "no luck"
            raise ValueError(message)
        return self.index.search(queries, n_docs, knobs)


@pytest.fixture(scope="module")
def index(other) -> PassageIndex:
    return open_index(other.folder)


@pytest.fixture
def gate(index: PassageIndex) -> Gate:
    return Gate(index)


@pytest.fixture
def server(gate: Gate) -> Iterator[Server]:
    server = Server(gate, WIDTH, Meter(), cache_bytes=2**20, max_waiting=10)
    yield server
    gate.open.set()
    server.close()


@pytest.fixture
def connection(server: Server) -> Iterator[LocalConnection]:
    connection = LocalConnection(server.address, "one")
    yield connection
    connection.close()


def ask(
    connection: LocalConnection,
    queries: np.ndarray,
    n_docs: int = 3,
    knobs: Knobs = Knobs(),
    *,
    is_fixed: bool = False,
) -> Hits | None:
    reply = connection.retrieve(queries, n_docs, knobs, is_fixed=is_fixed, timeout_s=10)
    return None if reply.hits is None else unpack_hits(reply.hits)


def assert_found(hits: Hits | None, expected: Hits) -> None:
    assert hits is not None
    np.testing.assert_array_equal(hits.ids, expected.ids)
    np.testing.assert_array_equal(hits.scores, expected.scores)
    halves = expected.vectors.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(hits.vectors, halves)


@pytest.mark.parametrize(("n_queries", "n_docs"), [(8, 3), (1, 40), (0, 2), (600, 40)])
def test_a_socket_brings_what_the_index_finds(connection, index, n_queries, n_docs):
    queries = np.random.default_rng(1).standard_normal((n_queries, WIDTH), dtype=np.float32)

    assert_found(ask(connection, queries, n_docs), index.search(queries, n_docs))
    assert_found(ask(connection, queries[:5], 2), index.search(queries[:5], 2))


def test_knobs_go_along(connection, index, queries):
    knobs = Knobs(ef_search=1)

    assert_found(ask(connection, queries, 3, knobs), index.search(queries, 3, knobs))
    head = RequestHead(8, WIDTH, 3, Knobs(nprobe=7), is_fixed=True)
    assert RequestHead.read(head.pack()) == head


def begin(connection: LocalConnection, queries: np.ndarray, n_docs: int = 3) -> None:
    """Have a request in the kernel's hands."""
    head = RequestHead(*queries.shape, n_docs, Knobs(), is_fixed=False)
    connection._socket.settimeout(10)
    connection._socket.sendall(head.pack() + queries.tobytes())


def end(connection: LocalConnection) -> Hits | None:
    """Return what came of it."""
    head, body = connection._receive()
    return unpack_hits(split_reply(head, body)) if head.status is Status.FOUND else None


def test_what_comes_during_a_search_is_searched_together(server, gate, index, queries):
    gate.open.clear()
    connections = [LocalConnection(server.address, f"client {n}") for n in range(4)]
    rows = [slice(2), slice(2, 4), slice(2, 4), slice(4, 6)]
    begin(connections[0], queries[rows[0]])
    assert wait(lambda: gate.sizes == [2], 10)
    for connection, some in zip(connections[1:], rows[1:], strict=True):
        begin(connection, queries[some])
    gate.open.set()

    for connection, some in zip(connections, rows, strict=True):
        assert_found(end(connection), index.search(queries[some], 3))
        connection.close()
    assert gate.sizes == [2, 6]


def test_what_comes_through_ray_is_searched_beside(server, gate, index, connection, queries):
    gate.open.clear()
    told = Told()
    begin(connection, queries)
    assert wait(lambda: gate.sizes == [8], 10)
    server.submit(Request("far", queries[:2], 5, Knobs(), told))
    gate.open.set()

    assert_found(end(connection), index.search(queries, 3))
    assert told.done.wait(10)
    np.testing.assert_array_equal(told.hits.ids, index.search(queries[:2], 5).ids)


def test_a_server_with_too_much_to_do_says_so_instead_of_queueing(
    server, gate, connection, queries
):
    gate.open.clear()
    first, second, third = Told(), Told(), Told()
    server.submit(Request("one", queries[:1], 3, Knobs(), first))
    assert wait(lambda: gate.sizes == [1], 10)
    server.submit(Request("two", queries, 3, Knobs(), second))
    server.submit(Request("three", queries, 3, Knobs(), third))
    begin(connection, queries)
    gate.open.set()

    assert third.done.wait(10)
    assert isinstance(third.error, BusyError)
    assert end(connection) is None
    assert second.done.wait(10)
    assert second.error is None


def test_fixed_queries_are_searched_once(gate, connection, index, queries):
    for rows, n_docs in ((slice(3), 5), (slice(8), 5), (slice(8), 3), (slice(2, 4), 5)):
        hits = ask(connection, queries[rows], n_docs, is_fixed=True)
        assert_found(hits, index.search(queries[rows], n_docs))

    assert gate.sizes == [3, 5]


def test_a_search_that_fails_is_told_and_the_next_one_answered(connection, index, queries):
    for is_fixed in (False, True):
        with pytest.raises(SearchFailedError, match="ValueError: no luck"):
            ask(connection, queries, 3, Knobs(ef_search=13), is_fixed=is_fixed)

    assert_found(ask(connection, queries), index.search(queries, 3))


@pytest.mark.parametrize(
    "strange",
    [
        b"\xff" * 64,
        pack_hello("one") + REQUEST.pack(8, WIDTH + 1, 3, 0, 0, 0),
        pack_hello("one") + REQUEST.pack(2**31, WIDTH, 3, 0, 0, 0),
    ],
)
def test_who_sends_what_no_client_sends_is_hung_up_on(server, connection, queries, strange):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(f"\0{server.address}")
        stranger.settimeout(10)
        stranger.sendall(strange)

        assert stranger.recv(1) == b""
    assert ask(connection, queries) is not None


def test_only_processes_of_the_same_user_are_let_in(server, monkeypatch):
    ours, theirs = socket.socketpair()
    assert module._user_of(ours) == os.getuid()
    ours.close()
    theirs.close()
    monkeypatch.setattr(module.os, "getuid", lambda: 4711)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(f"\0{server.address}")
        stranger.settimeout(10)

        assert stranger.recv(1) == b""


def test_a_client_that_hung_up_no_longer_counts(server, gate, queries):
    gate.open.clear()
    there, gone = (LocalConnection(server.address, name) for name in ("there", "gone"))
    begin(there, queries[:1])
    assert wait(lambda: gate.sizes == [1], 10)
    begin(gone, queries)
    gone.close()
    gate.open.set()

    assert end(there) is not None
    assert wait(lambda: server.load() == (1, 0), 10)
    there.close()
    assert wait(lambda: server.load() == (0, 0), 10)


def test_a_connection_that_was_broken_off_cannot_be_used_again(server, gate, queries):
    gate.open.clear()
    connection = LocalConnection(server.address, "hasty")
    with pytest.raises(TimeoutError):
        connection.retrieve(queries, 3, Knobs(), is_fixed=False, timeout_s=0.05)

    with pytest.raises(OSError, match="Bad file descriptor"):
        ask(connection, queries)


def test_nobody_is_answered_after_the_end(gate, queries):
    server = Server(gate, WIDTH, Meter())
    connection = LocalConnection(server.address, "late")
    assert ask(connection, queries) is not None
    address = server.address
    server.close()

    with pytest.raises(OSError, match=r"gone|reset|Broken pipe"):
        ask(connection, queries)
    with pytest.raises(ConnectionRefusedError):
        LocalConnection(address, "later")


class Told:
    """What one who asked through Ray was told."""

    def __init__(self) -> None:
        self.done = Event()
        self.hits: Hits | None = None
        self.error: Exception | None = None

    def is_waiting(self) -> bool:
        """Return whether nothing was told yet."""
        return not self.done.is_set()

    def answer(self, hits: Hits) -> None:
        """Note it."""
        self.hits = hits
        self.done.set()

    def fail(self, error: Exception) -> None:
        """Note it."""
        self.error = error
        self.done.set()
