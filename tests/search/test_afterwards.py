"""What is left of rescoring and final runs when the trials of a search have ended."""

import pytest
import yaml

from ragsearch.search.afterwards import is_something_left, n_kept
from ragsearch.search.record import FinalRun, Rescored, SearchRecord, Status, TrialRecord
from ragsearch.spec import load_spec
from tests.search.conftest import space_content


@pytest.fixture
def load(tiny, tmp_path):
    """Load the tiny search with further sections."""

    def load(**sections):
        data = {"train": str(tiny.train), "val": str(tiny.val), "test": str(tiny.val)}
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(space_content(tiny, data=data, **sections)))
        return load_spec(file)

    return load


@pytest.fixture
def record(tmp_path):
    """Return a search of two trials that have ended, with models."""
    record = SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )
    for number in range(2):
        record.trials[number] = TrialRecord(
            number,
            {},
            Status.FINISHED,
            epochs=[{"epoch": 1, "val/em": number / 4}],
            reported=[1.0],
            checkpoint=f"model-{number}",
        )
    return record


def test_nothing_is_left_where_nothing_was_asked_for(load, record):
    assert not is_something_left(record, load())


def test_models_that_were_not_asked_under_every_setting_are_left(load, record):
    spec = load(rescore={"retrieval.n_docs": {"choice": [1, 2]}})
    settings = [{}, {"retrieval.n_docs": 1}, {"retrieval.n_docs": 2}]

    assert is_something_left(record, spec)

    for trial in record.trials.values():
        known = [one for one in settings if spec.trial_with({}) != spec.trial_with(one)]
        trial.rescored = [Rescored(one, {"val/em": 0.0}) for one in ({}, *known)]
    assert not is_something_left(record, spec)


def test_finished_models_validated_on_some_questions_are_left(load, record):
    record.rung_examples = 3

    assert is_something_left(record, load())

    for trial in record.trials.values():
        trial.rescored = [Rescored({}, {"val/em": 0.0})]
    assert not is_something_left(record, load())


@pytest.mark.parametrize(
    ("status", "test", "is_left"),
    [
        (Status.FINISHED, {"test/em": 0.1}, False),
        (Status.FINISHED, None, True),
        (Status.INTERRUPTED, None, True),
        (Status.DIVERGED, None, False),
    ],
)
def test_final_runs_are_left_until_they_are_scored_or_cannot_be(
    load, record, status, test, is_left
):
    spec = load(final={"top_k": 1, "seeds": [1]})
    assert is_something_left(record, spec)

    record.final = [FinalRun(n, 1, status=status, test=test) for n in range(2)]

    assert is_something_left(record, spec) == is_left


def test_final_and_rescored_survive_saving_with_events_after_it(record):
    (record.folder / "lock").touch()
    record.status = Status.FINISHED
    record.rung_examples = 3
    record.trials[0].rescored = [Rescored({"decode.num_beams": 2}, {"val/em": 0.5})]
    record.final = [FinalRun(1, 7, status=Status.FINISHED, test={"test/em": 0.25})]
    record.note(1, 2.0, epoch={"epoch": 2, "val/em": 0.5}, reported=2.0)
    record.save()
    record.note(2, 3.0, params={}, status=Status.FINISHED)
    record.note(2, 3.0, epoch={"epoch": 0, "val/em": 0.1}, reported=3.0)  # trains nothing

    read = SearchRecord.load(record.folder)

    assert read == record
    assert read.trials[2].epochs == [{"epoch": 0, "val/em": 0.1}]
    assert read.trials[1].n_epochs == 2


def test_a_final_run_that_nobody_runs_was_interrupted_and_its_search_was_not(record):
    record.status = Status.FINISHED
    record.final = [FinalRun(1, 7)]
    record.save()

    read = SearchRecord.load(record.folder)

    assert (read.status, read.final[0].status) == (Status.FINISHED, Status.INTERRUPTED)


@pytest.mark.parametrize(
    ("sections", "n"),
    [
        ({}, 1),
        ({"final": {"top_k": 2}}, 2),
        ({"rescore": {"decode.num_beams": {"choice": [1, 2]}}, "final": {"top_k": 2}}, 3),
    ],
)
def test_models_that_are_needed_after_the_trials_are_kept(load, sections, n):
    assert n_kept(load(**sections)) == n
