"""What final runs come to, told from their files; what a record says of models asked anew."""

import json

import pytest

from ragsearch.search.afterwards import settings_for
from ragsearch.search.comparison import best_run, compare
from ragsearch.search.record import FinalRun, Rescored, SearchRecord, Status, TrialRecord


def record_of(folder, metric="val/em", goal="max", rung_examples=None):
    return SearchRecord(folder, "tiny", metric, goal, {}, "", rung_examples=rung_examples)


def add(record, trial, seed, val, rows):
    run = FinalRun(trial, seed, status=Status.FINISHED, val={record.metric: val})
    run.test = {"test/n": len(rows)}
    file = record.folder / "test" / f"{run.name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record.final.append(run)


def rows_of(em, rank=0):
    return [{"em": float(one), "nll": 2.0, "n_tokens": 4, "rank": rank} for one in em]


def test_the_winner_is_by_validation_and_its_lead_is_put_in_words(tmp_path):
    record = record_of(tmp_path)
    for seed in (1, 2, 3):
        add(record, 0, seed, 0.1, rows_of([0] * 95 + [1] * 5))
        add(record, 4, seed, 0.8 + seed / 100, rows_of([1] * 60 + [0] * 40))
        add(record, 7, seed, 0.7, rows_of([0] * 39 + [1] * 61))  # better on test: by chance

    found = compare(record)

    assert found.winner == 4
    assert [one.trial for one in found.finalists] == [4, 7, 0]
    baseline, runner_up = found.differences
    assert baseline.verdict.startswith("trial 4 is better than the baseline (+0.5500, 95 %")
    assert "trial 4 is not distinguishable from the runner-up, trial 7" in runner_up.verdict
    assert best_run(record).seed == 3
    assert json.loads(json.dumps(found.as_dict()))["winner"] == 4


def test_a_winner_that_is_the_baseline_is_compared_with_the_runner_up_only(tmp_path):
    record = record_of(tmp_path)
    add(record, 0, 1, 0.9, rows_of([1, 1, 0, 1]))
    add(record, 2, 1, 0.5, rows_of([0, 1, 0, 1]))

    (only,) = compare(record).differences

    assert only.against == 2


def test_only_seeds_that_all_have_are_compared_and_the_rest_is_named(tmp_path):
    record = record_of(tmp_path)
    add(record, 0, 1, 0.5, rows_of([1, 0]))
    add(record, 0, 2, 0.5, rows_of([1, 0]))
    add(record, 3, 1, 0.6, rows_of([1, 1]))
    record.final.append(FinalRun(3, 2, status=Status.DIVERGED, reason="NaN"))

    found = compare(record)

    assert found.seeds == (1,)
    assert found.left_out == ("trial 3, seed 2: diverged, NaN",)
    assert "the baseline, which is also the runner-up" in found.differences[0].verdict


@pytest.mark.parametrize(
    ("metric", "goal", "value"),
    [("val/nll", "min", 0.5), ("val/recall_at_1", "max", 0.0), ("val/mrr_at_10", "max", 0.25)],
)
def test_other_objectives_are_averaged_as_validation_averages_them(
    metric, goal, value, tmp_path
):
    record = record_of(tmp_path, metric, goal)
    add(record, 0, 1, 0.5, rows_of([1, 0], rank=3))

    assert compare(record).finalists[0].test.value == value


def test_without_scored_runs_there_is_no_comparison(tmp_path):
    record = record_of(tmp_path)
    record.final.append(FinalRun(0, 1))

    assert compare(record) is None
    assert best_run(record) is None


def test_a_trial_counts_as_its_model_answers_best(tmp_path):
    record = record_of(tmp_path)
    for number, em in ((0, 0.5), (1, 0.6)):
        record.trials[number] = TrialRecord(
            number, {}, Status.FINISHED, [{"epoch": 1.0, "val/em": em, "train/loss": 2.0}]
        )
    record.trials[0].rescored = [
        Rescored({}, {"val/em": 0.5}),
        Rescored({"decode.num_beams": 2}, {"val/em": 0.7}),
        Rescored({"decode.num_beams": 4}, {"val/em": 0.7}),
    ]
    record.final.append(FinalRun(0, 1, {"decode.num_beams": 2}, Status.FINISHED))
    record.save()

    read = SearchRecord.load(tmp_path)

    assert [trial.trial for trial in read.ranked()] == [0, 1]
    assert read.best_setting(read.trials[0]).values == {"decode.num_beams": 2}
    assert read.metrics_of(read.trials[0])["val/em"] == 0.7
    assert read.best_epoch(read.trials[0])["val/em"] == 0.5
    assert read.final == record.final


def test_scores_on_some_questions_are_not_compared_with_scores_on_all(tmp_path):
    record = record_of(tmp_path, rung_examples=3)
    early = {"epoch": 1.0, "val/em": 0.9}  # on three questions
    record.trials[0] = TrialRecord(
        0, {}, Status.FINISHED, [early, {"epoch": 2.0, "val/em": 0.4, "rung/val/em": 1.0}]
    )
    record.trials[1] = TrialRecord(1, {}, Status.STOPPED_EARLY, [early])
    record.trials[2] = TrialRecord(
        2, {}, Status.FINISHED, [early, {"epoch": 2.0, "val/em": 0.5, "rung/val/em": 0.8}]
    )

    assert record.best_epoch(record.trials[0])["epoch"] == 2
    assert record.best_epoch(record.trials[2])["epoch"] == 1
    assert [record.is_partial(record.trials[n]) for n in range(3)] == [False, True, True]
    assert [trial.trial for trial in record.ranked()] == [0, 1, 2]
    record.trials[2].rescored = [Rescored({}, {"val/em": 0.45})]  # its best model, on all
    assert [trial.trial for trial in record.ranked()] == [2, 0, 1]


def test_a_setting_that_is_the_trained_one_is_asked_once(space_of):
    spec = space_of(
        rescore={
            "retrieval.n_docs": {"ordinal": [2, 3]},
            "decode.num_beams": {"ordinal": [1, 2]},
        }
    )
    trial = TrialRecord(0, {"optim.learning_rate": 0.1})

    settings = settings_for(spec, trial)

    assert settings[0] == {}
    assert len(settings) == 4
