"""The tables of the bench of sweeps."""

from ragsearch.bench.bookkeeping import Bookkeeping, Milestone
from ragsearch.bench.searchers import Row as SearcherRow
from ragsearch.bench.sweep import Row
from ragsearch.bench.sweep_plan import Design, SweepPlan
from ragsearch.bench.sweep_report import (
    design_columns,
    design_table,
    milestone_table,
    overhead,
    searcher_table,
)
from tests.bench.quickstart import QUICKSTART


def test_designs_are_compared_with_ragsearch():
    memory = {1: 10**9, 2: 2 * 10**9}
    rows = [
        Row(design, 0.8, 900.0, target_s, best_s, 30.0, memory)
        for design, target_s, best_s in zip(
            Design, (300.0, 150.0, 50.0), (None, 240.0, 60.0), strict=True
        )
    ]

    table = [
        dict(zip(design_columns(SweepPlan(QUICKSTART, concurrent=(1, 2))), row, strict=True))
        for row in design_table(rows)
    ]

    assert [(row["design"], row["x ragsearch"]) for row in table] == [
        ("loop", 6.0), ("ray_mlflow", 3.0), ("ragsearch", 1.0),
    ]  # fmt: skip
    assert [(row["s to the best"], row["x ragsearch to it"]) for row in table] == [
        ("> 900.0", "> 15.00"), ("240.0", "4.00"), ("60.0", "1.00"),
    ]  # fmt: skip
    assert (table[0]["MB at 1"], table[0]["MB at 2"]) == (1000, 2000)


def test_where_ragsearch_has_not_the_best_nothing_is_compared_with_it():
    rows = [
        Row(design, 0.8, 900.0, 50.0, best_s, 30.0, {1: 10**9})
        for design, best_s in zip(Design, (300.0, 150.0, None), strict=True)
    ]

    columns = design_columns(SweepPlan(QUICKSTART, concurrent=(1,)))
    place = columns.index("s to the best")

    assert [row[place : place + 2] for row in design_table(rows)] == [
        ("300.0", ""), ("150.0", ""), ("> 900.0", ""),
    ]  # fmt: skip


def test_bookkeeping_is_told_against_the_ideal():
    milestones = (Milestone(100, 4.04, 700_000_000), Milestone(160, 6.0, 710_000_000))
    found = Bookkeeping(160, 12.0, 10.0, 8.0, milestones)

    assert milestone_table(found) == [(100, 4.0, 700), (160, 6.0, 710)]
    assert overhead(found) == (
        "160 trials took 12.0 s, 20 % more than the ideal of 10.0 s; the driver computed 8.0 s"
    )
    assert found.as_dict() == {
        "trials": 160,
        "wall_s": 12.0,
        "ideal_s": 10.0,
        "driver_peak_bytes": 710_000_000,
        "decision_ms_p95": 6.0,
    }


def test_searchers_are_told_by_the_share_of_epochs():
    row = SearcherRow("branin", 0.9, 90.0, 30.0, 0)

    assert searcher_table([row]) == [("branin", 0.9, 90.0, 30.0, 0.333, 0)]
