"""How a trial ends, and what that says of its configuration.

A trial that *diverged*, ran out of memory or broke a constraint (both *infeasible*) would do so
again: it is not tried again, it cannot be the best one, and the searcher is told to avoid the
like. It has not crashed: it reports its ending to Tune as a result, under the keys below. One
that finds the disk full reports the same way that it was *interrupted*, and can go on. Any
other error is a crash, which says nothing of the configuration. Where another try may end
otherwise, as after a lost node, the error goes to Tune, which tries again from the trial's last
epoch while `resources.retries` lasts; else, and where it is a bug, the trial has *failed*.

Ray kills a process where its node runs low on memory, which need not be the one that is too
large: such a trial is tried again, too, and *infeasible* where that does not help. What the
kernel kills is not known from any other process that died; its reason says that it may be so.
"""

import errno
import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ragsearch.errors import ClusterUnavailableError, PoolUnavailableError, RagsearchError
from ragsearch.search.record import Status
from ragsearch.search.space import LAST_KEY, REASON_KEY, VERDICT_KEY
from ragsearch.spec import ConstraintSection

if TYPE_CHECKING:
    from ray.exceptions import OutOfMemoryError
    from ray.tune.experiment import Trial


LOG_KEY = "log"
"""Where a result of Tune has the last lines of what a bug said."""

N_LOG_LINES = 20

KILLED = "Ray killed it as its node ran low on memory"
"""What the crash of a trial says whose process Ray killed for want of memory."""

_DIED = "its process died"

# what the same files give again at the next try
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError)


class WorkerFailedError(RagsearchError):
    """A worker of a trial failed or died, and with it the trial."""


class Ending(NamedTuple):
    """How a trial ended."""

    status: Status
    reason: str | None = None
    """Why, in one line; None where there is nothing to explain."""

    def as_result(self) -> dict[str, object]:
        """Return what a trial adds to its results, for `ending_of` to find."""
        return {VERDICT_KEY: str(self.status), REASON_KEY: self.reason}


def ending_of(trial: "Trial", *, failed: bool) -> Ending:
    """Return how a trial of Tune ended that was not ended with the search.

    Args:
        trial: One that Tune says has ended; of those it ends with the search it says nothing.
        failed: Whether it did by an error.
    """
    if not failed:
        return how_ended(trial.last_result or {}, failed=False)
    crash = crash_of(trial)
    if crash.startswith(KILLED):
        return Ending(Status.INFEASIBLE, f"out of memory: {crash}")
    return Ending(Status.FAILED, crash)


def how_ended(result: Mapping[str, Any], *, failed: bool) -> Ending:
    """Return how a trial ended by its last result; of one that failed, not why."""
    if failed:
        return Ending(Status.FAILED)
    if VERDICT_KEY in result:
        return Ending(Status(result[VERDICT_KEY]), result[REASON_KEY])
    return Ending(Status.FINISHED if result.get(LAST_KEY) else Status.STOPPED_EARLY)


def verdict_on(error: BaseException) -> Ending | None:
    """Return the ending that an error is, by itself or by its cause; None if it is a crash."""
    from pytorch_lightning.utilities.memory import is_oom_error

    from ragsearch.training.loss import DivergedError

    if isinstance(error, DivergedError):
        return Ending(Status.DIVERGED, str(error))
    if isinstance(error, MemoryError) or is_oom_error(error):
        said = str(error).strip().partition("\n")[0]
        return Ending(Status.INFEASIBLE, f"out of memory: {said}" if said else "out of memory")
    if is_disk_full(error):
        return Ending(Status.INTERRUPTED, str(error).strip().partition("\n")[0])
    return None if error.__cause__ is None else verdict_on(error.__cause__)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error is for want of space on a disk."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return "No space left on device" in str(error)  # as Rust and C++ libraries have it


def broken(
    constraints: Iterable[ConstraintSection], metrics: Mapping[str, float], epoch: int
) -> Ending | None:
    """Return the ending of a trial whose validation breaks a constraint.

    A metric that the trial does not report breaks none; one that is no number breaks all.
    """
    for constraint in constraints:
        value = metrics.get(constraint.metric)
        if value is None:
            continue
        found = f"{constraint.metric} was {value:.4g} after epoch {epoch}"
        if constraint.min is not None and not value >= constraint.min:
            return Ending(Status.INFEASIBLE, f"{found}, below {constraint.min:g}")
        if constraint.max is not None and not value <= constraint.max:
            return Ending(Status.INFEASIBLE, f"{found}, above {constraint.max:g}")
    return None


def is_passing(error: BaseException) -> bool:
    """Return whether a crash is of the world's making and may pass: another try is worth it.

    Such are a process or node that is gone, a pool or file system that does not answer, a
    device or connection that breaks. Whatever else is raised would be raised again: a bug.
    """
    import torch
    from ray.exceptions import RayError, RayTaskError

    if isinstance(error, WorkerFailedError):
        return error.__cause__ is not None and is_passing(error.__cause__)
    if isinstance(error, RayTaskError):  # what a function raised elsewhere
        return is_passing(error.cause)
    world: tuple[type[BaseException], ...] = (
        PoolUnavailableError, ClusterUnavailableError, RayError, torch.AcceleratorError,
    )  # fmt: skip
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING)
    # gloo says of a lost connection where in its source it noticed
    return isinstance(error, world) or "/gloo/transport/" in str(error)


def bug_report(error: Exception) -> dict[str, object]:
    """Return the result that a trial reports which fails by a bug, for `ending_of` to find."""
    is_ours = isinstance(error, RagsearchError)  # what it says is meant for the user
    reason = str(error) if is_ours else f"{type(error).__name__}: {error}".strip()
    lines = [] if is_ours else "".join(traceback.format_exception(error)).splitlines()
    log = "\n".join(lines[-N_LOG_LINES:])
    first = reason.partition("\n")[0]
    return {**Ending(Status.FAILED, first).as_result(), LOG_KEY: log}


def last_lines(trial: "Trial") -> list[str]:
    """Return the last lines of the log of a trial of Tune that failed."""
    log = (trial.last_result or {}).get(LOG_KEY)
    lines = _error_lines(trial) if log is None else str(log).splitlines()
    return lines[-N_LOG_LINES:]


def crash_of(trial: "Trial") -> str:
    """Return why a trial of Tune crashed the last time, in one line."""
    lines = [line for line in _error_lines(trial) if line.strip()]
    last = lines[-1].strip() if lines else _DIED
    if KILLED in last:
        return last[last.index(KILLED) :]
    lost = re.search(r"because its (?:worker )?(process|node) has died", last)
    if lost is None:
        return last
    # Ray knows no signal, and says this where a process was gone without a word
    perhaps = ", perhaps for want of memory" if "OOM killer" in last else ""
    return f"its {lost[1]} died{perhaps}"


def killed_for_memory(error: "OutOfMemoryError") -> str:
    """Return what Ray says of a process it killed for want of memory, in one line."""
    used = re.search(r"was (\S+ used / \S+) limit", str(error))
    return f"{KILLED} ({used[1]})" if used else KILLED


def _error_lines(trial: "Trial") -> list[str]:
    if trial.error_file is None or not Path(trial.error_file).is_file():
        return []
    return Path(trial.error_file).read_text(encoding="utf-8", errors="replace").splitlines()
