"""How trials end: constraints, errors, what Tune says of them."""

import errno
import re
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from safetensors import SafetensorError

from ragsearch.errors import BadInputError, PoolUnavailableError
from ragsearch.search.ending import (
    Ending,
    WorkerFailedError,
    broken,
    bug_report,
    crash_of,
    ending_of,
    is_passing,
    killed_for_memory,
    last_lines,
    verdict_on,
)
from ragsearch.search.record import Status
from ragsearch.spec import ConstraintSection
from ragsearch.training.loss import DivergedError


def constraint(**bounds):
    return ConstraintSection(metric="val/unique_passage_ratio", **bounds)


@pytest.mark.parametrize(
    ("bounds", "value", "reason"),
    [
        ({"min": 0.05}, 0.05, None),
        ({"min": 0.05}, 0.012345, "was 0.01235 after epoch 2, below 0.05"),
        ({"max": 0.5}, 0.5, None),
        ({"max": 0.5}, 0.75, "was 0.75 after epoch 2, above 0.5"),
        ({"min": 0.1, "max": 0.5}, 0.3, None),
        ({"min": 0.1}, float("nan"), "was nan after epoch 2, below 0.1"),
    ],
)
def test_a_validation_breaks_a_constraint_outside_its_bounds(bounds, value, reason):
    metrics = {"val/unique_passage_ratio": value}

    unreported = ConstraintSection(metric="val/em", max=0.0)

    found = broken([unreported, constraint(**bounds)], metrics, epoch=2)

    assert found == (reason and Ending(Status.INFEASIBLE, f"val/unique_passage_ratio {reason}"))


def test_a_trial_is_not_bound_by_what_it_does_not_report():
    assert broken([constraint(min=0.5)], {"val/em": 0.0}, epoch=1) is None


def allocation_error():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (DivergedError("the loss is nan"), Status.DIVERGED, "the loss is nan"),
        (MemoryError(), Status.INFEASIBLE, "out of memory"),
        (allocation_error(), Status.INFEASIBLE, "out of memory: .*can't allocate memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
            Status.INFEASIBLE,
            r"out of memory: CUDA out of memory. Tried to allocate 2 GiB\.$",
        ),
        (chained(ValueError("a worker failed"), MemoryError()), Status.INFEASIBLE, "out of m"),
    ],
)
def test_an_error_of_the_configuration_is_a_verdict(error, status, reason):
    found = verdict_on(error)

    assert found.status is status
    assert re.match(reason, found.reason)


@pytest.mark.parametrize(
    "error", [RuntimeError("connection closed"), BadInputError.single("x", "is no index")]
)
def test_any_other_error_is_a_crash(error):
    assert verdict_on(error) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        chained(RuntimeError("cannot be saved"), OSError(errno.ENOSPC, "No space")),
    ],
)
def test_a_full_disk_says_nothing_of_a_trial_which_can_go_on(error):
    ending = verdict_on(error)

    assert ending.status is Status.INTERRUPTED
    assert "isk" in ending.reason or "space" in ending.reason


INFEASIBLE = Ending(Status.INFEASIBLE, "out of memory")


@pytest.mark.parametrize(
    ("result", "ending"),
    [
        ({"is_last": True}, Ending(Status.FINISHED)),
        ({"is_last": False}, Ending(Status.STOPPED_EARLY)),
        (None, Ending(Status.STOPPED_EARLY)),
        ({"is_last": True} | INFEASIBLE.as_result(), INFEASIBLE),
    ],
)
def test_a_trial_ended_as_its_last_result_says(result, ending):
    trial = SimpleNamespace(last_result=result, error_file=None)

    assert ending_of(trial, failed=False) == ending


def test_a_crash_is_explained_by_the_last_line_of_its_error(tmp_path):
    file = tmp_path / "error.txt"
    file.write_text("Traceback:\n  somewhere\nValueError: out of luck\n\n")

    told = ((str(file), "ValueError: out of luck"), (None, "its process died"))
    for error_file, reason in told:
        trial = SimpleNamespace(last_result=INFEASIBLE.as_result(), error_file=error_file)
        assert ending_of(trial, failed=True) == (Status.FAILED, reason)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("is dead because its worker process has died. Worker exit type", "its process died"),
        (
            "is dead because its worker process has died. Some causes: (1) the OOM killer",
            "its process died, perhaps for want of memory",
        ),
        ("died because its node has died. Node Id: 0", "its node died"),
    ],
)
def test_what_ray_says_of_a_lost_process_is_told_in_short(tmp_path, said, reason):
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (occurred at noon)\nThe actor {said}\n")

    assert crash_of(SimpleNamespace(error_file=str(file))) == reason


def worker_failed(cause):
    return chained(WorkerFailedError("a worker of this trial failed"), cause)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ActorDiedError(), True),
        (worker_failed(ActorDiedError()), True),
        (worker_failed(KeyError("x")), False),
        (worker_failed(None), False),
        (RayTaskError("work", "...", KeyError("x")), False),
        (RayTaskError("work", "...", ConnectionResetError()), True),
        (PoolUnavailableError("no replica answers"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error"), True),
        (RuntimeError("[gloo/gloo/transport/tcp/pair.cc:553] Connection closed"), True),
        (OSError(28, "No space left on device"), True),
        (FileNotFoundError(2, "No such file"), False),
        (chained(BadInputError.single("x", "is no model"), OSError(5, "I/O error")), False),
        (RuntimeError("shapes (2, 3) and (4, 5)"), False),
        (TypeError("no luck"), False),
    ],
    ids=str,
)
def test_only_what_may_pass_is_worth_another_try(error, passes):
    assert is_passing(error) == passes


def there(depth, error):
    back(depth, error)


def back(depth, error):
    if depth:
        there(depth - 1, error)
    raise error


def test_a_bug_is_reported_with_the_last_lines_of_its_traceback():
    with pytest.raises(KeyError) as caught:
        back(30, KeyError("luck"))

    trial = SimpleNamespace(last_result=bug_report(caught.value), error_file=None)

    assert ending_of(trial, failed=False) == (Status.FAILED, "KeyError: 'luck'")
    lines = last_lines(trial)
    assert len(lines) == 20
    assert lines[-1] == "KeyError: 'luck'"
    assert "raise error" in lines[-2]


def test_a_mistake_of_the_user_needs_no_traceback():
    report = bug_report(BadInputError.single("space.yaml", "is empty"))

    trial = SimpleNamespace(last_result=report, error_file=None)
    assert ending_of(trial, failed=False).reason == "space.yaml: is empty"
    assert last_lines(trial) == []


def test_of_a_crash_the_end_of_its_error_file_is_told(tmp_path):
    file = tmp_path / "error.txt"
    file.write_text("\n".join(map(str, range(30))))

    trial = SimpleNamespace(last_result={"epoch": 1}, error_file=str(file))

    assert last_lines(trial) == [str(number) for number in range(10, 30)]


def test_a_trial_that_ray_killed_for_want_of_memory_each_time_is_infeasible(tmp_path):
    used = "Memory on the node (IP: 1.2.3.4, ID: ab) was 10.29GB used / 23.54GB limit (0.437)"
    error = OutOfMemoryError(f"1 worker(s) were killed. {used}\nAnd")
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 2 (occurred at noon)\n{killed_for_memory(error)}\n")

    ending = ending_of(SimpleNamespace(last_result={}, error_file=str(file)), failed=True)

    reason = "Ray killed it as its node ran low on memory (10.29GB used / 23.54GB)"
    assert ending == (Status.INFEASIBLE, f"out of memory: {reason}")
