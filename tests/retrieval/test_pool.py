"""A pool on one real, private Ray cluster that the whole module shares."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ragsearch.errors import BadInputError, PoolMismatchError, PoolUnavailableError
from ragsearch.index.open import open_index
from ragsearch.retrieval.actors import check_identity
from ragsearch.retrieval.placement import NodeProbe, probe
from ragsearch.retrieval.pool import (
    PROTOCOL,
    Lease,
    PoolClient,
    PoolInfo,
    join_pool,
    list_pools,
    pool_name,
    start_pool,
    stop_pool,
)
from ragsearch.retrieval.retriever import BadQueriesError
from ragsearch.search.cluster import Cluster, cluster
from tests.retrieval.waiting import ended, wait

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[Cluster]:
    with cluster("local", num_cpus=1) as started:
        yield started


@pytest.fixture
def alone() -> Iterator[None]:
    """Have no pools before and after the test."""
    _stop_all()
    yield
    _stop_all()


@pytest.fixture
def served(exact) -> PoolClient:
    """Return a client of a pool of two replicas, shared by the tests that leave it as it is."""
    return start_pool(exact.folder, exact.fingerprint, replicas=2)


def test_pool_hits_equal_those_of_the_index(served, exact, queries):
    index = open_index(exact.folder)

    for n_docs in (1, 5, 40, 50):
        hits, same = served.retrieve(queries, n_docs), index.search(queries, n_docs)
        np.testing.assert_array_equal(hits.ids, same.ids)
        np.testing.assert_array_equal(hits.scores, same.scores)
        np.testing.assert_array_equal(hits.vectors, same.vectors.astype(np.float16))
        assert [array.dtype for array in hits] == [array.dtype for array in same]


def test_hits_can_be_written_to_like_those_of_the_index(served, queries):
    # 40 passages: large enough that Ray maps the answer from shared memory
    for array in served.retrieve(queries, 40):
        array[:] = 0


def test_pool_reads_passages_where_the_node_has_the_index(served, exact):
    ids = np.array([7, 3])

    assert served.passages(ids) == open_index(exact.folder).store.take([7, 3])


def test_pool_reads_passages_where_the_node_has_no_index(served, exact, tmp_path):
    same = open_index(exact.folder).store.take([7, 3])
    served._description["folder"] = str(tmp_path / "elsewhere")

    assert served.passages(np.array([7, 3])) == same


def test_starting_a_pool_again_joins_its_replicas_and_loads_nothing(served, exact):
    before = _only()
    again = start_pool(exact.folder, exact.fingerprint, replicas=2)

    assert again.pool == served.pool == pool_name(exact.fingerprint)
    assert _only().pids == before.pids


@pytest.mark.usefixtures("served")
def test_starting_a_pool_again_needs_no_index_folder(exact, tmp_path):
    client = start_pool(tmp_path / "gone", exact.fingerprint, replicas=2)

    assert client.n_passages == 40


def test_joining_finds_the_pool_by_name_and_serves_the_same(served, exact, queries):
    client = join_pool(served.pool, exact.fingerprint, who="trial 1")

    assert (client.fingerprint, client.n_passages, client.dimension) == (
        exact.fingerprint,
        40,
        32,
    )
    np.testing.assert_array_equal(
        client.retrieve(queries, 5).ids, served.retrieve(queries, 5).ids
    )


@pytest.mark.usefixtures("served")
def test_fewer_replicas_than_there_are_ends_none(exact):
    start_pool(exact.folder, exact.fingerprint, replicas=1)

    assert _only().replicas == 2


def test_joining_a_pool_with_another_index_is_refused(served, other):
    message = (
        rf"pool '{served.pool}' serves index {served.fingerprint[:16]} \(40 passages\) but "
        rf"trial 3 wants {other.fingerprint[:16]}; stop it with `ragsearch pool stop "
        rf"{served.pool}` or choose another pool name"
    )
    with pytest.raises(PoolMismatchError, match=message):
        join_pool(served.pool, other.fingerprint, who="trial 3")


def test_a_pool_of_another_protocol_is_refused(served, exact):
    newer = served._description | {"protocol": PROTOCOL + 1}

    message = f"speaks protocol {PROTOCOL + 1} but this ragsearch speaks {PROTOCOL}; stop it"
    with pytest.raises(PoolMismatchError, match=message):
        check_identity(served.pool, newer, exact.fingerprint, "")


def test_joining_a_pool_that_is_not_there_is_refused_at_once():
    started = time.monotonic()

    with pytest.raises(PoolUnavailableError, match="there is no pool 'wiki' in this cluster"):
        join_pool("wiki", "0" * 64)
    assert time.monotonic() - started < 1


def test_queries_are_checked_before_they_travel(served, exact, queries):
    client = join_pool(served.pool, exact.fingerprint, who="trial 4")
    before = _only().n_queries

    with pytest.raises(BadQueriesError, match="trial 4: 8 of 8 query vectors are NaN"):
        client.retrieve(queries * np.nan, 5)
    with pytest.raises(BadQueriesError, match="trial 4: no passage has id -1"):
        client.passages(np.array([-1]))
    assert _only().n_queries == before


def test_listing_says_what_a_pool_is(served, queries, exact):
    before = _only().n_queries
    served.retrieve(queries, 5)

    info = _only()

    assert (info.name, info.fingerprint) == (served.pool, exact.fingerprint)
    assert (info.n_passages, info.n_shards, info.folder) == (40, 1, str(exact.folder))
    assert (info.lifetime, info.aliases) == ("search", ())
    assert (info.replicas, info.answering) == (2, 2)
    assert (info.n_queries, info.n_leases) == (before + 8, 0)
    assert info.n_joined >= 1
    assert info.pss_bytes > info.index_bytes > 0
    assert len(set(info.pids)) == len(info.nodes) == 2
    assert info.n_clients >= 1
    assert info.queries_per_s > 0
    assert 0 < info.p50_ms <= info.p95_ms
    assert 0 <= info.wait_ms <= info.p95_ms
    assert info.queries_per_search > 0
    assert (info.cache_hit_rate, info.n_restarts) == (0, 0)


@pytest.mark.usefixtures("served")
def test_a_pool_occupies_no_cpu_a_trial_could_use(ray_cluster):
    import ray

    assert ray.available_resources()["CPU"] == ray_cluster.cpus


def test_another_index_gets_another_pool(served, other):
    client = start_pool(other.folder, other.fingerprint)
    try:
        found = {info.name: info.fingerprint for info in list_pools()}
    finally:
        stop_pool(client.pool)

    assert found == {
        served.pool: served.fingerprint,
        pool_name(other.fingerprint): other.fingerprint,
    }


def test_a_replica_that_hangs_is_passed_over(served, exact, queries):
    client = join_pool(served.pool, exact.fingerprint, timeout_s=4)
    hung = _only().pids[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        seconds = [_seconds(lambda: client.retrieve(queries, 5)) for _ in range(4)]
    finally:
        os.kill(hung, signal.SIGCONT)

    assert max(seconds) < 4
    assert sum(second > 1 for second in seconds) <= 1


@pytest.mark.usefixtures("served")
def test_listing_does_not_wait_for_replicas_that_hang():
    hung = _only().pids[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        info = list_pools(timeout_s=1)[0]
    finally:
        os.kill(hung, signal.SIGCONT)

    assert info.answering == info.replicas - 1


@pytest.mark.usefixtures("served")
def test_missing_replicas_are_topped_up(exact):
    before = _only()
    start_pool(exact.folder, exact.fingerprint, replicas=3)
    after = _only()

    assert after.replicas == after.answering == len(before.pids) + 1
    assert set(before.pids) < set(after.pids)


def test_stopping_tells_how_many_replicas_there_were(served):
    there = _only().replicas

    assert stop_pool(served.pool) == there
    assert stop_pool(served.pool) == 0
    assert list_pools() == []


@pytest.mark.usefixtures("alone")
def test_starting_a_pool_whose_name_has_another_index_is_refused(exact, other):
    start_pool(exact.folder, exact.fingerprint, name="wiki")

    with pytest.raises(
        PoolMismatchError, match=r"pool 'wiki' serves index .* this search wants"
    ):
        start_pool(other.folder, other.fingerprint, name="wiki", replicas=2)
    assert _only().replicas == 1


@pytest.mark.usefixtures("alone")
def test_a_folder_that_holds_another_index_is_refused_before_an_actor_starts(exact, other):
    with pytest.raises(PoolMismatchError, match="build the index again"):
        start_pool(other.folder, exact.fingerprint)
    assert list_pools() == []


@pytest.mark.usefixtures("alone")
def test_a_folder_that_holds_no_index_is_refused_before_an_actor_starts(exact, tmp_path):
    with pytest.raises(BadInputError, match=str(tmp_path)):
        start_pool(tmp_path, exact.fingerprint)
    assert list_pools() == []


@pytest.mark.usefixtures("alone")
def test_replicas_that_cannot_open_the_index_are_reported_in_one_sentence(exact, other):
    import ray

    here = ray.get_runtime_context().get_node_id()

    def believing(folder: Path, _: str) -> list[NodeProbe]:
        return [probe(folder, other.fingerprint, here, is_here=True)]

    with pytest.raises(
        PoolUnavailableError, match=r"do not start on .*: .* holds index .*pool"
    ):
        start_pool(other.folder, exact.fingerprint, prober=believing)


@pytest.mark.usefixtures("alone")
def test_killing_replicas_changes_no_answer(served, queries):
    same = served.retrieve(queries, 5)
    for victims in (1, 2):
        for pid in _only().pids[:victims]:
            os.kill(pid, signal.SIGKILL)
        for _ in range(6):
            hits = served.retrieve(queries, 5)
            for one, other_one in zip(hits, same, strict=True):
                np.testing.assert_array_equal(one, other_one)


@pytest.mark.usefixtures("alone")
def test_without_replicas_the_client_gives_up_within_its_deadline(exact, queries):
    served = start_pool(exact.folder, exact.fingerprint)
    client = join_pool(served.pool, exact.fingerprint, timeout_s=1.5, who="trial 9")
    (info,) = list_pools()
    stop_pool(served.pool)
    assert ended(info.pids)
    started = time.monotonic()

    message = f"trial 9: pool '{served.pool}': no replica answered within 1.5 s; see `ragsearch"
    with pytest.raises(PoolUnavailableError, match=message):
        client.retrieve(queries, 5)
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("alone")
def test_a_client_goes_on_with_a_pool_that_was_stopped_and_started(exact, queries):
    served = start_pool(exact.folder, exact.fingerprint)
    same = served.retrieve(queries, 5)
    stop_pool(served.pool)
    start_pool(exact.folder, exact.fingerprint)

    np.testing.assert_array_equal(served.retrieve(queries, 5).ids, same.ids)


@pytest.mark.usefixtures("alone")
def test_a_client_refuses_a_pool_that_came_back_with_another_index(exact, other, queries):
    client = start_pool(exact.folder, exact.fingerprint, name="wiki", who="trial 2")
    stop_pool("wiki")
    start_pool(other.folder, other.fingerprint, name="wiki")

    with pytest.raises(PoolMismatchError, match="but trial 2 wants"):
        client.retrieve(queries, 5)


@pytest.mark.usefixtures("alone")
def test_a_search_pool_leaves_after_the_last_of_its_leases(exact):
    name = start_pool(exact.folder, exact.fingerprint, lease_s=1).pool
    (pid,) = _only().pids
    with Lease(name, "search one", every_s=0.2):
        with Lease(name, "search two", every_s=0.2):
            time.sleep(1.2)
            assert _only().n_leases == 2
        time.sleep(1.2)
        assert _only().n_leases == 1

    assert wait(lambda: list_pools() == [], 3)
    assert wait(lambda: not Path(f"/proc/{pid}").exists(), 5)


@pytest.mark.usefixtures("alone")
def test_a_lease_also_keeps_a_replica_that_was_restarted(exact):
    name = start_pool(exact.folder, exact.fingerprint, lease_s=1).pool
    with Lease(name, "search one", every_s=0.2):
        os.kill(_only().pids[0], signal.SIGKILL)
        assert wait(lambda: _only().answering == 1, 20)
        time.sleep(1.5)
        assert _only().n_leases == 1


@pytest.mark.usefixtures("alone")
def test_a_pool_once_asked_to_be_detached_stays_so_after_restarts(exact):
    start_pool(exact.folder, exact.fingerprint, lease_s=1)
    start_pool(exact.folder, exact.fingerprint, lifetime="detached")
    start_pool(exact.folder, exact.fingerprint, lifetime="search")
    os.kill(_only().pids[0], signal.SIGKILL)
    assert wait(lambda: _only().answering == 1, 20)
    time.sleep(1.5)

    assert (_only().lifetime, _only().n_leases) == ("detached", 0)


@pytest.mark.usefixtures("alone")
def test_a_search_pool_leaves_when_its_driver_was_killed(ray_cluster, exact):
    driver = _driver(f"""
        import time
        from pathlib import Path
        from ragsearch.retrieval.pool import Lease, start_pool
        from ragsearch.search.cluster import cluster

        with cluster({ray_cluster.address!r}):
            index, fingerprint = Path({str(exact.folder)!r}), {exact.fingerprint!r}
            name = start_pool(index, fingerprint, lease_s=2).pool
            with Lease(name, "search one", every_s=0.3):
                print("serving", flush=True)
                time.sleep(600)
    """)
    try:
        assert driver.stdout.readline() == "serving\n"
        time.sleep(2.5)
        held = _only().n_leases
    finally:
        driver.kill()
        driver.communicate()

    assert held == 1
    assert wait(lambda: list_pools() == [], 5)


def test_without_a_cluster_every_door_says_so(exact):
    program = f"""
        import sys
        from pathlib import Path
        from ragsearch.errors import PoolUnavailableError
        from ragsearch.retrieval.pool import join_pool, list_pools, start_pool, stop_pool

        doors = [
            lambda: start_pool(Path({str(exact.folder)!r}), {exact.fingerprint!r}),
            lambda: join_pool("wiki", {exact.fingerprint!r}),
            lambda: stop_pool("wiki"),
            lambda: list_pools(),
        ]
        for door in doors:
            try:
                door()
            except PoolUnavailableError as error:
                print(error)
    """
    driver = _driver(program)

    answers = driver.communicate(timeout=60)[0].splitlines()

    assert len(answers) == 4
    assert all("this process is connected to no Ray cluster" in answer for answer in answers)


def _stop_all() -> None:
    for info in list_pools():
        stop_pool(info.name)


def _only() -> PoolInfo:
    (info,) = list_pools()
    return info


def test_a_truncated_index_is_one_sentence_before_any_replica_starts(exact, tmp_path):
    folder = shutil.copytree(exact.folder, tmp_path / "index")
    whole = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(whole[:-100])

    with pytest.raises(BadInputError, match=r"index\.faiss: has \d+ bytes instead of \d+"):
        start_pool(folder, exact.fingerprint, name="truncated")

    assert "truncated" not in {pool.name for pool in list_pools()}


def _seconds(act: Callable[[], object]) -> float:
    started = time.monotonic()
    act()
    return time.monotonic() - started


def _driver(program: str) -> subprocess.Popen[str]:
    """Return another process that runs a program."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
