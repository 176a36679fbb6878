"""The bench of sweeps: three ways to search the quickstart's space, in one run.

In: a `SweepPlan`. Out: a `Row` a design. The index is there beforehand, for all of them.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

import optuna

from ragsearch.bench.indexes import taken
from ragsearch.bench.sweep_designs import Job, Scored, Scorer, Settings, started
from ragsearch.bench.sweep_plan import Design, SweepPlan
from ragsearch.retrieval.memory import pss_bytes
from ragsearch.search.run import build_indexes
from ragsearch.search.samplers import make_sampler
from ragsearch.search.space import Proposal
from ragsearch.spec import load_spec

Report = Callable[[str], None]

_SAMPLE_S = 0.5
_SHORT = ("data.n_train=32", "data.n_val=32", "trial.train.max_epochs=1")
"""What trials do whose memory is measured: as large batches as any, but few."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a sweep in one design came to."""

    design: Design
    best_em: float
    """Best `val/em` after any epoch."""
    wall_s: float
    """From its start until it had ended."""
    target_s: float
    """From its start until a trial had the target: the best that all designs came to."""
    best_s: float | None
    """The same for the best that any design came to; None if this one did not."""
    trials_per_hour: float
    pss_bytes: Mapping[int, int]
    """Most memory of all its processes, by trials at a time."""


def measure(plan: SweepPlan, report: Report) -> list[Row]:
    """Return what every design came to.

    Raises:
        BadInputError: If the plan asks what cannot be measured here.
        BenchError: If a design fails.
        ClusterUnavailableError: If Ray cannot be started.
    """
    plan.check()
    with tempfile.TemporaryDirectory(prefix="ragsearch-") as place:
        job = _job(plan, Path(place))
        scorer, found, walls = Scorer(job), {}, {}
        for design in Design:
            report(f"{design}: {plan.trials} trials of {plan.epochs} epochs at most")
            mine = replace(
                job,
                place=Path(place) / design,
                concurrent=1 if design is Design.LOOP else plan.cores,
            )
            start = time.perf_counter()
            started_s = started(design, mine)
            walls[design] = time.perf_counter() - start
            found[design] = scorer.scored(design, mine, started_s)
        memory = {design: dict(_memory(plan, job, design, report)) for design in Design}
    bests = [_best(scored) for scored in found.values()]
    return [
        Row(
            design,
            _best(found[design]),
            walls[design],
            next(_times_of(min(bests), found[design])),
            next(_times_of(max(bests), found[design]), None),
            3600 * plan.trials / walls[design],
            memory[design],
        )
        for design in Design
    ]


def _job(plan: SweepPlan, place: Path) -> Job:
    overrides = (
        f"seed={plan.seed}",
        f"trial.train.max_epochs={plan.epochs}",
        f"data.n_train={plan.n_train}",
        f"data.n_val={plan.n_val}",
    )
    spec = load_spec(plan.space, overrides)
    (index,) = build_indexes(spec, place).values()
    return Job(
        plan.space,
        overrides,
        taken(index.folder, place),
        drawn(plan, overrides),
        concurrent=1,
        cores=plan.cores,
        root=place,
        place=place,
    )


def drawn(plan: SweepPlan, overrides: Sequence[str]) -> list[Settings]:
    """Return the baseline and what random search draws after it, as `ragsearch` would."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    at_random = ["search.algorithm=random", "search.startup_trials=null"]
    spec = load_spec(plan.space, [*overrides, *at_random])
    propose, study = Proposal(spec), optuna.create_study()
    for point in propose.first_points():
        study.enqueue_trial(point)
    settings: list[Settings] = []
    for number in range(plan.trials):
        study.sampler = make_sampler(spec, number)
        settings.append(propose(study.ask()))
    return settings


def _times_of(target: float, scored: Sequence[Scored]) -> Iterator[float]:
    """Yield when trials had a value, in seconds since their design was started."""
    return (one.at_s for one in scored if one.em >= target)


def _best(scored: Sequence[Scored]) -> float:
    return max(one.em for one in scored)


def _memory(
    plan: SweepPlan, job: Job, design: Design, report: Report
) -> Iterator[tuple[int, int]]:
    """Yield numbers of trials at a time, and the most memory with so many."""
    for n in plan.concurrent:
        place = job.place / f"{design}-{n}"
        short = replace(
            job,
            overrides=(*job.overrides, *_SHORT),
            settings=drawn(replace(plan, trials=n), job.overrides),
            concurrent=n,
            place=place,
        )
        with _watched() as watched:
            started(design, short)
        report(f"{design}: {watched[0] / 1e6:.0f} MB with {n} at a time")
        yield n, watched[0]


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Measure this process' descendants again and again while the block lasts.

    Yields:
        The most that they ever had.
    """
    most, over = [0], Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            most[0] = max(most[0], pss_bytes(descendants(os.getpid())))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, those that they started, and so on."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                int(folder.name)
            )
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
