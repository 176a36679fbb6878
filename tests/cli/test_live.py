import io
import logging
import sys

import pytest
from rich.console import Console

from ragsearch.cli.live import live_view, render, watching
from ragsearch.search.budget import Budget
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.standing import Standing
from tests.search.conftest import space_of

__all__ = ["space_of"]


@pytest.fixture
def standing(space_of, tmp_path):
    spec = space_of(budget={"trials": 3, "wall": "1h", "patience": 2})
    record = SearchRecord(
        folder=tmp_path / "kb-1", name="kb", metric="val/em", goal="max", indexes={},
        tracking_uri="", wall_s=600.0,
    )  # fmt: skip
    epoch = {"epoch": 1, "val/em": 0.25, "time/epoch_s": 7.0}
    record.trials = {
        0: TrialRecord(0, {}, Status.FINISHED, [epoch], [1.0]),
        1: TrialRecord(1, {"optim.learning_rate": 0.0123456}, Status.RUNNING, [epoch], [2.0]),
    }
    return Standing(spec, record, Budget(spec.file.budget, record))


def _drawn(standing, pools=()):
    text = io.StringIO()
    Console(file=text, width=160).print(render(standing, pools))
    return text.getvalue()


def test_the_view_tells_budget_rungs_running_trials_and_the_best(standing):
    drawn = _drawn(standing)

    assert "kb-1" in drawn
    assert "1 of 3 trials ended" in drawn
    assert "0:10:00 of 1:00:00" in drawn
    assert "about 0:20:00 left" in drawn
    assert "best val/em 0.25 (trial 0)" in drawn
    assert "optim.learning_rate=0.01235" in drawn
    assert "1/4" in drawn


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_lines_are_written_above_the_view_and_the_log_is_put_back(standing, monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "__stderr__", terminal)
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with live_view(standing):
            assert handler.stream is not terminal
            logging.getLogger("ragsearch").warning("trial 1 epoch 2/4")
    finally:
        logging.getLogger().removeHandler(handler)

    assert handler.stream is terminal
    assert "trial 1 epoch 2/4" in terminal.getvalue()


def test_nobody_watches_where_stderr_is_no_terminal(monkeypatch):
    assert watching() is None

    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert watching() is live_view
