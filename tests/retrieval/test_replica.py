import asyncio
import subprocess
import sys
from threading import Event

import numpy as np
import pytest

from ragsearch.errors import PoolMismatchError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import open_index
from ragsearch.retrieval.cache import HitCache, Row, keys_of
from ragsearch.retrieval.meter import Figures
from ragsearch.retrieval.replica import CLIENT, PROTOCOL, Leases, Replica
from ragsearch.retrieval.retriever import in_half
from ragsearch.retrieval.wire import pack_hits, pack_queries, unpack_hits


class Host:
    """A keeper without Ray."""

    birth = "a replica"
    node_id = "a node"

    def __init__(self, *, detached: bool = False) -> None:
        self.detached = detached
        self.n_starts = 0
        self.left = Event()

    def count_start(self) -> int:
        """Count."""
        self.n_starts += 1
        return self.n_starts - 1

    def is_detached(self) -> bool:
        """Return what the test says."""
        return self.detached

    def show(self, fingerprint: str, figures: Figures, n_restarts: int) -> None:
        """Note it."""
        self.shown = (fingerprint, figures, n_restarts)

    def leave(self) -> None:
        """Note it."""
        self.left.set()


def assert_same(sent: Hits, hits: Hits) -> None:
    """Compare what was sent with hits: all bits of ids and scores, half of the vectors'."""
    np.testing.assert_array_equal(sent.ids, hits.ids)
    np.testing.assert_array_equal(sent.scores, hits.scores)
    np.testing.assert_array_equal(
        sent.vectors, hits.vectors.astype(np.float16).astype(np.float32)
    )


def assert_same_bits(sent: Hits, hits: Hits) -> None:
    for one, same in zip(sent, hits, strict=True):
        np.testing.assert_array_equal(one, same)
        assert one.dtype == same.dtype


def test_replica_answers_as_the_index_does(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    index = open_index(exact.folder)

    reply = asyncio.run(replica.retrieve(pack_queries(queries), 3))

    assert_same(unpack_hits(reply.hits), index.search(queries, 3))
    assert replica.passages(np.array([4, 0])) == index.store.take([4, 0])


def test_replica_sends_single_precision_where_half_is_too_small(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    vectors = np.array([[1e5, 1.0]], np.float32)

    assert asyncio.run(replica.retrieve(pack_queries(queries), 3)).hits.is_half
    assert in_half(vectors) is vectors
    assert in_half(vectors / 2).dtype == np.float16
    large = Hits(np.array([[3]]), np.array([[0.1]], np.float32), vectors[None])
    assert_same_bits(unpack_hits(pack_hits(large)), large)


def test_fixed_queries_are_searched_once(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    expected = open_index(exact.folder).search(queries, 5)

    for rows, n_docs in ((slice(3), 5), (slice(8), 5), (slice(8), 3), (slice(2, 4), 5)):
        reply = asyncio.run(replica.retrieve(pack_queries(queries[rows]), n_docs, fixed=True))
        assert_same(
            unpack_hits(reply.hits), Hits(*(array[rows, :n_docs] for array in expected))
        )

    found = replica.describe()["figures"]
    assert (found["n_cache_hits"], found["n_cache_misses"]) == (3 + 8 + 2, 8)


def test_the_cache_keeps_what_was_used_last_within_its_bytes(exact, queries):
    hits = open_index(exact.folder).search(queries, 5)
    keys = keys_of(queries, 5, Knobs())
    cache = HitCache(4 * (5 * (8 + 4 + 32 * 4) + 300))

    for key, *row in zip(keys, *hits, strict=True):
        cache.keep(key, Row(*row))
        assert cache.find(keys[0], 5) is not None
    cache.keep(keys[7], Row(*(array[7] for array in hits)))

    assert [cache.find(key, 5) is not None for key in keys] == [True] + [False] * 4 + [True] * 3
    assert cache.find(keys[7], 6) is None
    assert keys_of(queries, 6, Knobs())[7] != keys[7] != keys_of(queries, 5, Knobs(9))[7]


def test_replica_says_what_it_serves_and_what_it_did(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    asyncio.run(replica.retrieve(pack_queries(queries), 3, client="one"))
    asyncio.run(replica.retrieve(pack_queries(queries[:1]), 3, client="two"))
    replica.renew("search one")
    replica.renew(f"{CLIENT}one")

    found = replica.describe()

    assert found["protocol"] == PROTOCOL
    assert found["fingerprint"] == exact.fingerprint
    assert (found["n_passages"], found["dimension"]) == (40, 32)
    files = ("index.faiss", "passages.arrow")
    assert found["index_bytes"] == sum((exact.folder / f).stat().st_size for f in files)
    assert found["lifetime"] == "detached"
    assert found["n_queries"] == 9
    assert found["address"].startswith("ragsearch-")
    assert (found["node_id"], found["n_restarts"], found["faiss"]) == ("a node", 0, "Flat")
    assert found["figures"]["queries_per_search"] == 4.5
    assert found["figures"]["n_clients"] == 2
    assert 0 < found["figures"]["p50_s"] <= found["figures"]["p95_s"]
    assert (found["n_leases"], found["n_joined"]) == (1, 1)
    assert replica.memory() > 2**20


def test_replica_refuses_a_folder_that_holds_another_index(exact, other):
    with pytest.raises(PoolMismatchError, match=f"holds index {other.fingerprint[:16]} but"):
        Replica(other.folder, exact.fingerprint, Host())


def test_replica_leaves_when_no_lease_was_ever_taken(exact):
    host = Host()
    Replica(exact.folder, exact.fingerprint, host, lease_s=1.0)

    assert not host.left.wait(0.1)
    assert host.left.wait(5)
    assert host.shown[0] == exact.fingerprint
    assert host.shown[1]["n_clients"] == host.shown[2] == 0


def test_replica_stays_while_a_lease_is_renewed(exact):
    host = Host()
    replica = Replica(exact.folder, exact.fingerprint, host, lease_s=0.3)

    for _ in range(10):
        replica.renew("search one")
        assert not host.left.wait(0.1)
    assert host.left.wait(2)


def test_detached_replica_stays_without_leases(exact):
    host = Host(detached=True)
    Replica(exact.folder, exact.fingerprint, host, lease_s=0.1)

    assert not host.left.wait(0.5)
    host.detached = False
    assert host.left.wait(2)


def test_a_lease_ends_when_it_is_not_renewed():
    now = [100.0]
    leases = Leases(60.0, lambda: now[0])
    leases.renew("one")
    now[0] += 40
    leases.renew("two")
    now[0] += 40

    assert leases.holders() == ("two",)


def test_releasing_one_lease_leaves_the_others():
    leases = Leases(60.0)
    leases.renew("one")
    leases.renew("two")
    leases.release("one")
    leases.release("never held")

    assert leases.holders() == ("two",)


def test_opening_a_replica_imports_no_torch(exact):
    program = f"""
import sys
from pathlib import Path
from ragsearch.retrieval.replica import Replica

class Host:
    birth = node_id = ""
    def count_start(self):
        return 0
    def show(self, *_):
        pass
    def is_detached(self):
        return True

Replica(Path({str(exact.folder)!r}), {exact.fingerprint!r}, Host())
print(sorted({{"torch", "transformers", "ray", "mlflow"}} & sys.modules.keys()))
"""

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"


def test_a_client_that_left_no_longer_counts(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    asyncio.run(replica.retrieve(pack_queries(queries), 3, client="one"))
    assert replica.load() == (1, 0)

    replica.forget("one")

    assert replica.load() == (0, 0)
