"""`ragsearch bench sweep` as a user runs it: three whole searches, and their memory."""

import json
import os
import subprocess
import sys

import pytest

from ragsearch.bench.sweep import descendants, drawn
from ragsearch.bench.sweep_plan import SweepPlan
from ragsearch.spec import load_spec
from tests.bench.quickstart import QUICKSTART
from tests.bench.test_bench import folder, wait_until_gone
from tests.command import try_ragsearch

__all__ = ["folder"]


@pytest.mark.ray
@pytest.mark.long
def test_three_designs_search_and_nothing_is_left(tmp_path, folder):
    done = try_ragsearch(
        "bench", "sweep", "--trials", 1, "--epochs", 1, "--n-train", 16, "--n-val", 8,
        "--concurrent", 1, "--json",
        cwd=tmp_path, timeout_s=600, TMPDIR=str(folder),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    wait_until_gone(folder)
    assert list(folder.iterdir()) == []
    rows = json.loads(done.stdout)["rows"]
    assert [row["design"] for row in rows] == ["loop", "ray_mlflow", "ragsearch"]
    for row in rows:
        assert set(row) == {
            "design", "best_em", "wall_s", "target_s", "best_s", "trials_per_hour", "pss_bytes",
        }  # fmt: skip
        assert 0 < row["target_s"] <= row["wall_s"]
        assert 0 < row["trials_per_hour"] < 3600 / row["target_s"] * 2
        assert row["pss_bytes"]["1"] > 200e6
    assert rows[0]["best_em"] == rows[1]["best_em"]  # the same trainings
    assert any(row["best_s"] is not None for row in rows)


def test_the_baseline_comes_first_and_a_seed_draws_the_same_again():
    plan = SweepPlan(QUICKSTART, trials=5)

    settings = drawn(plan, [f"seed={plan.seed}"])

    assert settings[0]["optim.learning_rate"] == 3.0e-5
    assert settings == drawn(plan, [f"seed={plan.seed}"])
    assert settings[:3] == drawn(SweepPlan(QUICKSTART, trials=3), [f"seed={plan.seed}"])
    assert settings[1:] != drawn(plan, ["seed=18"])[1:]
    domains = load_spec(QUICKSTART).domains
    for one in settings:
        assert all(domains[path].contains(value) for path, value in one.items())


def test_processes_are_found_that_a_child_started():
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE); print(p.pid, flush=True); input(); p.communicate(b'\\n')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        grandchild = int(child.stdout.readline())

        found = descendants(os.getpid())

        child.communicate("\n")
    assert {child.pid, grandchild} <= set(found)
