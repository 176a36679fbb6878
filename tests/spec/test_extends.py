from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec
from tests.spec.spaces import VALID, write_space


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return write_space(tmp_path / "shared")


def child(base: Path, text: str, name: str = "mine.yaml") -> Path:
    path = base.parents[1] / name
    path.write_text(text, encoding="utf-8")
    return path


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load_spec(path, overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_a_file_is_laid_over_the_one_it_extends(base: Path):
    path = child(
        base,
        "extends: shared/space.yaml\nname: mine\ntrial: {optim: {learning_rate: 2e-4}}\n"
        "space:\n  optim.learning_rate: {uniform: [1e-4, 1e-3]}\n  retrieval.index: null\n"
        "objectives: [{metric: val/f1}]\n",
    )
    spec, under = load_spec(path), load_spec(base)

    assert spec.file.name == "mine"
    assert spec.file.trial.optim.learning_rate == 2e-4
    assert spec.file.trial.optim.effective_batch == under.file.trial.optim.effective_batch
    assert spec.file.data == under.file.data
    assert spec.file.objectives[0].metric == "val/f1"
    assert list(spec.domains) == [
        "retrieval.n_docs", "optim.learning_rate", "regularisation.dropout"
    ]  # fmt: skip
    assert spec.domains["optim.learning_rate"].to_plain() == {"uniform": [1e-4, 1e-3]}


def test_each_file_finds_its_own_paths_and_a_chain_is_followed(base: Path, tmp_path: Path):
    (tmp_path / "own.jsonl").write_text((base.parent / "val.jsonl").read_text())
    child(base, "extends: shared/space.yaml\ndata: {val: own.jsonl}\n", "middle.yaml")
    path = child(base, "extends: middle.yaml\nseed: 9\n")
    spec = load_spec(path)

    assert spec.file.data.val == str(tmp_path / "own.jsonl")
    assert spec.file.data.train == str(base.parent / "train.jsonl")
    assert spec.file.seed == 9


def test_a_mistake_is_told_in_the_file_and_line_that_has_it(base: Path):
    base.write_text(VALID.replace("n_docs: 2", "n_docs: 0"))
    path = child(base, "extends: shared/space.yaml\ntrial:\n  optim: {learning_rate: -1}\n")

    assert mistakes_of(path) == [
        f"{path}:3: trial.optim.learning_rate: must be above 0.0, not -1",
        f"{base}:19: trial.retrieval.n_docs: must be at least 1, not 0",
    ]


def test_what_is_replaced_is_blamed_no_more(base: Path):
    base.write_text(VALID.replace("{int: [1, 3]}", "{int: [3, 1]}"))
    path = child(
        base, "extends: shared/space.yaml\nspace:\n  retrieval.n_docs: {int: [0, 3]}\n"
    )

    (mistake,) = mistakes_of(path)
    assert mistake.startswith(f"{path}:3: space.retrieval.n_docs: holds 0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: no.yaml\n", "mine.yaml:1: extends: no such space file: "),
        (
            "extends: [a]\n",
            "mine.yaml:1: extends: must be the path of a space file, not a list",
        ),
        ("extends: ' '\n", "mine.yaml:1: extends: must be the path of a space file, not ' '"),
        (
            "extends: mine.yaml\n",
            "mine.yaml:1: extends: leads in a circle: mine.yaml extends mi",
        ),
        ("extends: shared\n", "shared: cannot be read: Is a directory"),
        ("name: x\nextends: shared/bad.yaml\n", "shared/bad.yaml:2: is not YAML"),
        ("extends: shared/twice.yaml\n", "shared/twice.yaml:2: seed: given twice, first in"),
        ("extends: shared/unset.yaml\n", "shared/unset.yaml:1: name: names NO_SUCH, which is"),
        (
            "extends: shared/back.yaml\n",
            "back.yaml:1: extends: leads in a circle: mine.yaml ext",
        ),
        ('extends: "a\\0b"\n', "cannot be read: embedded null byte"),
    ],
)
def test_what_cannot_be_extended_is_told_in_one_sentence(base: Path, text: str, message: str):
    (base.parent / "bad.yaml").write_text("a: 1\n\tb: 2\n")
    (base.parent / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (base.parent / "unset.yaml").write_text("name: ${NO_SUCH}\n")
    (base.parent / "back.yaml").write_text("extends: ../mine.yaml\n")

    (mistake,) = mistakes_of(child(base, text))
    assert message in mistake


def test_what_to_extend_is_not_said_in_an_option(base: Path):
    assert mistakes_of(base, "extends=space.yaml") == [
        "-o extends: must stand in the space file, not in an option"
    ]


def test_an_option_ends_that_a_key_varies(base: Path):
    assert "retrieval.n_docs" not in load_spec(base, ["space.retrieval.n_docs=null"]).domains


def test_variables_stand_for_themselves_in_texts(base: Path, monkeypatch):
    monkeypatch.setenv("WHERE", str(base.parent))
    monkeypatch.setenv("EMPTY", "")
    base.write_text(VALID.replace("train: train.jsonl", "train: '${WHERE}/train.jsonl'"))
    spec = load_spec(
        base,
        [
            "data.val=${NO_SUCH:-val}.jsonl",
            "trial.model.prefix='$${x} ${EMPTY:-y}${EMPTY}: '",
            "indexes.one.corpus=${WHERE}/kb.jsonl",
        ],
    )
    again = base.with_name("again.yaml")
    again.write_text(spec.to_yaml())

    assert spec.file.data.train == str(base.parent / "train.jsonl")
    assert spec.file.data.val == str(base.parent / "val.jsonl")
    assert spec.file.trial.model.prefix == "${x} y: "
    assert load_spec(again).digest == spec.digest


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${NO_SUCH}", "names NO_SUCH, which is not set; set it or write ${NO_SUCH:-default}"),
        ("${", "holds '${', which names no variable; write ${NAME}, or $${ for the signs"),
        ("${1x}", "holds '${1x}', which names no variable"),
    ],
)
def test_a_variable_that_is_not_there_is_told_with_its_place(
    base: Path, value: str, message: str
):
    base.write_text(VALID.replace("name: kb", f"name: '{value}'"))

    assert mistakes_of(base)[0].startswith(f"{base}:2: name: {message}")
    base.write_text(VALID)
    assert mistakes_of(base, f"seed='{value}'")[0].startswith(f"-o seed: {message}")
    assert message in mistakes_of(base, "name=x", f"tracking.uri='http://{value}'")[0]


def test_a_secret_is_never_written(base: Path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hunter2")
    spec = load_spec(base, ["tracking.uri=http://me:${PASSWORD}@host"])
    again = base.with_name("again.yaml")
    again.write_text(spec.to_yaml())

    assert spec.file.tracking.address == "http://me:hunter2@host"
    assert "hunter2" not in repr(spec.resolved()) + spec.to_yaml() + repr(spec.file)
    assert load_spec(again).digest == spec.digest
