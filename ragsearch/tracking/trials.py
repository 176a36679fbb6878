"""The Tune callback that keeps one MLflow run a trial.

In: what Tune says of trials, in the driver. Out: child runs under the search's parent run.
Cost is per call and nearly independent of a call's size (3-20 ms each on SQLite, up to 100 on a
busy machine), so metrics are gathered and written in batches, by a process of its own for which
a thread waits: Tune's loop, which all trials wait for, waits for none of it. Nothing that goes
wrong in MLflow reaches Tune.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from numbers import Real
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from mlflow import MlflowClient
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from typing_extensions import override

from ragsearch.tracking.child import STATUS_TAG, TRIAL_TAG, Child, Parent, children_of
from ragsearch.tracking.writer import TROUBLE, Writer
from ragsearch.training.trace import TRACE_FILE

log = logging.getLogger(__name__)

TRIAL_KEY = "trial"

_BATCH = 100  # metrics of a trial that are worth a call
_PATIENCE_S = 5.0  # how long a metric waits at most, and a failed call until it is repeated
_LAST_TRIES = 3
_LOOK_S = 1.0  # how often it is looked for what has waited long enough
_MOST_WAITING = 256  # jobs for the thread, beyond which Tune waits for it

Resolve = Callable[[Mapping[str, object]], Mapping[str, object]]
"""From a trial's Tune config to the whole configuration under dotted names."""


class Known(NamedTuple):
    """What is known of a trial that Tune does not know."""

    trial: int
    varied: Mapping[str, object]
    """Values of the varied parameters, by dotted path."""
    epochs: Sequence[tuple[Mapping[str, float], float]]
    """Metrics of each validation, and when it was reported in seconds since 1970."""
    status: str | None
    """How it ended; None if it goes on."""
    reason: str | None


class HowItEnded(Protocol):
    """From a trial of Tune to its status and, where there is something to explain, why."""

    def __call__(self, trial: Trial, *, failed: bool) -> tuple[str, str | None]:
        """Return both; `failed` tells whether an error ended it."""
        ...


def metrics_of(result: Mapping[str, object]) -> dict[str, float]:
    """Return the metrics in a result of Tune: numbers with a slash in their name, the epoch."""
    return {
        key: float(value)
        for key, value in result.items()
        if ("/" in key or key == "epoch") and isinstance(value, Real)
    }


def is_validation(result: Mapping[str, object]) -> bool:
    """Tell a validation from a result that says only how a trial ended."""
    return bool(result.get("epoch")) or "val/n" in result  # a trial may have no epochs


class TrialRuns(LoggerCallback):
    """Writes every trial of a search into a child run of its own."""

    def __init__(
        self,
        uri: str,
        parent: Parent,
        resolve: Resolve,
        how_it_ended: HowItEnded,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; MLflow is not called before the first trial starts.

        Args:
            uri: MLflow tracking URI.
            parent: The search's own run.
            resolve: Flattens a trial's configuration, defaults included.
            how_it_ended: Tells it of a trial that has ended.
            clock: Seconds since the epoch.
            sleep: Waits some seconds.
        """
        super().__init__()
        self._uri, self._parent, self._resolve = uri, parent, resolve
        self._how_it_ended = how_it_ended
        self._clock, self._sleep = clock, sleep
        self._children: dict[int, Child] = {}
        self._told: set[int] = set()
        self._look_at_s = self._retry_at_s = 0.0
        self._writer = Writer(uri)
        self._thread: Executor = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._jobs = deque[Future[None]]()

    def finish(self) -> int:
        """Write what is still waiting; say what could not be written.

        Returns:
            How many metrics were lost.
        """
        try:
            return self._write_rest()
        finally:
            self._thread.shutdown()
            self._writer.close()

    def _write_rest(self) -> int:
        for attempt in range(_LAST_TRIES):
            self._retry_at_s = 0.0
            self._flush(list(self._children.values()))
            wait(self._jobs)
            if not any(child.is_behind for child in self._children.values()):
                return 0
            if attempt < _LAST_TRIES - 1:
                self._sleep(_PATIENCE_S)
        behind = [child for child in self._children.values() if child.is_behind]
        n_lost = sum(len(child.points) for child in behind)
        log.error(
            "MLflow did not take %d metrics of trials %s; they are in the search folder",
            n_lost,
            ", ".join(str(child.trial) for child in behind),
        )
        return n_lost

    @override
    def log_trial_start(self, trial: Trial) -> None:
        """Open a run, or go on with the one there is."""
        number = trial.config[TRIAL_KEY]
        if (known := self._children.get(number)) is not None:
            known.reopen()
            self._flush([known])
            return
        varied = {key: str(v) for key, v in trial.config.items() if key != TRIAL_KEY}
        child = Child(number, self._params(trial.config), varied, self._now_ms())
        child.may_exist = number in self._told
        self._children[number] = child
        self._flush([child])

    def _params(self, config: Mapping[str, object]) -> dict[str, str]:
        return {key: str(value) for key, value in self._resolve(config).items()}

    def take_up(self, trials: Iterable[Known]) -> None:
        """Go on with the runs of a search that was interrupted, or is extended.

        MLflow is told what it lacks of each trial: metrics that were still waiting, how a trial
        ended, or that there is such a trial. What it has is not written twice.

        Args:
            trials: All that the record knows.
        """
        told = self._statuses()
        for known in trials:
            if known.status is None or told.get(known.trial) != known.status:
                self._children[known.trial] = self._known(known)
        self._flush(list(self._children.values()))

    def _statuses(self) -> dict[int, str]:
        """Return the status of each trial as MLflow has it; empty where it does not answer."""
        try:
            client = MlflowClient(self._uri)
            runs = children_of(client, self._parent, f"tags.`{TRIAL_TAG}` != ''")
            return {int(run.data.tags[TRIAL_TAG]): run.data.tags[STATUS_TAG] for run in runs}
        except TROUBLE:
            return {}

    def _known(self, known: Known) -> Child:
        varied = {path: str(value) for path, value in known.varied.items()}
        params = self._params({TRIAL_KEY: known.trial, **known.varied})
        child = Child(known.trial, params, varied, start_ms=self._now_ms(), may_exist=True)
        for metrics, reported_s in known.epochs:
            child.add(metrics, reported_s)
        if known.status is not None:
            child.end(known.status, known.reason, self._now_ms())
        return child

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, object]) -> None:
        """Take the metrics of one validation; write them when they are worth a call."""
        if not is_validation(result):
            return
        child = self._child_of(trial)
        child.add(metrics_of(result), cast("float", result["timestamp"]))
        if len(child.points) >= _BATCH:
            self._flush([child])

    @override
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Write the rest of a trial and how it ended."""
        child = self._child_of(trial)
        trace = Path(trial.path or "", TRACE_FILE)
        if trace.is_file():
            child.files.append(str(trace))
        failed = failed or trial.status == Trial.ERROR
        status, reason = self._how_it_ended(trial, failed=failed)
        child.end(status, reason, self._now_ms())
        self._flush([child])

    @override
    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Write what has waited long enough."""
        now_s = self._clock()
        if now_s < max(self._look_at_s, self._retry_at_s):
            return
        self._look_at_s, waited_ms = now_s + _LOOK_S, 1000 * (now_s - _PATIENCE_S)
        self._flush([
            child
            for child in list(self._children.values())
            if child.is_behind and not (child.points and child.points[0].time_ms > waited_ms)
        ])

    @override
    def __getstate__(self) -> dict[str, object]:
        """Tune pickles its callbacks, though nobody reads them."""
        return {}

    def _child_of(self, trial: Trial) -> Child:
        if trial.config[TRIAL_KEY] not in self._children:
            self.log_trial_start(trial)
        return self._children[trial.config[TRIAL_KEY]]

    def _flush(self, children: list[Child]) -> None:
        """Have the thread bring runs up to date; wait only if it is far behind."""
        self._jobs.extend(self._thread.submit(self._write, child) for child in children)
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()  # ours are bugs
        if len(self._jobs) > _MOST_WAITING:
            wait([self._jobs[-_MOST_WAITING]], _PATIENCE_S)

    def _write(self, child: Child) -> None:
        """Bring a run up to date; a failure is logged, and the rest waits for the next time."""
        if self._clock() < self._retry_at_s:
            return
        try:
            self._writer.bring_up_to_date(child, self._parent)
        except TROUBLE as error:
            self._retry_at_s = self._clock() + _PATIENCE_S
            first = str(error).strip().partition("\n")[0]
            log.warning("MLflow at %s does not take metrics, will retry: %s", self._uri, first)
        if child.is_told:
            self._told.add(child.trial)
            self._children.pop(child.trial, None)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
