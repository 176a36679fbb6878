"""What the final runs of a search say: who won, by how much, and how sure that is.

In: a record and the test scores of its final runs. Out: a `Comparison`. The winner is chosen by
validation, the mean over seeds: test questions only measure it, so that choosing the best on
them cannot flatter it. Reads files only: no Ray, no torch.
"""

import json
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ragsearch.search.afterwards import BASELINE
from ragsearch.search.record import FinalRun, SearchRecord

if TYPE_CHECKING:  # it loads numpy, which most searches have no need of
    from ragsearch.search.bootstrap import Bootstrap, Interval, Scores

_RANKS = {"recall_at_1": 1, "recall_at_5": 5, "recall_at_10": 10}
_RECIPROCAL_TO = 10


@dataclass(frozen=True, slots=True)
class Finalist:
    """A configuration trained with several seeds."""

    trial: int
    n_seeds: int
    val: float
    """Mean objective over seeds, on the validation questions."""
    test: "Interval"
    """The same on the test questions, with its interval."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The winner's mean on test questions minus another's."""

    against: int
    """Number of the other trial."""
    by: "Interval"
    verdict: str
    """What it comes to, in words."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The final runs of a search, compared."""

    metric: str
    n_questions: int
    seeds: tuple[int, ...]
    """Those that every compared configuration was trained and scored with."""
    finalists: tuple[Finalist, ...]
    """Best on validation first."""
    differences: tuple[Difference, ...]
    """From the baseline and from the runner-up, as far as they are others than the winner."""
    left_out: tuple[str, ...]
    """Runs without scores, and why."""

    @property
    def winner(self) -> int:
        """Number of the trial that won."""
        return self.finalists[0].trial

    def as_dict(self) -> dict[str, object]:
        """Give the comparison as plain data."""
        return {"winner": self.winner, **asdict(self)} | {
            "finalists": [asdict(one) | {"test": one.test._asdict()} for one in self.finalists],
            "differences": [asdict(one) | {"by": one.by._asdict()} for one in self.differences],
        }


def compare(record: SearchRecord) -> Comparison | None:
    """Return what the final runs of a search say; None where none was scored."""
    scored = [run for run in record.final if run.test is not None]
    if not scored:
        return None
    from ragsearch.search.bootstrap import bootstrap

    by_trial: dict[int, dict[int, FinalRun]] = {}
    for run in scored:
        by_trial.setdefault(run.trial, {})[run.seed] = run
    seeds = sorted(set.intersection(*(set(runs) for runs in by_trial.values())))
    if not seeds:
        return None
    metric = record.metric.partition("/")[2]
    rows = {
        trial: [_rows(record, runs[seed]) for seed in seeds] for trial, runs in by_trial.items()
    }
    drawn = bootstrap({trial: _scores(read, metric) for trial, read in rows.items()})
    finalists = sorted(
        (_finalist(record, drawn, trial, [runs[seed] for seed in seeds]))
        for trial, runs in by_trial.items()
    )
    ordered = tuple(one for _, _, one in finalists)
    return Comparison(
        metric=f"test/{metric}",
        n_questions=len(next(iter(rows.values()))[0]),
        seeds=tuple(seeds),
        finalists=ordered,
        differences=tuple(_differences(record, drawn, ordered)),
        left_out=tuple(
            f"trial {run.trial}, seed {run.seed}: {run.status}"
            + (f", {run.reason}" if run.reason else "")
            for run in record.final
            if run.test is None
        ),
    )


def best_run(record: SearchRecord) -> FinalRun | None:
    """Return the winner's run whose seed is best on validation; None where none was scored."""
    comparison = compare(record)
    if comparison is None:
        return None
    runs = [run for run in record.final if run.trial == comparison.winner and run.val]
    return max(runs, key=lambda run: record.sign * (run.val or {})[record.metric])


def _finalist(
    record: SearchRecord, drawn: "Bootstrap", trial: int, runs: list[FinalRun]
) -> tuple[float, int, Finalist]:
    """Return a finalist behind what orders it."""
    val = fmean((run.val or {})[record.metric] for run in runs)
    finalist = Finalist(trial, len(runs), val, drawn.mean(trial))
    return -record.sign * val, trial, finalist


def _differences(
    record: SearchRecord, drawn: "Bootstrap", finalists: tuple[Finalist, ...]
) -> "list[Difference]":
    winner = finalists[0].trial
    names = {BASELINE: "the baseline"} if winner != BASELINE else {}
    if len(finalists) > 1:
        second = finalists[1].trial
        is_baseline = second in names
        names[second] = (
            "the baseline, which is also the runner-up"
            if is_baseline
            else f"the runner-up, trial {second}"
        )
    present = {one.trial for one in finalists}
    return [
        _difference(record, winner, other, name, drawn.difference(winner, other))
        for other, name in names.items()
        if other in present
    ]


def _difference(
    record: SearchRecord, winner: int, other: int, name: str, by: "Interval"
) -> Difference:
    figures = f"{by.value:+.4f}, 95 % interval {by.low:+.4f} to {by.high:+.4f}"
    if by.holds_zero:
        what = "is not distinguishable from"
    else:
        what = "is better than" if record.sign * by.value > 0 else "is worse than"
    return Difference(other, by, f"trial {winner} {what} {name} ({figures})")


def _rows(record: SearchRecord, run: FinalRun) -> list[dict[str, Any]]:  # Any: as JSON has it
    file = record.folder / "test" / f"{run.name}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _scores(seeds: list[list[dict[str, Any]]], metric: str) -> "Scores":
    import numpy as np

    from ragsearch.search.bootstrap import Scores

    sums = [[_score(row, metric) for row in rows] for rows in seeds]
    counts = [[row["n_tokens"] if metric == "nll" else 1.0 for row in rows] for rows in seeds]
    return Scores(np.array(sums, dtype=np.float64), np.array(counts, dtype=np.float64))


def _score(row: dict[str, Any], metric: str) -> float:
    if metric in row:
        return float(row[metric])
    rank, depth = row["rank"], _RANKS.get(metric, _RECIPROCAL_TO)
    if rank is None or rank >= depth:
        return 0.0
    return 1.0 if metric in _RANKS else 1.0 / (rank + 1)
