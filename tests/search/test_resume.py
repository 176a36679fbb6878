"""Nothing is lost: searches that are interrupted in every way, and go on."""

import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from ragsearch.errors import BadInputError
from ragsearch.search.record import Status
from ragsearch.search.run import resume_search
from tests.command import ragsearch, try_ragsearch
from tests.search.conftest import space_content
from tests.search.interrupted import (
    cut_short,
    kill_cluster,
    press_ctrl_c,
    runs_of,
    search_of,
    study_of,
    trials_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.long]

N_TRIALS, N_EPOCHS = 4, 3


def write_space(tiny, folder: Path, n_trials: int, **sections: object) -> None:
    content = space_content(
        tiny,
        trial={
            "retrieval": {"n_docs": 2},
            "train": {"max_epochs": N_EPOCHS, "max_context_length": 64},
            "decode": {"max_length": 4},
        },
        space={
            "optim.learning_rate": {"log": [1.0e-4, 1.0e-1]},
            "retrieval.n_docs": {"ordinal": [1, 2, 3]},
        },
        objectives=[{"metric": "val/nll", "goal": "min"}],
        search={"startup_trials": 1, "scheduler": {"name": "asha", "min": 1, "eta": 2}},
        budget={"trials": n_trials},
        resources={"max_concurrent": 1},
        **sections,
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory) -> Path:
    """Return where a search ran that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    write_space(tiny, folder, N_TRIALS)
    ragsearch("run", "space.yaml", cwd=folder)
    return folder


def refuse_a_second_run(folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"being run by process \d+ on "):
        resume_search(search_of(folder).folder)


def test_a_search_that_is_killed_stopped_and_extended_is_as_one_that_ran_through(
    reference, tiny, tmp_path
):
    write_space(tiny, tmp_path, N_TRIALS - 1)

    def kill_driver(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGSTOP)  # it holds the search while it stands still
        refuse_a_second_run(tmp_path)
        process.kill()

    killed = cut_short(tmp_path, "space.yaml", at="trial 0 epoch 2/", by=kill_driver)
    shown = ragsearch("trials", cwd=tmp_path)
    no_cluster = cut_short(tmp_path, "--resume", at="trial 1 epoch 1/", by=kill_cluster)
    stopped = cut_short(tmp_path, "--resume", at="trial 2 epoch 1/", by=press_ctrl_c)
    open_again = search_of(tmp_path)
    ragsearch("run", "--add-trials", "1", cwd=tmp_path)

    name = search_of(tmp_path).search
    assert killed.code == -signal.SIGKILL
    assert f"resume  ragsearch run --resume {name}" in shown
    assert "interrupted" in shown
    done = re.findall(r"trial \d epoch \d", killed.said + no_cluster.said + stopped.said)
    assert len(done) == len(set(done))  # no epoch is done again
    assert no_cluster.code != 0
    assert stopped.code == 130
    assert f"go on with `ragsearch run --resume {name}`" in stopped.said
    assert open_again.status is Status.INTERRUPTED
    one, other = search_of(reference), search_of(tmp_path)
    assert other.status is Status.FINISHED
    assert trials_of(other) == trials_of(one)
    assert study_of(other) == study_of(one)
    assert runs_of(tmp_path, other) == runs_of(reference, one)
    assert other.n_runs == 4


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of some size, or changes its size."""
    folder = tmp_path / "runs"
    folder.mkdir()

    def mount(size: str, *options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options])]
        done = subprocess.run([*words, "tmpfs", folder], check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"this machine mounts no small disk: {done.stderr.decode().strip()}")

    yield mount
    subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def test_a_full_disk_ends_a_search_in_one_sentence_and_it_goes_on_when_there_is_room(
    tiny, tmp_path, small_disk
):
    write_space(tiny, tmp_path, 3)
    small_disk("1m")

    done = try_ragsearch("run", "space.yaml", cwd=tmp_path)
    full = search_of(tmp_path)
    small_disk("50m", "remount")
    ragsearch("run", "--resume", cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    assert "error: search tiny-" in done.stderr
    assert "the disk is full" in done.stderr
    assert f"go on with `ragsearch run --resume {full.search}`" in done.stderr
    assert "Traceback" not in done.stderr
    assert full.status is Status.INTERRUPTED
    record = search_of(tmp_path)
    assert record.status is Status.FINISHED
    assert all(trial.status.has_ended for trial in record.trials.values())
    for number, trial in full.trials.items():
        n_epochs = len(trial.epochs)
        assert record.trials[number].epochs[:n_epochs] == trial.epochs
        assert [epoch["epoch"] for epoch in record.trials[number].epochs] == [
            *range(1, len(record.trials[number].epochs) + 1)
        ]
