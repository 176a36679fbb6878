"""The Pareto front of a search with several objectives, and the trial of it that is chosen.

Reads the record alone. A trial is measured by its best epoch, the one its model is from.
"""

import math

from ragsearch.search.record import Objective, SearchRecord, Status, TrialRecord


def front(record: SearchRecord) -> list[TrialRecord]:
    """Return the finished trials that no other one is better than, best first.

    One trial is better than another that is as good by each objective and better by one. Those
    that were stopped early are left out: they might have come further.
    """
    finished = [
        (values, trial)
        for trial in record.ranked()
        if trial.status is Status.FINISHED and (values := losses(record, trial)) is not None
    ]
    return [
        trial
        for values, trial in finished
        if not any(_is_better(others, values) for others, _ in finished)
    ]


def chosen(record: SearchRecord) -> TrialRecord | None:
    """Return the trial to export, None where no trial can be.

    By one objective the best trial. By several the one of the front that is best by
    `choose.then`, among those whose first objective is at most `choose.within` worse than the
    best on the front; where no trial has finished, the best by the first objective.
    """
    candidates = front(record) if len(record.objectives) > 1 else []
    if not candidates:
        return next(iter(record.ranked()), None)
    rows = [(losses(record, trial) or (), trial) for trial in candidates]
    limit = min(values[0] for values, _ in rows) + record.choose.within
    metrics = [objective.metric for objective in record.objectives]
    then = metrics.index(record.choose.then or metrics[1])
    # a hair wider: 0.50 - 0.49 is not 0.01
    near = [(v, t) for v, t in rows if v[0] <= limit or math.isclose(v[0], limit)]
    return min(near, key=lambda row: (row[0][then], row[0][0], row[1].trial))[1]


def losses(record: SearchRecord, trial: TrialRecord) -> tuple[float, ...] | None:
    """Return a trial's objectives, each the smaller the better; None where one is missing."""
    epoch = record.metrics_of(trial) or {}
    values = tuple(_loss(objective, epoch) for objective in record.objectives)
    return None if any(map(math.isnan, values)) else values


def _loss(objective: Objective, epoch: dict[str, float]) -> float:
    value = epoch.get(objective.metric, math.nan)
    return value if objective.goal == "min" else -value


def _is_better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
