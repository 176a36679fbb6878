"""TPE with ASHA against random search without stopping, in epochs to the same value.

In: a `SearchersPlan`. Out: a `Row` a problem. Study, searcher and scheduler are those of
`ragsearch run`, asked in the order in which Ray Tune asks them; trials are looked up instead of
trained, so that Ray starts no process and hundreds of searches take minutes.
"""

import heapq
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ragsearch.bench.surrogate import (
    N_EPOCHS,
    Curve,
    branin,
    hartmann6,
    learning,
    tabulated,
)
from ragsearch.bench.sweep_plan import SearchersPlan
from ragsearch.search.cluster import prepare
from ragsearch.search.space import LAST_KEY, TRIAL_KEY
from ragsearch.spec import Spec, load_spec

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

Report = Callable[[str], None]

_LONGEST = 40  # times the epochs of the search that sets the value to be reached
_NOBODY = cast("TuneController", None)  # no scheduler that is used here asks Tune back

_RANDOM = (
    "search.algorithm=random",
    "search.startup_trials=null",
    "search.scheduler.name=none",
)
_OURS = ("search.algorithm=tpe", "search.scheduler.name=asha", "search.scheduler.min=1",
         "search.scheduler.eta=3")  # fmt: skip

_FUNCTIONS: Mapping[str, tuple[Callable[..., float], Sequence[str]]] = {
    "hartmann6": (
        hartmann6,
        (
            "optim.learning_rate: {log: [1.0e-5, 1.0e-2]}",
            "optim.question_encoder_lr_ratio: {log: [0.01, 10.0]}",
            "optim.weight_decay: {uniform: [0.0, 0.1]}",
            "regularisation.dropout: {uniform: [0.0, 0.5]}",
            "regularisation.label_smoothing: {uniform: [0.0, 0.2]}",
            "optim.max_grad_norm: {log: [0.01, 10.0]}",
        ),
    ),
    "branin": (
        branin,
        (
            "optim.learning_rate: {log: [1.0e-5, 1.0e-2]}",
            "optim.question_encoder_lr_ratio: {log: [0.01, 10.0]}",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What a problem took."""

    problem: str
    target: float
    """Median, over the seeds, of the best value of random search with its budget."""
    random_epochs: float
    """Median, over the seeds, of the epochs until random search without stopping is there."""
    tpe_asha_epochs: float
    """The same of TPE with ASHA."""
    n_not_reached: int
    """Searches of TPE with ASHA that had not come there after all epochs they were given."""

    @property
    def share(self) -> float:
        """Epochs of TPE with ASHA for each one of random search."""
        return self.tpe_asha_epochs / self.random_epochs


def measure_searchers(plan: SearchersPlan, report: Report) -> list[Row]:
    """Return what both searches take, problem by problem.

    Raises:
        BadInputError: If the plan asks what cannot be measured.
    """
    plan.check()
    prepare("local")
    rows = []
    with tempfile.TemporaryDirectory(prefix="ragsearch-") as place:
        for name, (space, curve_of) in _problems(plan.space, Path(place)).items():
            bench = _Bench(plan, space, curve_of, Path(place) / name)
            rows.append(bench.row(name))
            report(f"{name}: {rows[-1].share:.2f} of the epochs of random search")
    return rows


def _problems(quickstart: Path, place: Path) -> dict[str, tuple[Path, Callable[[Spec], Curve]]]:
    """Return the space file of each problem, and who makes its curves."""
    problems: dict[str, tuple[Path, Callable[[Spec], Curve]]] = {
        "quickstart": (quickstart, tabulated)
    }
    before, _, rest = quickstart.read_text(encoding="utf-8").partition("\nspace:")
    after = rest[rest.index("\nobjectives:") :]
    for name, (function, domains) in _FUNCTIONS.items():
        space = place / f"{name}.yaml"
        lines = "".join(f"  {domain}\n" for domain in domains)
        space.write_text(f"{before}\nspace:\n{lines}{after}", encoding="utf-8")
        problems[name] = (space, partial(learning, function))
    return problems


@dataclass
class _Bench:
    """Both searches of one problem, with every seed."""

    plan: SearchersPlan
    space: Path
    curve_of: Callable[[Spec], Curve]
    place: Path

    def row(self, name: str) -> Row:
        """Return what they take to the value that random search finds with its budget."""
        seeds = range(self.plan.seed, self.plan.seed + self.plan.seeds)
        budget = self.plan.trials * N_EPOCHS
        at_random = [self._search(_RANDOM, seed, math.inf, budget) for seed in seeds]
        target = statistics.median(search.best for search in at_random)
        longest = _LONGEST * budget
        slow = [self._search(_RANDOM, seed, target, longest).epochs for seed in seeds]
        ours = [self._search(_OURS, seed, target, longest) for seed in seeds]
        return Row(
            name,
            target,
            statistics.median(slow),
            statistics.median(search.epochs for search in ours),
            sum(search.best < target for search in ours),
        )

    def _search(
        self, algorithm: Sequence[str], seed: int, target: float, longest: int
    ) -> "Simulated":
        spec = load_spec(
            self.space,
            [
                *algorithm,
                f"seed={seed}",
                f"budget.trials={longest}",  # of one epoch at least
                f"trial.train.max_epochs={N_EPOCHS}",
            ],
        )
        with tempfile.TemporaryDirectory(dir=self.place.parent) as folder:
            search = Simulated(spec, self.curve_of(spec), Path(folder))
            search.run(self.plan.concurrent, target, longest)
        return search


@dataclass
class SimulatedTrial:
    """What searcher and scheduler read of a trial of Tune."""

    config: dict[str, object]
    curve: Sequence[float]
    epoch: int = 0
    status: str = "RUNNING"

    @property
    def trial_id(self) -> str:
        """Name it."""
        return f"{self.config[TRIAL_KEY]:05d}"

    def next_result(self, metric: str) -> dict[str, object]:
        """Train another epoch."""
        self.epoch += 1
        return {
            "epoch": self.epoch,
            "training_iteration": self.epoch,
            metric: self.curve[self.epoch - 1],
            LAST_KEY: self.epoch == len(self.curve),
        }


@dataclass
class Simulated:
    """A search whose trials are looked up, all epochs taking the same time."""

    spec: Spec
    curve: Curve
    folder: Path
    best: float = -math.inf
    epochs: int = 0
    """Trained so far, by all trials."""
    started: list[SimulatedTrial] = field(default_factory=list)

    def __post_init__(self) -> None:
        from ragsearch.search.budget import Budget
        from ragsearch.search.progress import EndOfSearch
        from ragsearch.search.record import SearchRecord
        from ragsearch.search.scheduler import make_scheduler
        from ragsearch.search.searcher import StudySearcher
        from ragsearch.search.study import SearchStudy

        study, goal = SearchStudy(self.spec, self.folder), self.spec.file.objectives[0]
        record = SearchRecord(self.folder, "simulated", goal.metric, goal.goal, {}, "")
        end = EndOfSearch(Budget(self.spec.file.budget, record))
        self._searcher = StudySearcher(self.spec, study, [], end)
        self._scheduler = make_scheduler(self.spec)
        self._metric = self.spec.file.objectives[0].metric

    def run(self, concurrent: int, target: float, longest: int) -> None:
        """Train until a value is reached, or so many epochs are over.

        Args:
            concurrent: Trials at a time.
            target: The value.
            longest: Epochs at most, of all trials.
        """
        running = [self._start() for _ in range(concurrent)]
        order = [(0, number) for number in range(concurrent)]
        while self.best < target and self.epochs < longest:
            time, place = heapq.heappop(order)
            if not self._goes_on(running[place]):
                running[place] = self._start()
            heapq.heappush(order, (time + 1, place))

    def _start(self) -> SimulatedTrial:
        config = self._searcher.suggest(f"{len(self.started):05d}")
        assert config is not None, "there are as many trials as epochs"
        settings = {path: value for path, value in config.items() if path != TRIAL_KEY}
        trial = SimulatedTrial(config, self.curve(settings))
        self._scheduler.on_trial_add(_NOBODY, cast("Trial", trial))
        self.started.append(trial)
        return trial

    def _goes_on(self, trial: SimulatedTrial) -> bool:
        """Train an epoch, and do what Tune does with its result."""
        result = trial.next_result(self._metric)
        self.epochs += 1
        self.best = max(self.best, trial.curve[trial.epoch - 1])
        known = cast("Trial", trial)
        decision = self._scheduler.on_trial_result(_NOBODY, known, result)
        if decision == self._scheduler.CONTINUE and not result[LAST_KEY]:
            self._searcher.on_trial_result(trial.trial_id, result)
            return True
        self._scheduler.on_trial_complete(_NOBODY, known, result)
        self._searcher.on_trial_complete(trial.trial_id, result)
        trial.status = "TERMINATED"
        return False
