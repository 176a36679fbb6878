"""`ragsearch bench sweep --bookkeeping` as a user runs it: Ray, Optuna and MLflow are real."""

import json

import pytest

from ragsearch.bench.bookkeeping import sleeping_space
from ragsearch.bench.sleeping import score
from ragsearch.bench.sweep_plan import BookkeepingPlan
from tests.bench.quickstart import QUICKSTART
from tests.bench.test_bench import folder, wait_until_gone
from tests.command import try_ragsearch

__all__ = ["folder"]


@pytest.mark.ray
@pytest.mark.slow
def test_what_sleeping_trials_take_is_told_and_nothing_is_left(tmp_path, folder):
    done = try_ragsearch(
        "bench", "sweep", "--bookkeeping", "--trials", 6, "--concurrent", 3, "--json",
        cwd=tmp_path, TMPDIR=str(folder),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    wait_until_gone(folder)
    assert list(folder.iterdir()) == []
    told = json.loads(done.stdout)
    assert set(told) == {"bookkeeping"}
    assert set(told["bookkeeping"]) == {
        "trials", "wall_s", "ideal_s", "driver_peak_bytes", "decision_ms_p95",
    }  # fmt: skip
    assert told["bookkeeping"]["trials"] == 6
    assert told["bookkeeping"]["wall_s"] > told["bookkeeping"]["ideal_s"] == 2.0
    assert told["bookkeeping"]["driver_peak_bytes"] > 100e6
    assert told["bookkeeping"]["decision_ms_p95"] > 0


def test_sleeping_trials_are_a_search_of_the_quickstart(tmp_path):
    spec = sleeping_space(BookkeepingPlan(QUICKSTART, trials=7, concurrent=3), tmp_path)

    assert "optim.learning_rate" in spec.domains
    assert spec.file.search.scheduler.name == "asha"
    assert spec.file.budget.trials == 7
    assert spec.file.resources.max_concurrent == 3


def test_a_searcher_can_learn_what_scores_well():
    rates = [score({"trial": 3, "optim.learning_rate": rate}) for rate in (1e-5, 1e-3, 1.0)]

    assert rates == sorted(rates)
    assert rates[-1] == 1.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--bookkeeping", "--searchers"), "--searchers: and --bookkeeping are two benches"),
        (("--bookkeeping", "--epochs", 3), "--epochs: has no meaning for --bookkeeping"),
        (("--searchers", "--n-val", 3), "--n-val: has no meaning for --searchers"),
        (("--seeds", 3), "--seeds: has no meaning for a sweep of three designs"),
        (
            ("--searchers", "--concurrent", 3, "--concurrent", 4),
            "--concurrent: is given twice; give one number here",
        ),
    ],
    ids=str,
)
def test_options_of_another_bench_are_refused(tmp_path, arguments, told):
    done = try_ragsearch("bench", "sweep", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert told in done.stderr
