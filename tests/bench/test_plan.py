"""What the bench refuses before it measures."""

from dataclasses import replace

import pytest

from ragsearch.bench.plan import Kind, Plan, kind_of
from ragsearch.errors import BadInputError
from ragsearch.index.manifest import read_manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_passages": 3}, "--passages: 3 is not between 10 and"),
        ({"dimension": 1}, "--dimension: 1 is not between 2 and"),
        ({"steps": 0}, "--steps: 0 is not between 1 and"),
        ({"clients": (0, 4)}, "--clients: 0 is not between 1 and 64"),
        ({"replicas": 0}, "--replicas: 0 is not between 1 and 64"),
        ({"threads": 0}, "--threads: 0 is not between 1 and"),
        ({"n_passages": 10**9}, "GB on disk, .* are free; choose fewer --passages or another"),
        ({"n_passages": 10**9}, "GB in memory, .* are available; choose fewer --passages"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(BadInputError, match=message):
        replace(Plan(n_passages=1000), **changes).check()


def test_all_mistakes_are_told_at_once():
    with pytest.raises(BadInputError) as refused:
        Plan(n_passages=1000, steps=0, clients=(0, 99)).check()

    assert len(refused.value.mistakes) == 3


def test_no_call_repeats_a_query():
    plan = Plan(clients=(1, 4), steps=5)

    assert plan.n_steps == 2 * (1 + 3 + 5)
    assert [plan.first_step(n_clients) for n_clients in plan.clients] == [0, 9]


def test_a_plan_over_an_index_takes_its_measures(exact, other):
    plan = Plan().over_index(other.folder)

    assert (plan.kinds, plan.n_passages, plan.dimension) == ((Kind.HNSW,), 40, 32)
    assert Plan().over_index(exact.folder).kinds == (Kind.EXACT,)


def test_an_index_of_another_kind_is_refused(exact):
    manifest = replace(read_manifest(exact.folder), faiss="IVF4,Flat")

    with pytest.raises(BadInputError, match="--index: is of kind 'IVF4,Flat'; the bench comp"):
        kind_of(manifest, exact.folder)
