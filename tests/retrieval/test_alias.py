"""An alias moves to another index while clients of the old one go on."""

import gc
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ragsearch.cli.app import app
from ragsearch.errors import BadInputError, PoolMismatchError, PoolUnavailableError
from ragsearch.index.open import open_index
from ragsearch.retrieval.pool import (
    Lease,
    PoolInfo,
    PoolPlan,
    join_pool,
    list_pools,
    move_alias,
    pool_name,
    start_pool,
    stop_pool,
)
from ragsearch.search.cluster import Cluster, cluster
from tests.retrieval.conftest import TinyIndex
from tests.retrieval.waiting import wait

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[Cluster]:
    with cluster("local", num_cpus=1) as started:
        yield started


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Leave no pools behind."""
    yield
    for info in list_pools():
        stop_pool(info.name)


def test_an_alias_moves_while_clients_of_the_old_index_go_on(exact, other, queries):
    move_alias("kb", _plan(exact))
    old, wrong, over = join_pool("kb"), [], threading.Event()
    same = open_index(exact.folder).search(queries, 5)

    def ask() -> None:
        while not over.is_set():
            try:
                np.testing.assert_array_equal(old.retrieve(queries, 5).ids, same.ids)
            except Exception as error:  # noqa: BLE001 - told by the test
                wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    move_alias("kb", _plan(other))
    new = join_pool("kb")
    is_kept = not wait(lambda: old.pool not in _pools(), 3)  # three leases long
    over.set()
    asking.join()

    assert (old.fingerprint, new.fingerprint) == (exact.fingerprint, other.fingerprint)
    assert (wrong, is_kept) == ([], True)
    assert _pools()[new.pool].aliases == ("kb",)
    assert (_pools()[old.pool].lifetime, _pools()[new.pool].lifetime) == ("search", "detached")

    old.close()
    assert wait(lambda: old.pool not in _pools(), 10)
    assert new.pool in _pools()


def test_a_search_over_the_old_index_keeps_it(exact, other):
    move_alias("kb", _plan(exact))
    name = _pools_of("kb").name
    with Lease(name, "search one", every_s=0.2):
        move_alias("kb", _plan(other))
        assert not wait(lambda: name not in _pools(), 2)

    assert wait(lambda: name not in _pools(), 10)


def test_the_last_of_several_aliases_lets_an_index_go(exact, other):
    move_alias("kb", _plan(exact))
    move_alias("stable", _plan(exact))
    name = _pools_of("kb").name

    move_alias("kb", _plan(other))
    assert (_pools()[name].aliases, _pools()[name].lifetime) == (("stable",), "detached")
    assert not wait(lambda: name not in _pools(), 2)  # longer than a lease
    move_alias("stable", _plan(other))
    assert wait(lambda: name not in _pools(), 10)


def test_moving_an_alias_to_where_it_is_changes_nothing(exact):
    move_alias("kb", _plan(exact))
    before = _pools_of("kb")
    move_alias("kb", _plan(exact))

    assert (_pools_of("kb").pids, _pools_of("kb").lifetime) == (before.pids, "detached")


def test_a_client_holds_the_pool_until_nobody_refers_to_it(exact):
    client = start_pool(exact.folder, exact.fingerprint, lease_s=1)
    name = client.pool
    assert not wait(lambda: name not in _pools(), 2)
    assert _pools()[name].n_joined == 1

    del client
    gc.collect()
    assert wait(lambda: name not in _pools(), 10)


def test_names_that_lead_nowhere_are_refused(exact, other):
    with pytest.raises(PoolUnavailableError, match="there is no pool 'kb' in this cluster"):
        join_pool("kb")
    pool = start_pool(exact.folder, exact.fingerprint, name="wiki")
    with pytest.raises(PoolUnavailableError, match="there is no alias 'wiki' in this cluster"):
        join_pool("wiki")
    with pytest.raises(BadInputError, match="alias 'wiki': is the name of a pool; choose"):
        move_alias("wiki", _plan(other))
    with pytest.raises(BadInputError, match="alias 'a/b': an alias has up to 64 letters"):
        move_alias("a/b", _plan(other))
    move_alias("kb", PoolPlan(exact.folder, exact.fingerprint, name=pool.pool))
    with pytest.raises(PoolMismatchError, match="but trial 1 wants"):
        join_pool("kb", other.fingerprint, who="trial 1")
    stop_pool("wiki")
    with pytest.raises(PoolUnavailableError, match="there is no pool 'kb' in this cluster"):
        join_pool("kb")


def test_commands_move_an_alias_and_list_it(exact, other, capsys):
    for index in (exact, other):
        _call("pool", "alias", "kb", index.folder, "--per-node", "1")
    shown = capsys.readouterr().out.split()
    join_pool("kb").retrieve(np.ones((2, 32), np.float32), 3)

    _call("pool", "ls")
    table = capsys.readouterr().out
    _call("pool", "ls", "--json")
    (*_, told) = sorted(json.loads(capsys.readouterr().out), key=lambda pool: pool["aliases"])

    assert shown == [pool_name(exact.fingerprint), pool_name(other.fingerprint)]
    assert (told["name"], told["aliases"]) == (shown[1], ["kb"])
    assert (told["n_queries"], told["n_shards"], told["replicas"]) == (2, 1, 1)
    assert told["pss_bytes"] > 2**20
    assert other.fingerprint[:16] in table


def _call(*words: object) -> None:
    app([str(word) for word in words], prog_name="ragsearch", standalone_mode=False)


def _plan(index: TinyIndex) -> PoolPlan:
    return PoolPlan(index.folder, index.fingerprint, lease_s=1)


def _pools() -> dict[str, PoolInfo]:
    return {info.name: info for info in list_pools()}


def _pools_of(alias: str) -> PoolInfo:
    (info,) = [info for info in list_pools() if alias in info.aliases]
    return info
