"""The short way to a replica on this node: a Unix socket beside Ray.

A call through Ray costs 1 to 2 ms of both processes' time: protocol buffers, an event loop,
wake-ups over several threads. By a socket it costs a tenth. Ray stays the way to find replicas,
to know them, and to reach other nodes.
"""

import socket

import numpy as np
from jaxtyping import Float32

from ragsearch.index.hits import Knobs
from ragsearch.retrieval.wire import (
    REPLY,
    Reply,
    ReplyHead,
    RequestHead,
    Status,
    pack_hello,
    split_reply,
)


class SearchFailedError(Exception):
    """The replica could not search, for a reason of its own: a bug."""


class LocalConnection:
    """A client's connection to a replica on its node; for one thread at a time.

    Args:
        address: What the replica says of itself.
        client: Id of the client.

    Raises:
        OSError: If nobody listens there.
    """

    def __init__(self, address: str, client: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._room = bytearray(1 << 16)
        try:
            self._socket.connect(f"\0{address}")
            self._socket.sendall(pack_hello(client))
        except OSError:
            self.close()
            raise

    def retrieve(
        self,
        queries: Float32[np.ndarray, "Q D"],
        n_docs: int,
        knobs: Knobs,
        *,
        is_fixed: bool,
        timeout_s: float,
    ) -> Reply:
        """Return the replica's answer; its hits lie in a buffer that the next call reuses.

        A call that is broken off closes the connection: its answer may still come.

        Raises:
            OSError: If it is gone, or does not answer in time.
            SearchFailedError: If it could not search.
        """
        n_queries, width = queries.shape
        head = RequestHead(n_queries, width, n_docs, knobs, is_fixed)
        numbers = np.ascontiguousarray(queries, np.float32).tobytes()
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(head.pack() + numbers)
            answer, body = self._receive()
        except BaseException:
            self.close()
            raise
        if answer.status is Status.FAILED:
            raise SearchFailedError(bytes(body).decode())
        found = split_reply(answer, body) if answer.status is Status.FOUND else None
        return Reply(found, answer.load)

    def close(self) -> None:
        """Ask nothing more."""
        self._socket.close()

    def _receive(self) -> tuple[ReplyHead, memoryview]:
        """Return the head and the body of an answer."""
        n_in = self._read_until(REPLY.size, 0)
        head = ReplyHead.read(memoryview(self._room)[: REPLY.size])
        n_in = self._read_until(REPLY.size + head.n_bytes, n_in)
        return head, memoryview(self._room)[REPLY.size : n_in]

    def _read_until(self, n_bytes: int, n_in: int) -> int:
        """Read until so many bytes are there, and return how many are."""
        if n_bytes > len(self._room):
            self._room = self._room[:n_in] + bytearray(n_bytes - n_in)
        while n_in < n_bytes:
            n_read = self._socket.recv_into(memoryview(self._room)[n_in:])
            if not n_read:
                raise ConnectionResetError("the replica is gone")
            n_in += n_read
        return n_in
