import json
import subprocess
import sys
from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.results.leaderboard import find_search, leaderboard, rows
from ragsearch.search.record import Objective, SearchRecord, Status, TrialRecord


def epoch(number: int, em: float, **more: float) -> dict[str, float]:
    return {"epoch": float(number), "val/em": em, "val/nll": 2.0 - em, **more}


def make_record(output: Path, name: str = "kb-1", started: str = "2026-11-02T10:00:00+00:00"):
    folder = output / name
    folder.mkdir(parents=True)
    record = SearchRecord(
        folder, "kb", "val/em", "max", {}, "", status=Status.FINISHED, started=started
    )
    record.trials[2] = TrialRecord(
        2, {"optim.learning_rate": 3e-4}, Status.STOPPED_EARLY, [epoch(1, 0.5), epoch(2, 0.25)]
    )
    record.trials[0] = TrialRecord(
        0, {"optim.learning_rate": 1e-4}, Status.FINISHED, [epoch(1, 0.25)]
    )
    record.trials[1] = TrialRecord(
        1, {"optim.learning_rate": 9.0}, Status.FAILED, reason="DivergedError"
    )
    record.save()
    return record


def test_the_leaderboard_has_exactly_the_documented_form(tmp_path: Path):
    record = make_record(tmp_path)

    found = json.loads(json.dumps(leaderboard(SearchRecord.load(record.folder))))

    assert found == {
        "search": "kb-1",
        "trials": [
            {
                "trial": 0,
                "status": "finished",
                "reason": None,
                "params": {"optim.learning_rate": 1e-4},
                "metrics": epoch(1, 0.25),
                "rescored": [],
            },
            {
                "trial": 1,
                "status": "failed",
                "reason": "DivergedError",
                "params": {"optim.learning_rate": 9.0},
                "metrics": {},
                "rescored": [],
            },
            {
                "trial": 2,
                "status": "stopped_early",
                "reason": None,
                "params": {"optim.learning_rate": 3e-4},
                "metrics": epoch(1, 0.5),  # the best epoch's, not the last one's
                "rescored": [],
            },
        ],
        "final": None,
    }


def test_a_metric_that_is_no_number_is_null_in_json(tmp_path: Path):
    record = make_record(tmp_path)
    record.trials[0].epochs[0]["val/nll"] = float("nan")

    text = json.dumps(leaderboard(record), allow_nan=False)

    assert json.loads(text)["trials"][0]["metrics"]["val/nll"] is None


def test_rows_stand_best_first_and_failures_last(tmp_path: Path):
    table = rows(make_record(tmp_path))

    assert [row["trial"] for row in table] == [2, "0 (baseline)", 1]
    assert table[0] == {
        "trial": 2,
        "status": "stopped early",
        "optim.learning_rate": 3e-4,
        "epochs": 2,
        "val/em": 0.5,
        "val/f1": None,
        "val/nll": 1.5,
        "val/recall_at_5": None,
        "reason": None,
    }
    assert table[2]["reason"] == "DivergedError"
    assert table[2]["val/em"] is None


def test_rows_of_an_objective_to_minimise_stand_smallest_first(tmp_path: Path):
    record = make_record(tmp_path)
    record.metric, record.goal = "train/loss", "min"
    record.trials[0].epochs[0]["train/loss"] = 1.0
    record.trials[2].epochs = [epoch(1, 0.5, **{"train/loss": 3.0})]

    table = rows(record)

    assert [row["trial"] for row in table] == ["0 (baseline)", 2, 1]
    assert list(table[0])[4] == "train/loss"


def several_objectives(tmp_path: Path) -> SearchRecord:
    record = make_record(tmp_path)
    record.others = (Objective("val/nll", "min"),)
    record.trials[2].status = Status.FINISHED
    record.trials[3] = TrialRecord(3, {}, Status.FINISHED, [epoch(1, 0.1, **{"val/nll": 0.1})])
    return record


def test_of_several_objectives_the_front_and_the_chosen_trial_are_told(tmp_path: Path):
    found = leaderboard(several_objectives(tmp_path))

    assert found["chosen"] == 2
    assert [trial["front"] for trial in found["trials"]] == [False, False, True, True]


def test_rows_of_several_objectives_mark_the_front(tmp_path: Path):
    table = rows(several_objectives(tmp_path))

    assert [(row["trial"], row["front"]) for row in table] == [
        (2, "chosen"), ("0 (baseline)", None), (3, "on it"), (1, None),
    ]  # fmt: skip
    assert list(table[0])[4:6] == ["val/em", "val/nll"]


def test_the_newest_search_is_found_by_its_start_not_by_its_name(tmp_path: Path):
    make_record(tmp_path, "zoo-1", "2026-11-02T10:00:00+00:00")
    make_record(tmp_path, "art-1", "2026-11-02T12:30:00+02:00")

    assert find_search(None, tmp_path).search == "art-1"


def test_a_damaged_record_hides_no_newer_search(tmp_path: Path):
    make_record(tmp_path, "kb-1")
    (tmp_path / "kb-2").mkdir()
    (tmp_path / "kb-2" / "search.json").write_text("{")

    assert find_search(None, tmp_path).search == "kb-1"
    with pytest.raises(BadInputError, match=r"kb-2/search\.json: the record is damaged"):
        find_search("kb-2", tmp_path)


def test_a_search_is_found_by_name_and_by_folder(tmp_path: Path):
    record = make_record(tmp_path / "runs")

    assert find_search("kb-1", tmp_path / "runs") == record
    assert find_search(str(record.folder), tmp_path / "elsewhere") == record
    assert find_search(record.folder) == record


def test_an_unknown_search_is_refused_with_the_nearest_name(tmp_path: Path):
    make_record(tmp_path, "kb-20261102")
    make_record(tmp_path, "zoo-20261102")

    with pytest.raises(
        BadInputError,
        match=r"no search 'kb-20261103'; did you mean 'kb-20261102'.*zoo-20261102",
    ):
        find_search("kb-20261103", tmp_path)


def test_of_many_searches_the_newest_ten_are_listed(tmp_path: Path):
    for number in range(12):
        make_record(tmp_path, f"kb-{number}", f"2026-11-02T10:00:{number:02d}+00:00")

    with pytest.raises(BadInputError, match=r"there are: kb-11, .*, kb-2 and 2 older$"):
        find_search("none-such", tmp_path)


def test_a_folder_without_searches_says_how_to_start_one(tmp_path: Path):
    with pytest.raises(BadInputError, match="no search here; start one with `ragsearch run`"):
        find_search(None, tmp_path / "runs")
    with pytest.raises(BadInputError, match="no search 'kb'; there is none here"):
        find_search("kb", tmp_path)


def test_the_leaderboard_loads_nothing_heavy():
    code = (
        "import sys, ragsearch.results.leaderboard, ragsearch.results.bundle;"
        "heavy = {'torch', 'ray', 'transformers', 'mlflow', 'faiss', 'numpy'};"
        "print(heavy & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"
