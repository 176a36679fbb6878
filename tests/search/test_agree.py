"""What of a space file may change when its search goes on."""

import logging
import shutil

import optuna
import pytest
import yaml

from ragsearch.errors import BadInputError
from ragsearch.search.agree import agreed_spec, covers, keep_resolved
from ragsearch.search.inputs import data_digests, model_digests
from ragsearch.search.record import FinalRun, SearchRecord, Status, TrialRecord, UsedIndex
from ragsearch.search.study import STUDY_FILE, SearchStudy, open_storage
from ragsearch.spec import Int, load_spec, parse_domain
from tests.search.conftest import SPACE, space_content

NAME = "tiny-20260102-030405"


@pytest.fixture
def content(tiny):
    return space_content(tiny, space=SPACE, budget={"trials": 3})


@pytest.fixture
def record(content, tmp_path):
    """Return an interrupted search: trial 0 finished, trial 1 did not."""
    folder = tmp_path / NAME
    folder.mkdir()
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))
    spec = load_spec(tmp_path / "space.yaml")
    keep_resolved(spec, folder)
    study = SearchStudy(spec, folder)
    asked = [study.ask(), study.ask()]
    study.report(asked[0], 1, [0.5])
    study.tell(asked[0], Status.FINISHED)
    record = SearchRecord(
        folder, "tiny", "val/em", "max", {}, "", id="1", data=data_digests(spec),
        status=Status.INTERRUPTED,
    )  # fmt: skip
    for trial, status in zip(asked, (Status.FINISHED, Status.INTERRUPTED), strict=True):
        record.trials[trial.number] = TrialRecord(trial.number, trial.values, status)
    return record


def keep(record, content):
    """Have a search be of another space file."""
    file = record.folder.parent / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    spec = load_spec(file)
    keep_resolved(spec, record.folder)
    return spec


def agreed(record, content=None, *overrides, add_trials=0):
    """Go on with a space file, or without one."""
    if content is None:
        return agreed_spec(record, None, overrides, add_trials)
    file = record.folder.parent / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    return agreed_spec(record, file, overrides, add_trials)


def test_without_a_space_file_the_one_that_was_kept_is_read(record):
    spec = agreed(record)

    assert spec.file.budget.trials == 3
    assert {*spec.domains} == {*SPACE}


def test_the_same_space_file_agrees(record, content):
    assert agreed(record, content).file.budget.trials == 3


def test_budgets_resources_and_algorithms_may_change_and_it_is_said(record, content, caplog):
    content |= {
        "budget": {"trials": 8, "wall": "8h"},
        "resources": {"max_concurrent": 2},
        "pool": {"replicas": 2},
        "search": {"algorithm": "random"},
    }

    with caplog.at_level(logging.INFO):
        agreed(record, content)

    assert "changed   budget.trials: 3 -> 8" in caplog.messages
    assert "changed   search.algorithm: auto -> random" in caplog.messages
    assert agreed(record).file.budget.wall == "8h"  # it is kept for the next time


def test_trials_are_added_to_those_of_the_budget(record):
    assert agreed(record, add_trials=4).file.budget.trials == 7
    assert agreed(record, add_trials=1).file.budget.trials == 8
    assert agreed(record, None, "budget.trials=9").file.budget.trials == 9


@pytest.mark.parametrize(
    ("section", "change", "complaint"),
    [
        ("seed", 4, "seed: is 4 and was 3 when the search began: trials would not be compar"),
        ("name", "other", "name: is 'other' and was 'tiny'"),
        ("objectives", [{"metric": "val/f1"}], "objectives: is .*val/f1.* and was .*val/em"),
        ("constraints", [{"metric": "val/em", "min": 0.1}], "constraints: is .* and was "),
        ("tracking", {"uri": "http://there:5000"}, "tracking.uri: is 'http://there:5000'"),
    ],
)
def test_what_trials_are_compared_by_must_not_change(
    record, content, section, change, complaint
):
    with pytest.raises(BadInputError, match=complaint):
        agreed(record, content | {section: change})


def test_another_trial_another_index_and_fewer_questions_are_refused_at_once(record, content):
    content["trial"] |= {"optim": {"learning_rate": 0.02}}
    content["indexes"]["tiny"]["faiss"] = "HNSW8,Flat"
    content["data"]["n_val"] = 4

    with pytest.raises(
        BadInputError, match=r"learning_rate: is 0\.02 and was 0\.01"
    ) as refused:
        agreed(record, content)

    keys = [mistake.key for mistake in refused.value.mistakes]
    assert {"trial.optim.learning_rate", "indexes.tiny.faiss", "data.n_val"} == set(keys)


def test_other_questions_in_the_same_file_are_refused(record, content):
    record.data["val"] = "0" * 64

    with pytest.raises(BadInputError, match=r"data\.val: the file holds other questions than"):
        agreed(record, content)


def test_an_index_whose_corpus_changed_is_refused(record):
    record.indexes["tiny"] = UsedIndex("/somewhere", "f" * 64)

    with pytest.raises(BadInputError, match=r"indexes\.tiny: is index \w{16} now and was ffff"):
        agreed(record)


def test_a_model_that_changed_in_its_folder_is_refused(record, content, tiny, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(tiny.t5, folder)
    content["trial"]["model"]["generator"] = str(folder)
    spec = keep(record, content)
    record.models = model_digests(spec)
    assert agreed(record).file.trial.model.generator == str(folder)

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # of the last weight, one bit
    (folder / "model.safetensors").write_bytes(weights)

    with pytest.raises(
        BadInputError, match=r"reader: holds another model than when the search"
    ):
        agreed(record)


def test_a_search_that_knows_no_models_yet_takes_them_as_they_are(record, tiny):
    assert record.models == {}

    agreed(record)

    assert record.models.keys() == {str(tiny.question_encoder), str(tiny.t5)}


def test_a_search_of_an_older_version_is_refused(record):
    record.id = ""

    with pytest.raises(BadInputError, match="made by an older ragsearch"):
        agreed(record)


def test_a_search_whose_trials_have_all_ended_is_extended_not_resumed(record):
    for number in (1, 2):
        record.trials[number] = TrialRecord(number, {}, Status.FAILED)

    with pytest.raises(BadInputError, match=rf"all 3 trials have ended, .* 10 \S*{NAME}`"):
        agreed(record)

    assert agreed(record, add_trials=1).file.budget.trials == 4


def test_wall_time_that_was_used_before_counts(record):
    record.wall_s = 61.0
    overrides = ("budget.wall=1m",)

    with pytest.raises(BadInputError, match=r"its 1m of wall time are used up \(61 s\)"):
        agreed(record, None, *overrides)

    assert agreed(record, None, "budget.wall=2m").file.budget.wall_s == 120


WIDER = {
    "model.type": {"choice": ["closed_book", "rag_sequence", "rag_token"]},
    "retrieval.n_docs": {"ordinal": [1, 2, 3, 5, 8]},
    "optim.learning_rate": {"log": [1e-6, 1e-1]},
    "optim.warmup_steps": {"int": [0, 80], "step": 10},
    "regularisation.dropout": {"uniform": [0.0, 0.3], "step": 0.05},
}


def test_wider_domains_are_taken_up_by_the_study(record, content, caplog):
    (before, others) = (record.trials[number].params for number in (0, 1))

    with caplog.at_level(logging.INFO):
        spec = agreed(record, content | {"space": WIDER})

    assert "optim.learning_rate: {'log': [1e-05, 0.01]} -> {'log': [1e-06, 0.1]}" in caplog.text
    study = SearchStudy(spec, record.folder)
    going_on = study.take_up(record, None)
    assert [trial.values for trial in going_on] == [others]
    asked = study.ask()
    assert asked.number == 2
    told = optuna.load_study(study_name=NAME, storage=open_storage(record.folder)).trials
    assert [trial.state.name for trial in told] == ["COMPLETE", "RUNNING", "RUNNING"]
    assert told[0].value == 0.5
    assert told[0].distributions == told[2].distributions
    assert told[0].params["optim.learning_rate"] == before["optim.learning_rate"]
    assert told[1].params["retrieval.n_docs"] == [1, 2, 3, 5, 8].index(
        others["retrieval.n_docs"]
    )


def test_whole_numbers_of_a_log_scale_are_told_again_in_a_wider_one(record, content):
    size = "train.batch_size"
    content |= {"search": {"algorithm": "random"}}
    narrow, wide = ({"int": [8, high], "step": 8, "log": True} for high in (16, 64))
    before = keep(record, content | {"space": {size: narrow}})
    (record.folder / STUDY_FILE).unlink()
    asked = [SearchStudy(before, record.folder).ask() for _ in range(3)]
    drawn = {each.number: each.values for each in asked}
    record.trials = {number: TrialRecord(number, drawn[number]) for number in drawn}

    now = agreed(record, content | {"space": {size: wide}})

    assert now.domains == {size: Int(8, 64, 8, log=True)}
    study = SearchStudy(now, record.folder)
    assert {each.number: each.values for each in study.take_up(record, None)} == drawn
    told = optuna.load_study(study_name=NAME, storage=open_storage(record.folder)).trials
    assert {trial.distributions[size].high for trial in told} == {68.0}


def test_a_study_that_was_widened_before_a_kill_is_widened_once(record, content):
    before = load_spec(record.folder / "resolved.json")
    agreed(record, content | {"space": WIDER})
    keep_resolved(before, record.folder)  # as a kill between the two leaves it

    spec = agreed(record, content | {"space": WIDER})

    told = SearchStudy(spec, record.folder).take_up(record, None)
    docs = optuna.load_study(study_name=NAME, storage=open_storage(record.folder)).trials[1]
    place = docs.params["retrieval.n_docs"]
    assert [1, 2, 3, 5, 8][place] == told[0].values["retrieval.n_docs"]


@pytest.mark.parametrize(
    ("path", "domain", "complaint"),
    [
        ("optim.learning_rate", {"log": [1e-4, 1e-2]}, "a domain can become wider, not lose"),
        ("model.type", {"choice": ["rag_token", "closed_book"]}, "not lose values"),
        ("retrieval.n_docs", None, "was varied when the search began"),
        ("decode.num_beams", {"choice": [1, 2]}, "was not varied when the search began"),
    ],
)
def test_domains_that_lose_values_appear_or_vanish_are_refused(
    record, content, path, domain, complaint
):
    space = {key: value for key, value in (SPACE | {path: domain}).items() if value}

    with pytest.raises(BadInputError, match=complaint) as refused:
        agreed(record, content | {"space": space})

    assert refused.value.mistakes[0].key == f"space.{path}"


@pytest.mark.parametrize(
    ("now", "before", "is_wider"),
    [
        ({"log": [1, 9]}, {"log": [2, 8]}, True),
        ({"uniform": [0, 9]}, {"log": [2, 8]}, True),
        ({"uniform": [0, 9], "step": 1}, {"uniform": [0, 9]}, False),
        ({"uniform": [0, 1]}, {"uniform": [0, 1], "step": 0.1}, True),
        ({"uniform": [0, 1], "step": 0.2}, {"uniform": [0, 1], "step": 0.1}, False),
        ({"int": [0, 9], "step": 3}, {"int": [0, 9]}, False),
        ({"int": [4, 64], "step": 4, "log": True}, {"int": [8, 64], "step": 8}, True),
        ({"int": [8, 64], "step": 8, "log": True}, {"int": [4, 64], "step": 4}, False),
        ({"choice": ["b", "a", "c"]}, {"choice": ["a", "b"]}, True),
        ({"ordinal": [1, 2]}, {"ordinal": [1, 2, 3]}, False),
    ],
)
def test_a_domain_covers_another_that_has_no_value_beside_its_own(now, before, is_wider):
    assert covers(parse_domain(now), parse_domain(before)) == is_wider


def test_a_search_whose_final_part_was_cut_off_goes_on_and_may_change_it(record, content, tiny):
    for number in range(3):
        epochs = [{"epoch": 1, "val/em": 0.5}]
        record.trials[number] = TrialRecord(number, {}, Status.FINISHED, epochs, [1.0])
    content["data"] = {**content["data"], "test": str(tiny.val)}

    spec = agreed(record, content | {"final": {"seeds": [1, 2]}})

    assert spec.file.final.seeds == (1, 2)
    assert agreed(record, None, "final.seeds=[3]").file.final.seeds == (3,)


def test_other_test_questions_are_refused_once_final_runs_were_scored(record, content, tiny):
    record.final = [FinalRun(0, 1, test={"test/em": 0.5})]
    content["data"] = {**content["data"], "test": str(tiny.val)}

    with pytest.raises(BadInputError, match=r"data\.test: is '.*' and was None when the"):
        agreed(record, content)


def test_validating_rungs_on_other_questions_is_refused(record, content):
    with pytest.raises(BadInputError, match="rung_examples: is 3 and was None when the search"):
        agreed(record, content | {"search": {"scheduler": {"rung_examples": 3}}})
