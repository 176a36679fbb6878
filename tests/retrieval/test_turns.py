"""Which pools fit into memory together, decided without a cluster: probes in, turns out."""

from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.retrieval.memory import first_fit
from ragsearch.retrieval.placement import Layout, Memory, NodeProbe, PoolPlan, Slot, Spot
from ragsearch.retrieval.turns import WantedPool, divide, turns_of

GB = 10**9


def wanted(
    name: str,
    size: int,
    *free: int,
    memory: Memory = "in_memory",
    replicas: int = 1,
    running: tuple[str, ...] = (),
    stays: bool = False,
) -> WantedPool:
    """Return a pool of an index of so many GB; node 0 has the first number of GB free, ..."""
    nodes = [
        NodeProbe(str(n), f"host-{n}", 1, {0: size * GB}, gb * GB, n == 0)
        for n, gb in enumerate(free)
    ]
    plan = PoolPlan(Path(name), name, Layout(replicas, memory=memory))
    there = [Spot(Slot(0, n), node) for n, node in enumerate(running)]
    return WantedPool(plan, nodes, there, stays)


def test_pools_that_fit_together_are_served_together():
    found = turns_of({"a": wanted("a", 10, 30), "b": wanted("b", 20, 30)})

    assert found == ((("a", "b"),), {"a": 10 * GB, "b": 20 * GB}, 30 * GB)


def test_each_pool_goes_to_the_first_turn_that_has_room():
    sizes = {"a": 20, "b": 15, "c": 10, "d": 15}

    found = turns_of({name: wanted(name, size, 30) for name, size in sizes.items()})

    assert found.turns == (("a", "c"), ("b", "d"))


def test_what_mapped_replicas_share_is_counted_once_and_copies_each():
    copies = {name: wanted(name, 5, 19, replicas=2) for name in "ab"}
    mapped = {name: wanted(name, 5, 19, replicas=2, memory="mapped") for name in "ab"}

    assert turns_of(copies).turns == (("a",), ("b",))
    assert turns_of(mapped).turns == (("a", "b"),)


def test_a_pool_goes_beside_another_where_a_second_node_has_room():
    one, other = wanted("a", 10, 12, 12), wanted("b", 10, 12, 12)

    assert turns_of({"a": one, "b": other}).turns == (("a", "b"),)
    assert turns_of({"a": one, "b": other, "c": wanted("c", 10, 12, 12)}).turns == (
        ("a", "b"),
        ("c",),
    )


def test_two_names_of_one_index_take_its_memory_once():
    assert turns_of({"a": wanted("a", 20, 30), "b": wanted("a", 20, 30)}).turns == (("a", "b"),)


def test_a_pool_that_runs_is_counted_as_what_it_will_give_back():
    running = {"a": wanted("a", 20, 5, running=("0",)), "b": wanted("b", 20, 5)}

    assert turns_of(running) == ((("a",), ("b",)), {"a": 20 * GB, "b": 20 * GB}, 25 * GB)


def test_a_detached_pool_that_runs_takes_nothing_more_and_gives_nothing_back():
    detached = wanted("a", 20, 5, running=("0",), stays=True)

    assert turns_of({"a": detached, "b": wanted("b", 5, 5)}).turns == (("a", "b"),)
    with pytest.raises(BadInputError, match="1 x 20 GB of index on node host-0, where 5 GB"):
        turns_of({"a": detached, "b": wanted("b", 20, 5)})


def test_one_that_does_not_fit_alone_is_refused_and_mapped_has_a_turn_of_its_own():
    with pytest.raises(BadInputError, match="1 x 40 GB of index on node host-0, where 30 GB"):
        turns_of({"a": wanted("a", 10, 30), "b": wanted("b", 40, 30)})
    mapped = {"a": wanted("a", 40, 30, memory="mapped"), "b": wanted("b", 1, 30)}
    assert turns_of(mapped).turns == (("a",), ("b",))


def test_where_there_is_one_pool_no_node_is_asked():
    plan = PoolPlan(Path("a"), "a")

    assert divide({"a": plan}, prober=lambda *_: pytest.fail("asked")).turns == (("a",),)
    assert divide({}).turns == ((),)


def test_parts_are_in_the_order_of_their_first_names():
    assert first_fit("abcd", lambda names: len(names) <= 3) == (("a", "b", "c"), ("d",))
    assert first_fit("ab", lambda _: False) == (("a",), ("b",))
    assert first_fit("", lambda _: True) == ()
