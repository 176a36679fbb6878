"""HyperBand goes on with the brackets that an interrupted search had."""

import re
from itertools import cycle

import pytest
import yaml

from ragsearch.search.record import Status
from tests.command import try_ragsearch
from tests.search.conftest import space_content
from tests.search.interrupted import (
    cut_short,
    kill_driver,
    press_ctrl_c,
    runs_of,
    search_of,
    study_of,
    trials_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.long]

EPOCH = re.compile(r"trial \d+ epoch \d+/")


def write_space(tiny, folder, algorithm) -> None:
    """Write a search of a baseline, a bracket of four trials and one of three."""
    content = space_content(
        tiny,
        trial={
            "retrieval": {"n_docs": 1},
            "train": {"max_epochs": 4, "max_context_length": 64},
            "decode": {"max_length": 2},
        },
        objectives=[{"metric": "val/nll", "goal": "min"}],
        search={
            "algorithm": algorithm,
            **({"startup_trials": 2} if algorithm == "bohb" else {}),
            "scheduler": {"name": "hyperband", "eta": 2},
        },
        budget={"trials": 8},
        resources={"max_concurrent": 1},
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))


# while a bracket is filled, after its first rung, its second, and in the next one
@pytest.mark.parametrize(
    ("algorithm", "places"), [("random", [6, -4]), ("bohb", [6, 8, 10, -4])]
)
def test_brackets_that_were_interrupted_are_as_those_that_were_not(
    tiny, tmp_path, algorithm, places
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        write_space(tiny, folder, algorithm)
    done = try_ragsearch("run", "space.yaml", cwd=whole)
    assert done.returncode == 0, done.stderr
    epochs = EPOCH.findall(done.stderr)

    said, how = "", ["space.yaml"]
    for place, by in zip(places, cycle([kill_driver, press_ctrl_c]), strict=False):
        said += cut_short(cut, *how, at=epochs[place], by=by).said
        how = ["--resume"]
    said += try_ragsearch("run", *how, cwd=cut).stderr

    again = EPOCH.findall(said)
    assert len(again) == len(set(again)), again  # no epoch is done again
    one, other = search_of(whole), search_of(cut)
    assert {trial.status for trial in one.trials.values()} == {
        Status.FINISHED,
        Status.STOPPED_EARLY,
    }
    assert other.status is Status.FINISHED
    assert trials_of(other) == trials_of(one)
    assert study_of(other) == study_of(one)
    assert runs_of(cut, other) == runs_of(whole, one)
