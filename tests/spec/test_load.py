import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ragsearch
from ragsearch.errors import BadInputError
from ragsearch.spec import Choice, Int, Log, Spec, Uniform, load_spec
from ragsearch.spec.paths import resolve_model
from tests.spec.spaces import VALID, write_model, write_space

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_space(tmp_path)


@pytest.fixture
def spec(path: Path) -> Spec:
    return load_spec(path)


def test_a_valid_file_gives_sections_domains_and_its_text(spec: Spec, path: Path):
    assert spec.file.trial.optim.learning_rate == 1e-4
    assert spec.domains == {
        "retrieval.index": Choice(("one", "two")),
        "retrieval.n_docs": Int(1, 3),
        "optim.learning_rate": Log(1e-5, 1e-3),
        "regularisation.dropout": Uniform(0.0, 0.2, 0.1),
    }
    assert spec.source == path
    assert spec.text == VALID
    assert spec.file.budget.wall_s == 28_800


def test_the_smallest_file_is_a_dozen_lines(tmp_path: Path):
    text = """\
version: 1
name: small
data: {train: train.jsonl, val: val.jsonl}
indexes:
  kb: {corpus: kb.jsonl, encoder: models/encoder}
trial:
  model: {question_encoder: models/encoder, generator: models/t5}
budget: {trials: 1}
"""
    spec = load_spec(write_space(tmp_path, text))

    assert spec.domains == {}
    assert spec.file.objectives[0].metric == "val/em"
    assert spec.file.budget.wall_s is None


@pytest.mark.parametrize("retrieval", ["", "  retrieval: {}\n", '  retrieval: {index: ""}\n'])
def test_the_only_index_need_not_be_named(tmp_path: Path, retrieval: str):
    text = VALID[: VALID.index("  two:")] + VALID[VALID.index("trial:") : VALID.index("space:")]
    text = text.replace("  retrieval: {index: one, n_docs: 2}\n", retrieval)
    spec = load_spec(write_space(tmp_path, text + "budget: {trials: 1}\n"))

    assert spec.file.trial.retrieval.index == "one"


def test_paths_are_relative_to_the_file(spec: Spec, tmp_path: Path):
    assert spec.file.data.train == str(tmp_path / "train.jsonl")
    assert spec.file.indexes["two"].corpus == str(tmp_path / "kb.jsonl")
    assert spec.file.trial.model.generator == str(tmp_path / "models" / "bart")


def test_paths_of_models_in_the_space_are_resolved_too(path: Path, tmp_path: Path):
    option = "space.model.generator={choice: [models/bart, models/t5, facebook/bart-base]}"
    domain = load_spec(path, [option]).domains["model.generator"]

    models = tmp_path / "models"
    assert domain == Choice((str(models / "bart"), str(models / "t5"), "facebook/bart-base"))


def test_package_paths_lead_into_the_installed_package(path: Path):
    spec = load_spec(path, ["indexes.one.corpus=package:errors.py"])

    assert spec.file.indexes["one"].corpus == str(Path(ragsearch.__file__).parent / "errors.py")


@pytest.mark.parametrize(
    ("text", "is_hub_id"),
    [
        ("facebook/bart-base", True),
        ("bert-base-uncased", True),
        ("./bart", False),
        ("../bart", False),
        ("/bart", False),
        ("a/b/c", False),
        ("here", False),
        ("here/inner", False),
    ],
)
def test_a_model_is_a_hub_id_if_it_looks_like_one_and_no_folder_is_near(
    tmp_path: Path, text: str, *, is_hub_id: bool
):
    write_model(tmp_path / "here", "bart")

    assert (resolve_model(text, tmp_path) == text and text != "/bart") is is_hub_id


def test_overrides_set_keys_lists_and_domains(path: Path):
    overrides = [
        "budget.trials=9",
        "trial.optim.learning_rate=1e-6",
        "space.retrieval.n_docs={ordinal: [1, 2]}",
        "objectives=[{metric: val/f1}]",
        "objectives.0.goal=min",
        "tracking.uri=sqlite:///other.db",
    ]
    spec = load_spec(path, overrides)

    assert spec.file.budget.trials == 9
    assert spec.file.trial.optim.learning_rate == 1e-6
    assert spec.domains["retrieval.n_docs"].values() == (1, 2)
    assert spec.file.objectives[0].goal == "min"
    assert spec.file.tracking.uri == "sqlite:///other.db"
    assert spec.text == VALID


def test_an_empty_space_makes_a_search_a_training_run(path: Path):
    assert load_spec(path, ["space={}"]).domains == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "-o budget.trials: must read dotted.key=value"),
        ("=3", "-o =3: must read dotted.key=value"),
        ("budget..trials=3", "-o budget..trials=3: must read dotted.key=value"),
        ("budget.trials=[", "-o budget.trials: is not YAML"),
        ("seed.x=1", "-o seed.x: 'seed' holds no keys; set it as a whole"),
        ("objectives.0.metric=1", "-o objectives.0.metric: "),
        ("budget.trials=0", "-o budget.trials: must be at least 1, not 0"),
        ("budget.trial=2", "-o budget.trial: unknown key; did you mean 'trials'?"),
        ("data.train=no.jsonl", "-o data.train: no such file: "),
        ("budget={trials: 0}", "-o budget: budget.trials: must be at least 1, not 0"),
        ("space.retrieval.n_docs={int: [3, 1]}", "-o space.retrieval.n_docs: low 3 must be"),
        ("space.optim.n=3", "-o space.optim.n: is no key of trial that can vary"),
    ],
)
def test_a_wrong_override_is_a_mistake_at_the_option(path: Path, override: str, message: str):
    with pytest.raises(BadInputError) as caught:
        load_spec(path, [override])

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("line", "option", "message", "way_out"),
    [
        (
            "search: {startup_trials: 3}",
            "search.algorithm=random",
            "search.startup_trials: has no use, as search.algorithm is random; leave it out",
            "search.startup_trials=null",
        ),
        (
            "search: {scheduler: {eta: 2}}",
            "search.scheduler.name=none",
            "search.scheduler.eta: has no use, as search.scheduler.name is none; leave it out",
            "search.scheduler.eta=3",
        ),
        (
            "    question_encoder_lr_ratio: 0.5",
            "trial.model.freeze_question_encoder=true",
            (
                "trial.optim.question_encoder_lr_ratio: has no use, as "
                "model.freeze_question_encoder is true; leave it out"
            ),
            "trial.optim.question_encoder_lr_ratio=1.0",
        ),
    ],
)
def test_a_key_of_the_file_that_an_option_makes_useless_is_taken_back_by_another(
    path: Path, line: str, option: str, message: str, way_out: str
):
    place = (
        "    effective_batch: 16"
        if line.startswith(" ")
        else "search: {scheduler: {min: 1, eta: 3}}"
    )
    path.write_text(VALID.replace(place, line))
    load_spec(path)

    with pytest.raises(BadInputError) as caught:
        load_spec(path, [option])

    assert str(caught.value).endswith(f": {message}, or say -o {way_out}")
    load_spec(path, [option, way_out])


def test_a_key_that_the_file_itself_makes_useless_is_to_be_left_out(path: Path):
    path.write_text(
        VALID.replace("search: {", "search: {algorithm: random, startup_trials: 3, ")
    )

    with pytest.raises(BadInputError, match=r"is random; leave it out$"):
        load_spec(path)


def test_mistakes_of_options_come_after_those_of_the_file(path: Path):
    path.write_text(VALID.replace("trials: 4", "trials: 0"))

    with pytest.raises(BadInputError) as caught:
        load_spec(path, ["seed=x", "name=a b"])

    places = [mistake.place for mistake in caught.value.mistakes]
    assert places == [f"{path}:31", "-o name", "-o seed"]


def test_a_trial_is_the_baseline_with_other_values(spec: Spec):
    trial = spec.trial_with({"optim.learning_rate": 3e-4, "retrieval.n_docs": 1})

    assert trial.optim.learning_rate == 3e-4
    assert trial.retrieval.n_docs == 1
    assert trial.optim.effective_batch == spec.file.trial.optim.effective_batch
    assert spec.trial_with({}) == spec.file.trial


def test_numpy_scalars_become_pythons(spec: Spec):
    values = {"retrieval.n_docs": np.int64(3), "regularisation.dropout": np.float32(0.5)}
    trial = spec.trial_with(values)

    assert type(trial.retrieval.n_docs) is int
    assert type(trial.regularisation.dropout) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retrieval.n_docs": 0}, "trial.retrieval.n_docs: must be at least 1, not 0"),
        ({"optim.lr": 1.0}, "trial.optim.lr: unknown key; did you mean 'learning_rate'?"),
    ],
)
def test_a_trial_refuses_values_as_the_file_does(
    spec: Spec, values: dict[str, object], message: str
):
    with pytest.raises(BadInputError, match=f"^{message.replace('?', '.')}"):
        spec.trial_with(values)


def test_attention_dropout_is_refused_for_a_local_t5_and_not_for_bart(path: Path):
    dropout = "trial.regularisation.attention_dropout=0.1"
    load_spec(path, [dropout])

    with pytest.raises(BadInputError, match="models/t5 is a t5, which has none; leave it out"):
        load_spec(path, [dropout, "trial.model.generator=models/t5"])


def test_precision_may_be_written_as_a_number(path: Path):
    assert load_spec(path, ["trial.train.precision=32"]).file.trial.train.precision == "32"


def test_half_precision_without_autocast_is_refused(path: Path):
    """B14: with label smoothing stock sums float16 to -inf, and the loss is no number."""
    with pytest.raises(BadInputError, match=r"trial\.train\.precision: .*16-true"):
        load_spec(path, ["trial.train.precision=16-true", "resources.per_trial.gpu=1"])


def test_half_precision_is_taken_with_a_gpu(path: Path):
    overrides = ["trial.train.precision=16-mixed", "resources.per_trial.gpu=0.5"]

    assert load_spec(path, overrides).file.resources.per_trial.gpu == 0.5


def test_a_spec_travels_to_other_processes(spec: Spec):
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_later_checks_can_name_the_line_of_a_key(spec: Spec, path: Path):
    mistake = spec.mistake(("space", "retrieval.n_docs"), "is odd")

    assert str(mistake) == f"{path}:27: space.retrieval.n_docs: is odd"
    assert spec.mistake("indexes.one.faiss", "is odd").place == f"{path}:8"


def test_the_digest_is_that_of_the_settings_and_not_of_the_wording(path: Path, spec: Spec):
    path.write_text("# a comment\n" + VALID.replace("1e-4", "0.0001"))

    assert load_spec(path).digest == spec.digest
    assert load_spec(path, ["seed=4"]).digest != spec.digest
    assert json.loads(json.dumps(spec.resolved())) == spec.resolved()


CHANGES = {
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}", fullmatch=True),
    "seed": st.integers(0, 2**31 - 1),
    "budget.trials": st.integers(1, 1000),
    "trial.optim.learning_rate": st.floats(1e-12, 10),
    "trial.optim.adam_epsilon": st.floats(1e-300, 1e300),
    "trial.retrieval.index": st.sampled_from(["one", "two"]),
    "trial.model.type": st.sampled_from(["rag_sequence", "rag_token"]),
    "trial.model.generator": st.sampled_from(["models/t5", "facebook/bart-base", "1e5"]),
    "trial.model.freeze_question_encoder": st.booleans(),
    "indexes.one.chunk": st.none() | st.just({"words": 7}),
    "objectives": st.just([{"metric": "val/nll", "goal": "min"}]),
    "space.model.type": st.just({"choice": ["rag_token", "rag_sequence"]}),
    "space.optim.weight_decay": st.builds(
        lambda low, width: {"uniform": [low, low + width]}, st.floats(0, 1), st.floats(0.1, 9)
    ),
    "space.train.max_epochs": st.just({"int": [2, 32], "log": True}),
    "space.train.batch_size": st.just({"int": [8, 64], "step": 8, "log": True}),
    "space": st.just({}),
}


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.fixed_dictionaries({}, optional=CHANGES))
def test_a_resolved_spec_is_read_back_as_the_same(path: Path, changes: dict[str, object]):
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    spec = load_spec(path, sorted(overrides))

    dumped = path.with_name("dumped.yaml")
    dumped.write_text(spec.to_yaml(), encoding="utf-8")
    again = load_spec(dumped)

    assert again.digest == spec.digest
    assert again.domains == spec.domains
    assert again.file == spec.file.model_copy(update={"space": again.file.space})


def test_a_resolved_spec_is_yaml_that_others_read(spec: Spec):
    assert yaml.safe_load(spec.to_yaml())["name"] == "kb"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_lack_nothing_but_the_files_a_user_brings(path: Path):
    try:
        mistakes = [] if load_spec(path).file.name else None
    except BadInputError as error:
        mistakes = [m for m in error.mistakes if not m.what.startswith("no such file")]

    assert mistakes == []
