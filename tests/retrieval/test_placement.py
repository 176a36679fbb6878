"""Where replicas go, decided without a cluster: probes in, spots out."""

import logging
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.retrieval.placement import (
    Layout,
    NodeProbe,
    Slot,
    Spot,
    check_memory,
    missing_spots,
    probe,
)

GB = 10**9


def node(name: str, *, shards: int = 1, free: int = 100, size: int = 10) -> NodeProbe:
    """Return a node that has every shard, sizes in GB; node `a` is where the driver is."""
    sizes = dict.fromkeys(range(shards), size * GB)
    return NodeProbe(name, f"host-{name}", shards, sizes, free * GB, name == "a")


def without_files(name: str) -> NodeProbe:
    return replace(node(name), n_shards=0, shard_bytes={})


def test_replicas_in_total_begin_with_the_drivers_node_and_spread():
    nodes = [node("a"), node("b"), without_files("c")]

    spots = missing_spots(Layout(replicas=3), 1, nodes, [])

    assert spots == [Spot(Slot(0, 0), "a"), Spot(Slot(0, 1), "b"), Spot(Slot(0, 2), "a")]


def test_replicas_per_node_go_to_every_node_that_has_the_files():
    nodes = [node("a"), without_files("b"), node("c")]

    spots = missing_spots(Layout(replicas=9, per_node=2), 1, nodes, [])

    assert spots == [
        Spot(Slot(0, 0), "a"),
        Spot(Slot(0, 1), "a"),
        Spot(Slot(0, 2), "c"),
        Spot(Slot(0, 3), "c"),
    ]


def test_only_what_is_missing_is_placed_under_free_numbers():
    nodes, there = [node("a"), node("b")], [Spot(Slot(0, 0), "a"), Spot(Slot(0, 2), "a")]

    assert missing_spots(Layout(replicas=2), 1, nodes, there) == []
    assert missing_spots(Layout(replicas=3), 1, nodes, there) == [Spot(Slot(0, 1), "b")]
    assert missing_spots(Layout(per_node=1), 1, nodes, there) == [Spot(Slot(0, 1), "b")]


def test_shards_spread_over_nodes_by_free_memory():
    nodes = [node("a", shards=4, free=35), node("b", shards=4, free=15)]

    spots = missing_spots(Layout(), 4, nodes, [])

    assert Counter(spot.node for spot in spots) == {"a": 3, "b": 1}
    assert [tuple(spot.slot) for spot in spots] == [(n, 0) for n in range(4)]


def test_replicas_of_one_shard_go_to_different_nodes():
    nodes = [node("a", shards=2), node("b", shards=2)]

    spots = missing_spots(Layout(replicas=2), 2, nodes, [])

    assert sorted((spot.slot.shard, spot.node) for spot in spots) == [
        (0, "a"), (0, "b"), (1, "a"), (1, "b"),
    ]  # fmt: skip


def test_a_node_with_some_of_the_files_gets_some_of_the_shards():
    half = replace(node("b", shards=2), shard_bytes={1: GB})

    spots = missing_spots(Layout(per_node=1), 2, [node("a", shards=2), half], [])

    assert spots == [Spot(Slot(0, 0), "a"), Spot(Slot(1, 0), "a"), Spot(Slot(1, 1), "b")]


@pytest.mark.parametrize("layout", [Layout(), Layout(per_node=1)])
def test_an_index_that_no_node_has_is_one_clear_error(layout):
    half = replace(node("b", shards=2), shard_bytes={1: GB})

    with pytest.raises(BadInputError, match="no node of the cluster has its index; copy the"):
        missing_spots(layout, 1, [without_files("a")], [])
    with pytest.raises(BadInputError, match="has shard 0 of 2 of its index; copy the index"):
        missing_spots(layout, 2, [without_files("a"), half], [])


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 4),
    st.builds(
        Layout,
        replicas=st.integers(1, 4),
        per_node=st.none() | st.integers(1, 3),
        memory=st.sampled_from(["mapped", "in_memory"]),
    ),
)
def test_once_placed_nothing_is_missing_and_no_name_is_twice(rooms, shards, layout):
    nodes = [node("a", shards=shards)]
    for number, (free, has_files) in enumerate(rooms):
        name = f"n{number}"
        nodes.append(node(name, shards=shards, free=free) if has_files else without_files(name))

    spots = missing_spots(layout, shards, nodes, [])

    assert missing_spots(layout, shards, nodes, spots) == []
    assert len({spot.slot for spot in spots}) == len(spots)
    counts = Counter(spot.slot.shard for spot in spots)
    able = sum(bool(each.shard_bytes) for each in nodes)
    wanted = layout.replicas if layout.per_node is None else layout.per_node * able
    assert counts == dict.fromkeys(range(shards), wanted)


def test_copies_that_do_not_fit_are_refused_with_the_remedies():
    layout, nodes = Layout(replicas=3, memory="in_memory"), [node("a", free=25, size=10)]

    message = (
        "pool.memory: 3 x 10 GB of index on node host-a, where 25 GB are free; divide the "
        "index into shards, choose a smaller factory such as SQ8, ask for fewer replicas, or "
        "set it to mapped"
    )
    with pytest.raises(BadInputError, match=message):
        check_memory(layout, nodes, missing_spots(layout, 1, nodes, []))


def test_copies_that_fit_are_let_pass(caplog):
    layout, nodes = Layout(replicas=2, memory="in_memory"), [node("a", free=25, size=10)]

    check_memory(layout, nodes, missing_spots(layout, 1, nodes, []))

    assert caplog.text == ""


def test_copies_already_there_are_not_counted_twice():
    layout, nodes = Layout(replicas=3, memory="in_memory"), [node("a", free=15, size=10)]

    check_memory(layout, nodes, missing_spots(layout, 1, nodes, [Spot(Slot(0, 0), "a")] * 2))


def test_a_mapped_index_larger_than_memory_is_a_warning(caplog):
    layout, nodes = Layout(replicas=3), [node("a", free=5, size=10)]

    with caplog.at_level(logging.WARNING):
        check_memory(layout, nodes, missing_spots(layout, 1, nodes, []))

    assert "the index on node host-a has 10 GB and 5 GB are free there" in caplog.text
    assert "searches will read from disk" in caplog.text


def test_the_replicas_of_a_node_share_what_they_map(caplog):
    layout, nodes = Layout(replicas=3), [node("a", free=15, size=10)]

    check_memory(layout, nodes, missing_spots(layout, 1, nodes, []))

    assert caplog.text == ""


def test_a_probe_tells_which_shards_are_there_and_how_large(exact, other, tmp_path):
    found = probe(exact.folder, exact.fingerprint, "a", is_here=True)

    assert (found.n_shards, found.is_here) == (1, True)
    assert found.shard_bytes == {0: (exact.folder / "index.faiss").stat().st_size}
    assert found.available_bytes > 0
    assert probe(exact.folder, other.fingerprint, "a").shard_bytes == {}
    assert probe(tmp_path, exact.fingerprint, "a").shard_bytes == {}
