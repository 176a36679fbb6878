"""The one thread of a replica that receives, searches and answers.

In: requests by Unix sockets of clients on this node, and by `submit` those that came through
Ray. Out: answers, by the same ways. By a socket nothing changes threads: what arrives
during a search waits in the kernel, is read when it is over, and is searched for together.

A socket has an abstract name (Linux): there is no file that could stay behind or be opened by
others, and only processes of the same user are let in. Knows nothing of Ray.

Axes: Q queries, K passages per query, D embedding size.
"""

import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from threading import Thread
from typing import Any

import numpy as np

from ragsearch.index.hits import Hits
from ragsearch.retrieval.batcher import Batcher, BusyError, Request, Searches
from ragsearch.retrieval.cache import Filled, HitCache
from ragsearch.retrieval.meter import Meter
from ragsearch.retrieval.wire import (
    HELLO,
    REQUEST,
    Buffer,
    Load,
    RequestHead,
    Status,
    pack_failure,
    pack_reply,
    unpack_hello,
)

_MOST_QUERIES = 1 << 20  # a head that says more was not sent by a client of ours
_BACKLOG = 512


class Server:
    """Answers clients until it is closed.

    Args:
        index: What is searched.
        width: Of its vectors.
        meter: Who counts.
        cache_bytes: Memory for hits of queries that come again.
        max_waiting: Queries that may wait before requests are refused.
    """

    def __init__(
        self,
        index: Searches,
        width: int,
        meter: Meter,
        *,
        cache_bytes: int = 0,
        max_waiting: int = 4096,
    ) -> None:
        self.width = width
        self._meter = meter
        self._batcher = Batcher(index, meter, max_waiting=max_waiting)
        self._cache = HitCache(cache_bytes)
        self._selector = DefaultSelector()
        self._told: deque[Callable[[], None]] = deque()
        self._bell, self._bell_rope = socket.socketpair()
        self._bell.settimeout(0)
        self._selector.register(self._bell, EVENT_READ, self._on_bell)
        self._listener = _listen()
        if self._listener is not None:
            self._selector.register(self._listener, EVENT_READ, self._on_client)
        self._is_open = True
        self._thread = Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where clients on this node connect, empty where they cannot."""
        return "" if self._listener is None else self._listener.getsockname()[1:].decode()

    def load(self) -> Load:
        """Return how much there is to do; any thread may ask."""
        return Load(self._meter.n_clients(), self._batcher.n_waiting)

    def submit(self, request: Request, *, is_fixed: bool = False) -> None:
        """Have a request answered; any thread may ask, and the asker is told on the server's.

        Args:
            request: Finite vectors of the index's dimension.
            is_fixed: Whether the same queries come again, so that their hits are worth keeping.
        """
        self._tell(lambda: self.take(request, is_fixed=is_fixed))

    def forget(self, client: str) -> None:
        """Expect nothing more of a client; any thread may say so."""
        self._meter.forget(client)
        self._tell(lambda: self._batcher.forget(client))

    def close(self) -> None:
        """Answer nobody any more; returns when the search that runs is over."""
        self._tell(self._end)
        self._thread.join()

    def take(self, request: Request, *, is_fixed: bool) -> None:
        """Answer a request now if its hits are known, else when they are found.

        On the server's own thread only.
        """
        self._meter.count_request(request.client, len(request.queries))
        if is_fixed:
            filled = Filled(request, self._cache)
            self._meter.count_cached(len(request.queries) - filled.n_missing, filled.n_missing)
            if not filled.n_missing:
                request.asker.answer(filled.hits())
                return
            request = filled.missing()
        try:
            self._batcher.add(request)
        except BusyError as error:
            request.asker.fail(error)

    def watch(self, connection: "_Connection", *, writing: bool) -> None:
        """Look out for what a connection brings, or for room to send."""
        events = EVENT_READ | EVENT_WRITE if writing else EVENT_READ
        self._selector.modify(connection.socket, events, connection.on_event)

    def leave(self, connection: "_Connection") -> None:
        """Have done with a connection."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._meter.forget(connection.client)
        self._batcher.forget(connection.client)

    def _tell(self, act: Callable[[], None]) -> None:
        self._told.append(act)
        with suppress(BlockingIOError, OSError):  # rung already, or closed
            self._bell_rope.send(b"!", socket.MSG_DONTWAIT)

    def _run(self) -> None:
        while self._is_open:
            wait_s = self._batcher.wait_s()
            while self._is_open and (ready := self._selector.select(wait_s)):
                for key, events in ready:
                    key.data(events)
                wait_s = 0.0  # whatever else is there already
            if self._is_open and self._batcher.wait_s() == 0.0:
                self._batcher.search()

    def _on_bell(self, _: int) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(4096)
        while self._told:
            self._told.popleft()()

    def _on_client(self, _: int) -> None:
        assert self._listener is not None, "nobody can connect"
        try:
            taken, _address = self._listener.accept()
        except OSError:  # it left already, or there are no files left
            return
        if _user_of(taken) != os.getuid():
            taken.close()
            return
        connection = _Connection(taken, self)
        self._selector.register(taken, EVENT_READ, connection.on_event)

    def _end(self) -> None:
        self._is_open = False
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr] # all of them are sockets
        self._bell_rope.close()
        self._selector.close()


class _Connection:
    """A client's socket: reads requests, one after another, and sends answers."""

    def __init__(self, taken: socket.socket, server: Server) -> None:
        taken.settimeout(0)
        self.socket = taken
        self.client = ""
        self._server = server
        self._is_open = True
        self._unsent = b""
        self._head: RequestHead | None = None
        self._queries = np.empty((0, server.width), np.float32)
        self._expect(bytearray(HELLO.size), self._on_hello)

    def on_event(self, events: int) -> None:
        """Read and send what is possible now."""
        try:
            if events & EVENT_WRITE:
                self._send(self._unsent)
            if events & EVENT_READ:
                self._receive()
        except (OSError, ValueError):
            self._leave()

    def send(self, parts: list[Buffer]) -> None:
        """Send an answer; what the kernel does not take now goes later."""
        if not self._is_open:
            return
        try:
            n_sent = 0 if self._unsent else self.socket.sendmsg(parts)
        except BlockingIOError:
            n_sent = 0
        except OSError:
            self._leave()
            return
        if n_sent < sum(map(len, parts)):
            self._unsent += b"".join(parts)[n_sent:]
            self._server.watch(self, writing=True)

    @property
    def is_open(self) -> bool:
        """Whether the client is still there."""
        return self._is_open

    def load(self) -> Load:
        """Return how much the replica has to do."""
        return self._server.load()

    def _send(self, unsent: bytes) -> None:
        self._unsent = unsent[self.socket.send(unsent) :]
        if not self._unsent:
            self._server.watch(self, writing=False)

    def _expect(self, room: bytearray | memoryview, then: Callable[[], None]) -> None:
        self._room, self._n_in, self._then = memoryview(room), 0, then

    def _receive(self) -> None:
        """Read until a request is whole or nothing is left: its client waits for the answer.

        Raises:
            OSError: If the client is gone.
            ValueError: If it sends what no client does.
        """
        while True:
            if self._n_in < len(self._room):
                try:
                    n_read = self.socket.recv_into(self._room[self._n_in :])
                except BlockingIOError:
                    return
                if not n_read:
                    raise ConnectionResetError
                self._n_in += n_read
            if self._n_in == len(self._room):
                is_request = self._head is not None
                self._then()
                if is_request:
                    return

    def _on_hello(self) -> None:
        self.client = unpack_hello(self._room)
        self._expect(bytearray(REQUEST.size), self._on_head)

    def _on_head(self) -> None:
        self._head = RequestHead.read(self._room)
        if self._head.width != self._server.width or self._head.n_queries > _MOST_QUERIES:
            raise ValueError(self._head)
        self._queries = np.empty((self._head.n_queries, self._head.width), np.float32)
        numbers: Any = self._queries.view(np.uint8).reshape(-1)  # Any: NumPy says no buffer
        self._expect(memoryview(numbers), self._on_queries)

    def _on_queries(self) -> None:
        head, self._head = self._head, None
        assert head is not None, "a head came before"
        self._expect(bytearray(REQUEST.size), self._on_head)
        self._server.take(
            Request(self.client, self._queries, head.n_docs, head.knobs, _Answering(self)),
            is_fixed=head.is_fixed,
        )

    def _leave(self) -> None:
        if self._is_open:
            self._is_open = False
            self._server.leave(self)


class _Answering:
    """Takes what was found for one request of a connection."""

    __slots__ = ("_connection", "_is_done")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._is_done = False

    def is_waiting(self) -> bool:
        """Return whether the client is still there and has no answer."""
        return self._connection.is_open and not self._is_done

    def answer(self, hits: Hits) -> None:
        """Send the hits."""
        self._is_done = True
        self._connection.send(pack_reply(hits, self._connection.load()))

    def fail(self, error: Exception) -> None:
        """Send why there are none."""
        self._is_done = True
        status = Status.BUSY if isinstance(error, BusyError) else Status.FAILED
        reason = f"{type(error).__name__}: {error}"
        self._connection.send(pack_failure(status, reason, self._connection.load()))


def _listen() -> socket.socket | None:
    """Return a listening socket of an abstract name, None where there are none."""
    if sys.platform != "linux":
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(f"\0ragsearch-{secrets.token_hex(16)}")
    listener.listen(_BACKLOG)
    return listener


def _user_of(connected: socket.socket) -> int:
    """Return the user whose process is at the other end, as the kernel says."""
    peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(np.frombuffer(peer, np.int32)[1])
