"""What the bench of training refuses before it measures."""

from dataclasses import replace

import pytest

from ragsearch.bench import train_plan
from ragsearch.bench.train_plan import Size, TrainPlan
from ragsearch.errors import BadInputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps: 0 is not between 1 and"),
        ({"batch": 0}, "--batch: 0 is not between 1 and 1024"),
        ({"n_docs": 51}, "--n-docs: 51 is not between 1 and 50"),
        ({"n_passages": 99}, "--passages: 99 is not between 100 and"),
        ({"prefetch": 2}, "--prefetch: 2 is not between 0 and 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(BadInputError, match=message):
        replace(TrainPlan(sizes=(Size.TINY,)), **changes).check()


def test_what_is_compiled_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    TrainPlan(sizes=(Size.TINY,)).check()
    with pytest.raises(BadInputError, match=r"--compile: needs a C\+\+ compiler"):
        TrainPlan(sizes=(Size.TINY,), compile=True).check()


def test_all_mistakes_are_told_at_once():
    with pytest.raises(BadInputError) as refused:
        TrainPlan(sizes=(Size.TINY,), steps=0, batch=0, prefetch=2).check()

    assert len(refused.value.mistakes) == 3


def test_a_model_that_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(train_plan, "available_bytes", lambda: 2_000_000_000)

    TrainPlan(sizes=(Size.TINY,)).check()
    with pytest.raises(
        BadInputError, match=r"--model: base takes .* GB, 2\.0 are available; me"
    ):
        TrainPlan().check()


def test_a_plan_says_how_much_or_leaves_it_to_the_model():
    assert TrainPlan(batch=3, steps=7).batch_of(Size.BASE) == 3
    assert TrainPlan(batch=3, steps=7).steps_of(Size.BASE) == 7
    assert TrainPlan().batch_of(Size.TINY) > TrainPlan().batch_of(Size.BASE)
    assert TrainPlan().steps_of(Size.TINY) > TrainPlan().steps_of(Size.BASE)
