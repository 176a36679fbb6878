"""Many clients of one pool at once, on a real Ray cluster, while replicas are killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from ragsearch.errors import PoolUnavailableError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import PassageIndex, open_index
from ragsearch.retrieval.actors import find_replicas
from ragsearch.retrieval.pool import PoolClient, join_pool, list_pools, start_pool, stop_pool
from ragsearch.retrieval.retriever import BadQueriesError
from ragsearch.search.cluster import Cluster, cluster
from tests.retrieval.waiting import ended, wait

pytestmark = pytest.mark.ray

CHOICES = [(1, 5, Knobs()), (8, 5, Knobs()), (70, 2, Knobs(ef_search=20)), (3, 9, Knobs(3))]
"""Queries, passages and knobs of requests."""


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[Cluster]:
    with cluster("local", num_cpus=1) as started:
        yield started


@pytest.fixture(scope="module")
def index(other) -> PassageIndex:
    """Return a graph of 40 passages in this process."""
    return open_index(other.folder)


@pytest.fixture(scope="module")
def served(other) -> PoolClient:
    """Return a client of a pool of two replicas."""
    return start_pool(other.folder, other.fingerprint, replicas=2)


def expected(index: PassageIndex, queries: np.ndarray, n_docs: int, knobs: Knobs) -> Hits:
    hits = index.search(queries, n_docs, knobs)
    return hits._replace(vectors=hits.vectors.astype(np.float16).astype(np.float32))


def ask_and_compare(client: PoolClient, index: PassageIndex, seed: int, go_on: Callable) -> int:
    """Ask in random sizes while told to, compare every bit, and return how often."""
    chance, n_asked = np.random.default_rng(seed), 0
    while go_on(n_asked):
        n_queries, n_docs, knobs = CHOICES[chance.integers(len(CHOICES))]
        queries = chance.standard_normal((n_queries, 32), dtype=np.float32)
        hits = client.retrieve(queries, n_docs, knobs, fixed=bool(chance.integers(2)))
        alone = expected(index, queries, n_docs, knobs)
        for one, same in zip(hits, alone, strict=True):
            np.testing.assert_array_equal(one, same)
        n_asked += 1
    return n_asked


def test_clients_at_once_get_the_bits_they_would_get_alone(served, index, other):
    clients = [join_pool(served.pool, other.fingerprint) for _ in range(4)]

    with ThreadPoolExecutor(4) as threads:
        asked = threads.map(
            lambda n: ask_and_compare(clients[n], index, n, lambda done: done < 60), range(4)
        )

        assert list(asked) == [60] * 4
    info = _only()
    assert info.answering == 2


def test_a_replica_killed_under_four_clients_fails_none_and_changes_no_bit(
    served, index, other
):
    clients = [join_pool(served.pool, other.fingerprint) for _ in range(4)]
    over = Event()

    with ThreadPoolExecutor(4) as threads:
        try:
            asked = [
                threads.submit(
                    ask_and_compare, clients[n], index, n, lambda _: not over.is_set()
                )
                for n in range(4)
            ]
            for victim in _only().pids:
                time.sleep(0.5)
                os.kill(victim, signal.SIGKILL)
            time.sleep(1.5)
        finally:
            over.set()

        assert all(one.result(timeout=60) > 5 for one in asked)


def test_restarts_are_counted(served):
    served.retrieve(np.ones((1, 32), np.float32), 1)
    (pid, *_), before = _only().pids, _restarts(served)
    os.kill(pid, signal.SIGKILL)

    assert wait(lambda: _only().answering == 2 and _restarts(served) == before + 1, 20)


def test_processes_that_ask_at_once_get_what_the_index_gives(served, index, ray_cluster):
    program = f"""
        import json, sys
        import numpy as np
        from ragsearch.retrieval.pool import join_pool
        from ragsearch.search.cluster import cluster

        with cluster({ray_cluster.address!r}):
            client = join_pool({served.pool!r}, {served.fingerprint!r})
            queries = np.random.default_rng(int(sys.argv[1])).standard_normal((8, 32), "f4")
            found = [client.retrieve(queries, 5) for _ in range(20)]
            assert client.latency_p95_ms() > 0
            print(json.dumps([[h.ids.tolist(), h.scores.tolist()] for h in found]))
    """
    code = textwrap.dedent(program)
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(n)], stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]

    for number, process in enumerate(asking):
        found = json.loads(process.communicate(timeout=90)[0])
        queries = np.random.default_rng(number).standard_normal((8, 32), "f4")
        same = index.search(queries, 5)
        assert found == [[same.ids.tolist(), same.scores.tolist()]] * 20


def test_clients_of_a_node_spread_over_its_replicas(served, other):
    clients = [join_pool(served.pool, other.fingerprint) for _ in range(4)]
    query = np.ones((1, 32), np.float32)

    def is_even() -> bool:
        for client in clients:
            client.retrieve(query, 1)
        homes = Counter(client._routes._home for client in clients)
        return sorted(homes.values()) == [2, 2]

    assert wait(is_even, 20)


def test_a_hundred_clients_leave_nothing_behind(served, other):
    def ask_once() -> None:
        client = join_pool(served.pool, other.fingerprint)
        client.retrieve(np.ones((64, 32), np.float32), 40)

    for _ in range(20):
        ask_once()
    before = _opened()
    for _ in range(100):
        ask_once()

    assert wait(lambda: _opened() <= before + 10, 10), (_opened(), before)
    assert len(find_replicas(served.pool)) == 2


def test_knobs_are_refused_in_the_client_by_name(served, other):
    client = join_pool(served.pool, other.fingerprint, who="trial 5")

    with pytest.raises(BadQueriesError, match="trial 5: nprobe is 3 but the index is HNSW8"):
        client.retrieve(np.ones((1, 32), np.float32), 1, Knobs(nprobe=3))
    with pytest.raises(
        BadQueriesError, match=r"trial 5: queries of shape \(1, 31\) do not fit"
    ):
        client.retrieve(np.ones((1, 31), np.float32), 1)


def test_without_any_replica_every_client_gets_a_clear_error(served, other):
    clients = [
        join_pool(served.pool, other.fingerprint, timeout_s=1.0, who=f"trial {n}")
        for n in range(2)
    ]
    pids = _only().pids
    stop_pool(served.pool)
    assert ended(pids)

    for number, client in enumerate(clients):
        message = f"trial {number}: pool '{served.pool}': no replica answered within 1 s; see"
        with pytest.raises(PoolUnavailableError, match=message):
            client.retrieve(np.ones((1, 32), np.float32), 1)


def _only():
    (info,) = list_pools()
    return info


def _restarts(client: PoolClient) -> int:
    from ragsearch.retrieval.actors import describe

    return sum(
        describe(handle, 20)["n_restarts"] for handle in find_replicas(client.pool).values()
    )


def _opened() -> int:
    """Return files, sockets and shared memory that this process and the replicas hold."""
    pids = [os.getpid(), *_only().pids]
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids) + sum(
        "/dev/shm" in line
        for pid in pids
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
    )
