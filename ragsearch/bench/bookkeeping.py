"""What a search costs beside its trials: many that sleep, under all that runs real ones.

In: a `BookkeepingPlan`. Out: a `Bookkeeping`. Searcher, scheduler, record, MLflow on SQLite and
Ray Tune are those of `ragsearch run`; only what a trial does in its worker is another. So that
all take their second, none gives the scheduler a reason to stop it: what they report at rungs
is equal.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragsearch.bench.processes import BenchError
from ragsearch.bench.sleeping import N_REPORTS, TRIAL_S, sleep_through
from ragsearch.bench.sweep_plan import BookkeepingPlan
from ragsearch.search.cluster import cluster
from ragsearch.search.record import Status
from ragsearch.search.run import open_record
from ragsearch.spec import Spec, load_spec

if TYPE_CHECKING:
    from ray.tune.search import Searcher

Report = Callable[[str], None]

_ON_THE_WAY = (100, 1_000, 10_000)  # trials after which it is looked at, beside the end
_LATEST = 0.1  # share of the proposals before a number of trials that tell what one takes there


@dataclass(frozen=True, slots=True)
class Milestone:
    """What a proposal took, and the driver had, at a number of trials."""

    trials: int
    decision_ms_p95: float
    """95th percentile over the last tenth of the proposals before."""
    driver_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """What a search of sleeping trials took."""

    trials: int
    wall_s: float
    """From the first proposal until MLflow had all; workers start meanwhile."""
    ideal_s: float
    """What the trials sleep, divided by how many do at a time."""
    cpu_s: float
    """What this process computed meanwhile."""
    milestones: tuple[Milestone, ...]
    """At 100, 1,000 and 10,000 trials where there are as many, and at the end."""

    def as_dict(self) -> dict[str, float]:
        """Give what a script may read."""
        last = self.milestones[-1]
        return {
            "trials": self.trials,
            "wall_s": self.wall_s,
            "ideal_s": self.ideal_s,
            "driver_peak_bytes": last.driver_peak_bytes,
            "decision_ms_p95": last.decision_ms_p95,
        }


def measure_bookkeeping(plan: BookkeepingPlan, report: Report) -> Bookkeeping:
    """Run the sleeping trials.

    Returns:
        What that took.

    Raises:
        BadInputError: If the plan asks what cannot be measured here.
        BenchError: If a trial failed.
        ClusterUnavailableError: If Ray cannot be started.
    """
    plan.check()
    with (
        tempfile.TemporaryDirectory(prefix="ragsearch-") as place,
        cluster("local", num_cpus=plan.concurrent, num_gpus=0),
    ):
        report(f"{plan.trials} trials of {TRIAL_S:g} s, {plan.concurrent} at a time")
        return _measured(plan, sleeping_space(plan, Path(place)), Path(place))


def sleeping_space(plan: BookkeepingPlan, place: Path) -> Spec:
    """Return the quickstart as the search of sleeping trials that are asked for."""
    return load_spec(
        plan.space,
        [
            f"budget.trials={plan.trials}",
            f"tracking.uri=sqlite:///{place / 'mlflow.db'}",
            "resources.cluster=auto",
            f"resources.max_concurrent={plan.concurrent}",
            "trial.retrieval.backend=in_process",
            f"trial.train.max_epochs={N_REPORTS}",
        ],
    )


def _measured(plan: BookkeepingPlan, spec: Spec, place: Path) -> Bookkeeping:
    from ragsearch.search.launch import Parts, run_trials

    record, watch = open_record(spec, {}, place), _Stopwatch()
    run_trials(spec, record, {}, place, parts=Parts(sleep_through, watch.on))
    wall_s = time.perf_counter() - watch.started[0]
    cpu_s = time.process_time() - watch.cpu_s
    n_done = sum(trial.status is Status.FINISHED for trial in record.trials.values())
    if n_done != plan.trials:
        reasons = {trial.reason for trial in record.trials.values() if trial.reason}
        raise BenchError(f"{plan.trials - n_done} sleeping trials did not finish: {reasons}")
    ideal_s = plan.trials * TRIAL_S / plan.concurrent
    return Bookkeeping(plan.trials, wall_s, ideal_s, cpu_s, watch.milestones())


@dataclass
class _Stopwatch:
    """Takes the time of every proposal of a searcher."""

    cpu_s: float = 0.0
    started: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peaks: dict[int, int] = field(default_factory=dict)

    def on(self, searcher: "Searcher") -> None:
        """Watch a searcher."""
        suggest, self.cpu_s = searcher.suggest, time.process_time()

        def timed(trial_id: str) -> Any:  # noqa: ANN401 - what the searcher returns
            self.started.append(time.perf_counter())
            proposal = suggest(trial_id)
            if isinstance(proposal, dict):
                self.seconds.append(time.perf_counter() - self.started[-1])
                if len(self.seconds) in _ON_THE_WAY:
                    self.peaks[len(self.seconds)] = _peak_bytes()
            return proposal

        vars(searcher)["suggest"] = timed

    def milestones(self) -> tuple[Milestone, ...]:
        """Return what proposals took on the way."""
        self.peaks[len(self.seconds)] = _peak_bytes()
        on_the_way = [n for n in _ON_THE_WAY if n < len(self.seconds)]
        return tuple(map(self._milestone, [*on_the_way, len(self.seconds)]))

    def _milestone(self, n: int) -> Milestone:
        latest = self.seconds[n - max(1, int(n * _LATEST)) : n]
        return Milestone(n, 1000 * float(np.percentile(latest, 95)), self.peaks[n])


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
