"""How trials end: constraints, errors, what Tune says of them."""

import errno
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from ragsearch.errors import BadInputError
from ragsearch.search.ending import Ending, broken, ending_of, verdict_on
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
