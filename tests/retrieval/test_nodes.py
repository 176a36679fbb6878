"""A pool over a cluster of three nodes, simulated on this machine: one raylet each."""

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ragsearch.errors import BadInputError
from ragsearch.index.open import open_index
from ragsearch.index.store import Passage
from ragsearch.retrieval.actors import find_replicas, list_replicas
from ragsearch.retrieval.info import descriptions
from ragsearch.retrieval.placement import NodeProbe, Slot, probe
from ragsearch.retrieval.pool import (
    Layout,
    PoolPlan,
    join_pool,
    list_pools,
    serving,
    start_pool,
    stop_pool,
)
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.cluster import cluster
from tests.retrieval.waiting import wait

pytestmark = pytest.mark.ray

N_NODES = 3
STORE = 80 * 2**20  # the least Ray takes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Return three nodes, the first of them the head, and be connected to it."""
    attentive = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = _node_args() | {"_system_config": attentive}  # Ray's own takes 15 s to see a loss
    started = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(N_NODES - 1):
        started.add_node(**_node_args())
    try:
        with cluster(started.address):
            yield started
    finally:
        started.shutdown()


@pytest.fixture(autouse=True)
def alone(nodes: Cluster) -> Iterator[None]:
    """Begin with three nodes, end without pools."""
    while len(nodes.list_all_nodes()) < N_NODES:
        nodes.add_node(**_node_args())
    yield
    for info in list_pools():
        stop_pool(info.name)


def test_a_replica_per_node_is_a_replica_on_every_node(exact, queries):
    client = start_pool(exact.folder, exact.fingerprint, per_node=1)
    again = start_pool(exact.folder, exact.fingerprint, per_node=1)

    assert _per_node(client.pool) == dict.fromkeys(_alive(), 1)
    np.testing.assert_array_equal(
        again.retrieve(queries, 5).ids, client.retrieve(queries, 5).ids
    )


def test_clients_ask_the_replica_of_their_own_node(exact, queries):
    name = start_pool(exact.folder, exact.fingerprint, per_node=1).pool
    before = _queries_per_node(name)

    alive = sorted(_alive())
    asked = [_on(node, _ask_often, name, exact.fingerprint, queries) for node in alive[:2]]
    ray.get(asked)

    after = _queries_per_node(name)
    gained = [after[node] - before[node] for node in alive]
    assert sum(gained) == 2 * 20 * 8
    assert min(gained[:2]) >= 18 * 8  # at first a client does not know which one is near


def test_a_trial_on_a_node_without_the_folder_still_gets_its_passages(exact, tmp_path):
    folder = Path(shutil.copytree(exact.folder, tmp_path / "index"))
    name = start_pool(folder, exact.fingerprint).pool
    folder.rename(tmp_path / "not on this node")
    elsewhere = (_alive() - {ray.get_runtime_context().get_node_id()}).pop()

    passages = ray.get(_on(elsewhere, _passages, name, exact.fingerprint, [7, 3]))

    assert passages == open_index(exact.folder).store.take([7, 3])


def test_replicas_in_total_spread_from_the_drivers_node(exact):
    name = start_pool(exact.folder, exact.fingerprint, replicas=2).pool

    found = _per_node(name)
    assert sum(found.values()) == len(found) == 2
    assert ray.get_runtime_context().get_node_id() in found


def test_a_sharded_pool_finds_what_the_whole_index_finds(sharded, exact, queries):
    client = start_pool(sharded.folder, sharded.fingerprint, replicas=2)
    one = join_pool(client.pool, sharded.fingerprint)
    whole = InProcessRetriever(open_index(exact.folder))

    for n_docs in (1, 5, 40, 50):
        hits, same = one.retrieve(queries, n_docs), whole.retrieve(queries, n_docs)
        for array, same_array in zip(hits, same, strict=True):
            np.testing.assert_array_equal(array, same_array)
    found = find_replicas(client.pool)
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list_replicas()[client.pool][Slot(1, 0)] == f"{client.pool}/1.0"
    (info,) = list_pools()
    assert (info.n_shards, info.replicas, info.n_passages) == (2, 4, 40)
    assert one.passages(np.array([39, 0])) == whole.passages(np.array([39, 0]))


def test_replicas_that_died_of_each_shard_change_no_answer(sharded, queries):
    client = start_pool(sharded.folder, sharded.fingerprint)
    same = client.retrieve(queries, 5)

    for pid in list_pools()[0].pids:
        os.kill(pid, signal.SIGKILL)

    np.testing.assert_array_equal(client.retrieve(queries, 5).ids, same.ids)


def test_copies_in_memory_are_no_files_mapped(exact, queries):
    client = start_pool(exact.folder, exact.fingerprint, replicas=2, memory="in_memory")

    client.retrieve(queries, 5)

    for pid in list_pools()[0].pids:
        assert str(exact.folder / "index.faiss") not in Path(f"/proc/{pid}/maps").read_text()


def test_copies_that_do_not_fit_are_refused_before_an_actor_starts(exact):
    here = ray.get_runtime_context().get_node_id()

    def poor(folder: Path, fingerprint: str) -> list[NodeProbe]:
        return [replace(probe(folder, fingerprint, here, is_here=True), available_bytes=9999)]

    with pytest.raises(BadInputError, match=r"2 x 5\.17 kB of index on node .*, where 10 kB"):
        start_pool(exact.folder, exact.fingerprint, replicas=2, memory="in_memory", prober=poor)
    assert list_pools() == []


def test_a_lost_node_fails_no_request_and_starting_again_mends_the_pool(nodes, exact, queries):
    client = start_pool(exact.folder, exact.fingerprint, per_node=1)
    same = client.retrieve(queries, 5)

    with _asking(client.pool, exact.fingerprint, queries, same.ids) as asked:
        _lose_one(nodes)
        asked.clear()
        assert wait(lambda: len(asked) > 20, 20)
    assert wait(lambda: sum(_per_node(client.pool, 1).values()) == N_NODES - 1, 20)

    nodes.add_node(**_node_args())
    start_pool(exact.folder, exact.fingerprint, per_node=1)
    assert _per_node(client.pool) == dict.fromkeys(_alive(), 1)
    assert len(_alive()) == N_NODES


def test_while_it_serves_a_pool_is_mended_by_itself(nodes, exact):
    plan = PoolPlan(exact.folder, exact.fingerprint, Layout(replicas=3))
    with serving(plan, "search one", heal_every_s=0.5):
        assert set(_per_node(plan.pool).values()) == {1}
        _lose_one(nodes)

        assert wait(lambda: sum(_per_node(plan.pool, 1).values()) == 3, 30)
        assert _per_node(plan.pool).keys() <= _alive()


def _on(node: str, function, *args: object) -> ray.ObjectRef:
    """Run a function on a node, as a trial there would."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=there).remote(*args)


def _ask_often(name: str, fingerprint: str, queries: np.ndarray) -> None:
    client = join_pool(name, fingerprint)
    for _ in range(20):
        client.retrieve(queries, 5)


def _passages(name: str, fingerprint: str, ids: list[int]) -> list[Passage]:
    return join_pool(name, fingerprint).passages(np.array(ids))


def _queries_per_node(pool: str) -> dict[str, int]:
    found = descriptions(find_replicas(pool), 10)
    return {one["node_id"]: one["n_queries"] for one in found}


def _node_args() -> dict[str, object]:
    return {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _per_node(pool: str, timeout_s: float = 10) -> Counter[str]:
    found = descriptions(find_replicas(pool), timeout_s)
    return Counter(one["node_id"] for one in found)


def _lose_one(nodes: Cluster) -> None:
    """End a node that is not the head, as if its power failed."""
    (*_, last) = nodes.worker_nodes
    nodes.remove_node(last, allow_graceful=False)


@contextmanager
def _asking(
    pool: str, fingerprint: str, queries: np.ndarray, ids: np.ndarray
) -> Iterator[list]:
    """Have four clients ask all the time; each answer must be the right one."""
    answers, wrong, over = [], [], threading.Event()

    def ask() -> None:
        client = join_pool(pool, fingerprint)
        while not over.is_set():
            try:
                answers.append((client.retrieve(queries, 5).ids == ids).all())
            except Exception as error:  # noqa: BLE001 - told by the test
                wrong.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield answers
    over.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert all(answers)
