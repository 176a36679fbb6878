"""Nothing is lost of what follows the trials: killed while rescoring, training, scoring."""

import re
import signal
from pathlib import Path

import pytest
import yaml

from ragsearch.search.record import FinalRun, SearchRecord, Status
from tests.command import ragsearch, try_ragsearch
from tests.search.conftest import space_content
from tests.search.interrupted import (
    Ended,
    cut_short,
    kill_driver,
    runs_of,
    search_of,
    trials_of,
    without_times,
)

pytestmark = [pytest.mark.ray, pytest.mark.long]


def write_space(tiny, folder: Path) -> None:
    content = space_content(
        tiny,
        trial={
            "optim": {"learning_rate": 1e-5, "effective_batch": 8},  # of the baseline: too low
            "train": {"max_epochs": 3, "max_context_length": 64},
            "decode": {"max_length": 6},
        },
        data={"train": str(tiny.train), "val": str(tiny.val), "test": str(tiny.train)}
        | {"n_test": 6},
        objectives=[{"metric": "val/nll", "goal": "min"}],
        search={"algorithm": "random", "scheduler": {"name": "none"}},
        rescore={"decode.document_temperature": {"choice": [0.1, 10.0]}},
        final={"top_k": 1, "seeds": [1, 2]},
        budget={"trials": 2},
        resources={"max_concurrent": 1},
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(content))


def final_of(record: SearchRecord) -> list[tuple[object, ...]]:
    return [
        (run.name, run.values, run.status, run.reason, run.val, run.test, epochs)
        for run in record.final
        if (epochs := [without_times(epoch) for epoch in run.epochs])
    ]


def rows_of(record: SearchRecord, run: FinalRun) -> str:
    return (record.folder / "test" / f"{run.name}.jsonl").read_text()


def done_in(kills: list[Ended], said: str) -> list[str]:
    """Return what was rescored, trained and scored, as the log has it."""
    pattern = r"trial \d rescored|final \S+ epoch \d|final \S+ scored"
    return re.findall(pattern, "".join(kill.said for kill in kills) + said)


def test_what_follows_the_trials_goes_on_where_it_was_killed(tiny, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        write_space(tiny, folder)
    through = try_ragsearch("run", "space.yaml", cwd=one)

    places = ("rescored: ", "seed-2 epoch 2", "scored: ", "final: trial ")
    kills = [
        cut_short(other, *words, at=place, by=kill_driver)
        for place, words in zip(places, (["space.yaml"], *3 * [["--resume"]]), strict=True)
    ]
    record = search_of(other)
    last = try_ragsearch("run", "--resume", cwd=other)

    assert through.returncode == 0, through.stderr
    assert [kill.code for kill in kills] == len(kills) * [-signal.SIGKILL]
    assert record.status is Status.INTERRUPTED
    assert last.returncode == 0, last.stderr
    done = done_in(kills, last.stderr)
    assert len(done) == len(set(done)), done  # nothing is done again
    assert set(done) <= set(done_in([], through.stderr))
    assert "goes on after epoch 2" in kills[2].said
    before, after = search_of(one), search_of(other)
    assert after.status is Status.FINISHED
    assert trials_of(after) == trials_of(before)
    for number, trial in before.trials.items():
        assert after.trials[number].rescored == trial.rescored
    assert final_of(after) == final_of(before)
    for run in before.final:
        assert rows_of(after, run) == rows_of(before, run)
    assert runs_of(other, after) == runs_of(one, before)
    assert not list(after.folder.glob("final*/*/*/state"))
    for run in after.final:  # of every run the best model, and no other
        models = list(after.folder.glob(f"final*/{run.name}/checkpoint_*/trial.json"))
        assert [after.relative(model.parent) for model in models] == [run.checkpoint]


def test_the_comparison_and_the_export_are_there_after_it(tiny, tmp_path):
    write_space(tiny, tmp_path)
    cut_short(tmp_path, "space.yaml", at="seed-1 epoch 1", by=kill_driver)

    ragsearch("final", cwd=tmp_path)
    ragsearch("export", "--to", "best", cwd=tmp_path)

    record = search_of(tmp_path)
    assert all(run.test for run in record.final)
    assert (tmp_path / "best" / "manifest.json").is_file()
