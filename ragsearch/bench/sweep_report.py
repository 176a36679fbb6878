"""What the bench of sweeps found, for people and for scripts.

In: rows of its three parts. Out: cells of a table, or plain data.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ragsearch.bench.sweep_plan import Design, SweepPlan

if TYPE_CHECKING:
    from ragsearch.bench.bookkeeping import Bookkeeping
    from ragsearch.bench.searchers import Row as SearcherRow
    from ragsearch.bench.sweep import Row

MILESTONE_COLUMNS = ("trials", "ms a decision, p95", "driver's peak MB")
SEARCHER_COLUMNS = (
    "problem",
    "value to reach",
    "epochs, random",
    "epochs, tpe and asha",
    "share",
    "not reached",
)


def design_columns(plan: SweepPlan) -> tuple[str, ...]:
    """Return the heads of the table of designs."""
    memory = tuple(f"MB at {n}" for n in plan.concurrent)
    times = ("s to what all reach", "x ragsearch", "s to the best", "x ragsearch to it")
    return ("design", "best val/em", *times, "trials/h", *memory)


def design_table(rows: Sequence["Row"]) -> list[tuple[object, ...]]:
    """Return the cells under `design_columns`."""
    (ours,) = [row for row in rows if row.design is Design.RAGSEARCH]
    return [
        (
            row.design,
            round(row.best_em, 4),
            round(row.target_s, 1),
            round(row.target_s / ours.target_s, 2),
            *_to_the_best(row, ours),
            round(row.trials_per_hour, 1),
            *(round(n_bytes / 1e6) for n_bytes in row.pss_bytes.values()),
        )
        for row in rows
    ]


def _to_the_best(row: "Row", ours: "Row") -> tuple[object, object]:
    """Return the seconds until a design had the best of all, and how many times ours.

    Both are as long as it ran, at least, where it never had it.
    """
    mark = "" if row.best_s is not None else "> "
    taken_s = row.wall_s if row.best_s is None else row.best_s
    if ours.best_s is None:
        return f"{mark}{taken_s:.1f}", ""
    return f"{mark}{taken_s:.1f}", f"{mark}{taken_s / ours.best_s:.2f}"


def design_dict(row: "Row") -> dict[str, object]:
    """Return a design as a script may read it."""
    return asdict(row)


def milestone_table(found: "Bookkeeping") -> list[tuple[object, ...]]:
    """Return the cells under `MILESTONE_COLUMNS`."""
    return [
        (one.trials, round(one.decision_ms_p95, 1), round(one.driver_peak_bytes / 1e6))
        for one in found.milestones
    ]


def overhead(found: "Bookkeeping") -> str:
    """Return what the bookkeeping added to the ideal, in a line."""
    share = found.wall_s / found.ideal_s - 1
    return (
        f"{found.trials} trials took {found.wall_s:.1f} s, {100 * share:.0f} % more than the "
        f"ideal of {found.ideal_s:.1f} s; the driver computed {found.cpu_s:.1f} s"
    )


def searcher_table(rows: Sequence["SearcherRow"]) -> list[tuple[object, ...]]:
    """Return the cells under `SEARCHER_COLUMNS`."""
    return [
        (
            row.problem,
            round(row.target, 4),
            row.random_epochs,
            row.tpe_asha_epochs,
            round(row.share, 3),
            row.n_not_reached,
        )
        for row in rows
    ]


def searcher_dict(row: "SearcherRow") -> dict[str, object]:
    """Return a problem as a script may read it."""
    return asdict(row) | {"share": row.share}
