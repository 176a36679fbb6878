"""Searches whose trials are looked up: the order of things, and what is told of them."""

import json
import math

import pytest

from ragsearch.bench.searchers import Simulated
from ragsearch.bench.surrogate import N_EPOCHS
from ragsearch.spec import load_spec
from tests.bench.quickstart import QUICKSTART
from tests.command import try_ragsearch


def simulated(folder, curve, *overrides) -> Simulated:
    epochs = f"trial.train.max_epochs={N_EPOCHS}"
    spec = load_spec(QUICKSTART, ["budget.trials=500", epochs, *overrides])
    return Simulated(spec, curve, folder)


def rising(settings):
    """A curve that is the higher, the nearer the learning rate is to 3e-4."""
    height = 1 - abs(math.log10(settings["optim.learning_rate"] / 3e-4)) / 3
    return [height * epoch / N_EPOCHS for epoch in range(1, N_EPOCHS + 1)]


def test_random_search_without_stopping_trains_every_trial_to_its_end(tmp_path):
    search = simulated(
        tmp_path,
        rising,
        "search.algorithm=random",
        "search.startup_trials=null",
        "search.scheduler.name=none",
    )

    search.run(concurrent=1, target=math.inf, longest=4 * N_EPOCHS)

    assert search.epochs == 4 * N_EPOCHS
    assert [trial.epoch for trial in search.started[:4]] == [N_EPOCHS] * 4
    assert search.best == max(trial.curve[-1] for trial in search.started[:4])


def test_asha_stops_trials_at_its_rungs_and_lets_the_baseline_through(tmp_path):
    search = simulated(tmp_path, rising, "search.scheduler.name=asha")

    search.run(concurrent=2, target=math.inf, longest=100)

    ended = [trial.epoch for trial in search.started if trial.status == "TERMINATED"]
    assert ended[0] == N_EPOCHS
    assert set(ended) == {1, 3, N_EPOCHS}
    assert sum(trial.epoch for trial in search.started) == search.epochs == 100


def test_a_search_ends_at_the_epoch_that_reaches_the_target(tmp_path):
    search = simulated(tmp_path, rising, "search.scheduler.name=none")

    search.run(concurrent=1, target=0.1, longest=100)

    baseline = rising({"optim.learning_rate": 3e-5})
    assert search.epochs == next(n for n, em in enumerate(baseline, start=1) if em >= 0.1)


def test_a_seed_gives_the_same_search_again(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    searches = [simulated(tmp_path / name, rising, "seed=5") for name in "ab"]

    for search in searches:
        search.run(concurrent=3, target=math.inf, longest=60)

    first, second = ([trial.config for trial in search.started] for search in searches)
    assert first == second


@pytest.mark.slow
def test_both_searches_are_told_problem_by_problem(tmp_path):
    done = try_ragsearch(
        "bench", "sweep", "--searchers", "--trials", 3, "--seeds", 2, "--json", cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["searchers"]
    assert [row["problem"] for row in rows] == ["quickstart", "hartmann6", "branin"]
    for row in rows:
        assert set(row) == {
            "problem", "target", "random_epochs", "tpe_asha_epochs", "n_not_reached", "share",
        }  # fmt: skip
        assert row["random_epochs"] <= 3 * N_EPOCHS * 40
        assert row["share"] == row["tpe_asha_epochs"] / row["random_epochs"]
        assert 0 < row["target"] <= 1
