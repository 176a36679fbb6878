"""`ragsearch init`, and the space files that are shipped."""

from pathlib import Path

import pytest

from ragsearch.cli.starter import copy_starter, shipped_spaces
from ragsearch.errors import BadInputError
from ragsearch.spec import load_spec

SPACES = sorted(Path(str(shipped_spaces())).glob("*.yaml"))


def test_the_starter_loads_as_it_is(tmp_path):
    written = copy_starter(tmp_path / "kb", with_sample=False)

    assert written == [tmp_path / "kb/space.yaml", tmp_path / "kb/space.schema.json"]
    assert load_spec(written[0]).file.name == "starter"


def test_the_quickstart_copy_reads_its_own_data_and_models(tmp_path):
    written = copy_starter(tmp_path, with_sample=True)

    file = load_spec(tmp_path / "space.yaml").file
    assert [path.name for path in written] == [
        "space.yaml",
        "space.schema.json",
        "data",
        "models",
    ]
    assert file.data.train == str(tmp_path / "data/train.jsonl")
    assert file.indexes["words100"].encoder == str(tmp_path / "models/context_encoder")
    assert file.trial.model.generator == str(tmp_path / "models/generator")


@pytest.mark.parametrize("occupied", ["space.yaml", "space.schema.json", "data", "models"])
def test_what_exists_is_never_overwritten_and_nothing_else_is_written(tmp_path, occupied):
    (tmp_path / occupied).write_text("mine")

    with pytest.raises(BadInputError, match=f"{occupied}: exists already"):
        copy_starter(tmp_path, with_sample=True)

    assert [path.name for path in tmp_path.iterdir()] == [occupied]
    assert (tmp_path / occupied).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "kb").write_text("mine")

    with pytest.raises(BadInputError, match="kb: is a file; give a folder"):
        copy_starter(tmp_path / "kb", with_sample=False)


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_loads(space, tmp_path):
    text = space.read_text()
    overrides = []
    for key in ("data.train", "data.val", "data.test", "indexes.wiki.corpus"):
        if "indexes:\n  wiki:" in text:  # its data are the user's
            path = tmp_path / key
            path.touch()
            overrides.append(f"{key}={path}")

    spec = load_spec(space, overrides)

    assert spec.domains or spec.rescored
    assert spec.file.budget.trials > 1 or not spec.domains


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_says_what_it_is_for(space):
    comment = [line for line in space.read_text().splitlines() if line.startswith("# ")]

    for word in ("Purpose", "Command", "Hardware", "Time"):
        assert any(line.startswith(f"# {word}:") for line in comment)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_the_large_spaces_start_from_the_original_settings(kind, tmp_path):
    overrides = []
    for key in ("data.train", "data.val", "data.test", "indexes.wiki.corpus"):
        (tmp_path / key).touch()
        overrides.append(f"{key}={tmp_path / key}")

    trial = load_spec(str(shipped_spaces() / f"rag_{kind}_nq.yaml"), overrides).file.trial

    assert trial.model.type == f"rag_{kind}"
    assert trial.optim.learning_rate == pytest.approx(3e-5)
    assert (trial.optim.schedule, trial.optim.warmup_steps) == ("polynomial", 500)
    assert (trial.optim.weight_decay, trial.optim.max_grad_norm) == (0.001, 0.1)
    assert (trial.regularisation.dropout, trial.regularisation.label_smoothing) == (0.1, 0.1)
    assert (trial.train.max_source_length, trial.train.max_target_length) == (128, 25)
