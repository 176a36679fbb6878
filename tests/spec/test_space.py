"""Conditions, bundles, derived values, constraints and points to try first: file to trial."""

# The tables below read better with their long messages split in place:
# ruff: noqa: ISC004, E501

import json
from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.spec import Spec, load_spec
from tests.spec.spaces import VALID, write_space

HEAD, TAIL = VALID[: VALID.index("space:")], VALID[VALID.index("search:") :]


@pytest.fixture
def load(tmp_path: Path):
    """Load the valid file with another space, constraints and what else is given."""
    path = write_space(tmp_path)

    def load(*overrides: str, **sections: object) -> Spec:
        written = "".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items())
        path.write_text(HEAD + written + TAIL, encoding="utf-8")
        return load_spec(path, overrides)

    return load


def refused(load, *overrides: str, **sections: object) -> list[str]:
    """Mistakes without the file, each after its line's key."""
    with pytest.raises(BadInputError) as caught:
        load(*overrides, **sections)
    return [f"{mistake.key}: {mistake.what}" for mistake in caught.value.mistakes]


RATIO = {
    "optim.question_encoder_lr_ratio": {
        "log": [0.01, 1.0],
        "when": "not model.freeze_question_encoder",
    },
    "model.freeze_question_encoder": {"choice": [True, False]},
}
BUNDLE = {
    "reader": {
        "bundle": [
            {"retrieval.index": "one", "retrieval.n_docs": 2},
            {"retrieval.index": "two", "retrieval.n_docs": 4},
        ]
    }
}
WARM_UP = {
    "train.max_epochs": {"int": [1, 9]},
    "optim.warmup_steps": {"derive": "round(2.5 * train.max_epochs)"},
}


def settled(spec: Spec, **choices: object) -> dict[str, object]:
    """Values of a trial for which these are chosen, by the last word of each name."""
    return spec.space.resolve(spec.look_up, lambda entry: choices[entry.name.split(".")[-1]])


def test_a_parameter_that_is_not_active_keeps_the_baselines_value(load):
    spec = load(space=RATIO)

    active = settled(spec, freeze_question_encoder=False, question_encoder_lr_ratio=0.5)
    passive = settled(spec, freeze_question_encoder=True)

    assert active["optim.question_encoder_lr_ratio"] == 0.5
    assert passive == {"model.freeze_question_encoder": True}
    assert spec.trial_with(passive).optim.question_encoder_lr_ratio == 1.0


def test_the_keys_of_a_bundle_move_together(load):
    spec = load(space=BUNDLE)

    assert settled(spec, reader=("two", 4)) == {"retrieval.index": "two", "retrieval.n_docs": 4}
    assert spec.used_indexes == ["one", "two"]
    assert spec.combinations("retrieval.index", "retrieval.n_docs") == [("one", 2), ("two", 4)]


def test_models_in_a_bundle_are_found_from_the_files_folder(load, tmp_path):
    options = [
        {"model.generator": f"models/{name}", "retrieval.n_docs": n}
        for name, n in (("bart", 2), ("t5", 3))
    ]
    spec = load(space={"pair": {"bundle": options}})

    assert [option[0] for option in spec.domains["pair"].values()] == [
        str(tmp_path / "models/bart"),
        str(tmp_path / "models/t5"),
    ]


def test_a_derived_value_follows_what_it_is_computed_from(load):
    spec = load(space=WARM_UP)

    assert spec.file.trial.optim.warmup_steps == 8
    assert settled(spec, max_epochs=4)["optim.warmup_steps"] == 10
    assert spec.trial_with({"train.max_epochs": 9}).optim.warmup_steps == 22
    assert load("trial.train.max_epochs=1", space=WARM_UP).file.trial.optim.warmup_steps == 2


def test_a_chain_of_conditions_and_derived_values_is_settled_in_order(load):
    space = {
        "optim.warmup_steps": {"derive": "retrieval.n_docs * 10"},
        "retrieval.n_docs": {"int": [1, 3], "when": "model.normalise"},
        "model.normalise": {"choice": [True, False], "when": "model.type == 'rag_token'"},
        "model.type": {"choice": ["rag_sequence", "rag_token"]},
    }
    spec = load(space=space)

    assert settled(spec, type="rag_sequence") == {
        "model.type": "rag_sequence",
        "optim.warmup_steps": 20,
    }
    whole = settled(spec, type="rag_token", normalise=True, n_docs=3)
    assert whole["optim.warmup_steps"] == 30


def test_a_proposal_that_breaks_a_constraint_is_rejected_with_its_text(load):
    text = "retrieval.n_docs * optim.effective_batch <= 32"
    space = {"retrieval.n_docs": {"int": [1, 4]}}
    spec = load(space=space, constraints=[text, {"metric": "val/em", "min": 0.1}])

    assert spec.rejects({}) is None
    assert spec.rejects({"retrieval.n_docs": 2}) is None
    assert spec.rejects({"retrieval.n_docs": 3}) == text
    assert [one.metric for one in spec.file.outcome_constraints] == ["val/em"]
    assert 0.4 < spec.acceptance() < 0.6
    assert spec.acceptance() == spec.acceptance()


def test_what_goes_wrong_between_the_values_tried_rejects_a_proposal_and_breaks_nothing(load):
    space = {
        "optim.weight_decay": {"uniform": [0.0, 1.0]},
        "regularisation.dropout": {"derive": "0.1 / (2 * optim.weight_decay - 1) ** 2"},
    }
    spec = load("trial.optim.weight_decay=0.0", space=space)

    half = settled(spec, weight_decay=0.5)
    assert half == {"optim.weight_decay": 0.5}
    assert "column 5: divides by zero" in spec.rejects(half)
    near = settled(spec, weight_decay=0.6)
    assert spec.rejects(near).startswith("trial.regularisation.dropout: must be below 1.0")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "optim.lr < 1"}},
            "space.optim.weight_decay.when: column 1: 'optim.lr' is no key of trial; did you mean"
            " 'optim.learning_rate'?",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "model.type == rag_token"}},
            "space.optim.weight_decay.when: column 15: 'rag_token' is no key of trial; a text"
            " needs quotes: 'rag_token'",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": True}},
            "space.optim.weight_decay.when: must be an expression in quotes, not true",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "1 +"}},
            "space.optim.weight_decay.when: column 4: ends too early",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "optim.weight_decay > 0"}},
            "space.optim.weight_decay.when: depends on itself; drop one of the conditions",
        ),
        (
            {
                "optim.weight_decay": {"log": [0.1, 1], "when": "retrieval.n_docs > 1"},
                "retrieval.n_docs": {"int": [1, 3], "when": "optim.weight_decay > 0"},
            },
            "space.optim.weight_decay.when: depends on itself, by way of retrieval.n_docs; drop",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "model.type < 3"}},
            "space.optim.weight_decay.when: column 12: text and a number have no order, which '<'"
            " asks for, where model.type is 'rag_sequence'",
        ),
        (
            {"optim.weight_decay": {"log": [0.1, 1], "when": "model.normalise"}},
            "space.optim.weight_decay.when: holds in no trial; drop the parameter",
        ),
        (
            {
                "retrieval.n_docs": {"int": [0, 3], "when": "train.max_epochs > 1"},
                "train.max_epochs": {"int": [1, 9]},
            },
            "space.retrieval.n_docs: holds 0, but trial.retrieval.n_docs must be at least 1",
        ),
        (
            {"optim.warmup_steps": {"derive": "1 / retrieval.n_docs"}},
            "space.optim.warmup_steps.derive: holds 0.5, but trial.optim.warmup_steps must be a"
            " whole number, not 0.5",
        ),
        (
            {
                "optim.weight_decay": {"derive": "1 / (3 - retrieval.n_docs)"},
                "retrieval.n_docs": {"int": [1, 3]},
            },
            "space.optim.weight_decay.derive: column 3: divides by zero, where retrieval.n_docs"
            " is 3",
        ),
        (
            {"optim.learning_rate": {"derive": "0.1"}},
            "trial.optim.learning_rate: is 0.0001, but space derives 0.1 for the baseline; leave",
        ),
        (
            {"optim.weight_decay": {"derive": "0.1", "when": "true"}},
            "space.optim.weight_decay.when: a value that is derived has no other keys; drop it",
        ),
        (
            {"optim.lr": {"derive": "0.1"}},
            "space.optim.lr: is no key of trial that can vary; did you mean 'optim.learning_rat",
        ),
        (
            {"a.b": BUNDLE["reader"]},
            "space.a.b: a bundle's name has up to 64 letters, digits, _ and -, a letter first",
        ),
        (
            {"pair": {"bundle": [{"optim.lr": 1, "retrieval.n_docs": n} for n in (1, 2)]}},
            "space.pair.bundle.0.optim.lr: is no key of trial that can vary; did you mean",
        ),
        (
            {
                "pair": {
                    "bundle": [{"retrieval.backend": 1, "retrieval.n_docs": n} for n in (1, 2)]
                }
            },
            "space.pair.bundle.0.retrieval.backend: must be the same for all trials",
        ),
        (
            {**BUNDLE, "retrieval.n_docs": {"int": [1, 3]}},
            "space.retrieval.n_docs: retrieval.n_docs is set by space.reader already; keep one",
        ),
        (
            {
                "pair": {
                    "bundle": [
                        {"optim.weight_decay": 0.1, "retrieval.n_docs": 1},
                        {"optim.weight_decay": -1, "retrieval.n_docs": 2},
                    ]
                }
            },
            "space.pair.bundle.1.optim.weight_decay: holds -1 and 2, but trial.optim.weight_decay"
            " must be at least 0.0, not -1",
        ),
    ],
)
def test_a_wrong_entry_gives_one_sentence(load, space: dict, message: str):
    (mistake,) = refused(load, space=space)

    assert mistake.startswith(message)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("n_docs < 3", "constraints.1: column 1: 'n_docs' is no key of trial; a text needs"),
        ("retrieval.n_docs <", "constraints.1: column 19: ends too early"),
        ("retrieval.n_docs", "constraints.1: column 1: comes to a number and not to true or"),
        ("1 / (retrieval.n_docs - 1) > 0", "constraints.1: column 3: divides by zero, where"),
        (
            "retrieval.n_docs < 2",
            "constraints.1: 'retrieval.n_docs < 2' is broken by the baseline, where"
            " retrieval.n_docs is 2; change one",
        ),
        (" ", "constraints.1: is empty; give a value"),
    ],
)
def test_a_wrong_constraint_gives_one_sentence(load, constraint: str, message: str):
    space = {"retrieval.n_docs": {"int": [1, 4]}}
    found = refused(load, space=space, constraints=["true", constraint])

    assert found[0].startswith(message)


def test_a_constraint_that_no_proposal_fulfils_is_refused(load):
    space = {"retrieval.n_docs": {"int": [3, 4]}}

    assert refused(load, space=space, constraints=["retrieval.n_docs < 3"]) == [
        "constraints: none of 10000 random proposals fulfils them; relax one, or narrow domains"
    ]


FROZEN = {
    "model.freeze_generator": {"choice": [True, False]},
    "model.freeze_question_encoder": {"choice": [True, False]},
}


def test_what_constraints_and_conditions_rule_out_is_not_refused(load):
    both = "not (model.freeze_generator and model.freeze_question_encoder)"
    condition = FROZEN["model.freeze_generator"] | {"when": "not model.freeze_question_encoder"}

    assert refused(load, space=FROZEN)[0].endswith("leaves nothing to train; drop one")
    assert load(space=FROZEN, constraints=[both]).space.constraints
    assert load(space=FROZEN | {"model.freeze_generator": condition}).space.entries


def test_what_a_condition_allows_is_refused_all_the_same(load):
    condition = FROZEN["model.freeze_generator"] | {"when": "model.freeze_question_encoder"}

    (mistake,) = refused(load, space=FROZEN | {"model.freeze_generator": condition})

    assert "leaves nothing to train" in mistake


def test_a_key_of_one_generator_may_vary_where_that_one_is_chosen(load, tmp_path):
    t5 = str(tmp_path / "models/t5")
    space = {
        "model.generator": {"choice": ["models/bart", "models/t5"]},
        "regularisation.attention_dropout": {"uniform": [0.0, 0.2]},
    }
    assert "is a t5, which has none" in refused(load, space=space)[0]

    space["regularisation.attention_dropout"]["when"] = f"model.generator != '{t5}'"
    assert load(space=space).space.entries


def test_a_value_is_tried_where_its_condition_holds(load):
    """Steps of warm-up go only without a share of it, which the baseline has."""
    space = {
        "optim.warmup_share": {"choice": [0.0, 0.1]},
        "optim.warmup_steps": {"int": [1, 9], "when": "optim.warmup_share == 0"},
    }
    assert load("trial.optim.warmup_share=0.1", space=space).space.entries


def test_points_to_try_first_are_kept(load):
    spec = load(space=BUNDLE | RATIO, try_first=[{"retrieval.index": "two"}])

    assert spec.file.try_first == ({"retrieval.index": "two"},)
    assert spec.space.completed(spec.file.try_first[0]) == {
        "retrieval.index": "two",
        "retrieval.n_docs": 4,
    }


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"optim.lr": 1}, "try_first.0.optim.lr: does not vary in space; known are optim.q"),
        ({"optim.warmup_steps": 3}, "try_first.0.optim.warmup_steps: is derived from others"),
        ({"train.max_epochs": 99}, "try_first.0.train.max_epochs: 99 is not in its domain in"),
        (
            {"retrieval.n_docs": 3},
            "try_first.0.retrieval.n_docs: no option of bundle reader fit",
        ),
        (
            {"optim.question_encoder_lr_ratio": 0.5, "model.freeze_question_encoder": True},
            "try_first.0.optim.question_encoder_lr_ratio: does not vary there, as 'not model.fre"
            "eze_question_encoder' is false; leave it out",
        ),
        ({"train.max_epochs": 7}, "try_first.0: breaks 'train.max_epochs != 7'; change one"),
        (
            {"model.type": "rag_token"},
            "try_first.0: leaves optim.weight_decay open, and the baseline's is not in its",
        ),
    ],
)
def test_a_point_that_cannot_be_proposed_is_refused(load, point: dict, message: str):
    decay = {"uniform": [0.1, 0.2], "when": "model.type == 'rag_token'"}
    kinds = {"choice": ["rag_sequence", "rag_token"]}
    space = BUNDLE | RATIO | WARM_UP | {"model.type": kinds, "optim.weight_decay": decay}
    (mistake,) = refused(
        load, space=space, try_first=[point], constraints=["train.max_epochs != 7"]
    )

    assert mistake.startswith(message)


def test_a_spec_with_all_of_it_is_written_and_read_as_the_same(load, tmp_path):
    spec = load(
        space=BUNDLE
        | RATIO
        | WARM_UP
        | {"optim.weight_decay": {"normal": [0.0, 0.01], "bounds": [0.0, 0.1]}},
        constraints=["train.max_epochs != 7", {"metric": "val/em", "min": 0.1}],
        try_first=[{"retrieval.index": "two", "train.max_epochs": 2}],
    )
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml(), encoding="utf-8")

    assert load_spec(again).digest == spec.digest
    assert load_spec(again).space == spec.space
