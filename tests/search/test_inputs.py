"""What a search finds as it was when it goes on."""

import os
import shutil

import pytest

from ragsearch.search.inputs import model_digest, model_digests

MIB = 1 << 20


@pytest.fixture
def model(tmp_path):
    """Return a folder with configuration and 8 MiB of weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(8 * MIB))
    return folder


def test_a_model_is_the_same_wherever_it_lies_and_whenever_it_was_written(model, tmp_path):
    before = model_digest(model)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    os.utime(other / "model.safetensors", (1, 1))
    (other / "README.md").write_text("what it is good for")

    assert model_digest(other) == before


@pytest.mark.parametrize("at", [0, 4 * MIB, 8 * MIB - 1])
def test_weights_that_changed_at_an_end_or_in_the_middle_are_noticed(model, at):
    before = model_digest(model)

    with (model / "model.safetensors").open("r+b") as file:
        file.seek(at)
        file.write(b"x")

    assert model_digest(model) != before


@pytest.mark.parametrize("file", ["config.json", "question_encoder_tokenizer/tokenizer.json"])
def test_another_configuration_or_tokenizer_is_noticed(model, file):
    before = model_digest(model)

    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_text('{"a": 1}')

    assert model_digest(model) != before


def test_every_folder_that_some_trial_opens_has_a_hash_and_hub_models_have_none(space_of, tiny):
    spec = space_of(
        space={"model.generator": {"choice": [str(tiny.bart), "facebook/bart-base"]}}
    )

    assert model_digests(spec).keys() == {
        str(folder) for folder in (tiny.question_encoder, tiny.t5, tiny.bart)
    }
