"""What a run of the sweep bench may be asked for."""

import pytest

from ragsearch.bench import sweep_plan
from ragsearch.bench.sweep_plan import BookkeepingPlan, SearchersPlan, SweepPlan
from ragsearch.errors import BadInputError
from tests.bench.quickstart import QUICKSTART


def test_plans_as_they_are_by_default_can_be_measured(monkeypatch):
    monkeypatch.setattr(sweep_plan, "available_bytes", lambda: 10**11)

    SweepPlan(QUICKSTART).check()
    BookkeepingPlan(QUICKSTART).check()
    SearchersPlan(QUICKSTART).check()


def test_all_that_is_out_of_range_is_told_at_once(monkeypatch):
    monkeypatch.setattr(sweep_plan, "available_bytes", lambda: 3 * 10**9)
    plan = SweepPlan(QUICKSTART, trials=0, epochs=101, n_val=201, concurrent=(1, 4))

    with pytest.raises(BadInputError) as refused:
        plan.check()

    assert [str(mistake) for mistake in refused.value.mistakes] == [
        "--trials: 0 is not between 1 and 1000",
        "--epochs: 101 is not between 1 and 100",
        "--n-val: 201 is not between 1 and 200",
        "--concurrent: 4 trials take 4 GB, 3.0 are available; choose fewer, and at least 1",
    ]


def test_workers_that_memory_does_not_hold_are_refused(monkeypatch):
    monkeypatch.setattr(sweep_plan, "available_bytes", lambda: 10**9)

    with pytest.raises(
        BadInputError, match=r"--concurrent: takes 1\.6 GB for 16 workers, 1\.0"
    ):
        BookkeepingPlan(QUICKSTART).check()


def test_searchers_without_a_seed_are_refused():
    with pytest.raises(BadInputError, match="--seeds: 0 is not between 1 and 1000"):
        SearchersPlan(QUICKSTART, seeds=0).check()
