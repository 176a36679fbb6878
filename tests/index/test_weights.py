"""A model folder is whole or refused, and its hash follows contents alone."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from ragsearch.errors import BadInputError
from ragsearch.index.weights import (
    TOKENIZERS,
    choose_pooling,
    fingerprint_model,
    model_config,
    model_folder,
)
from tests.tiny import Tiny, tiny_bert


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.bert, tmp_path / "model"))


def test_moving_or_touching_a_model_keeps_its_hash(model: Path) -> None:
    before = fingerprint_model(model)
    (model / "README.md").write_text("not part of the model")
    os.utime(model / "model.safetensors", (1, 1))

    moved = model.rename(model.with_name("moved"))

    assert fingerprint_model(moved) == before


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_any_changed_part_changes_the_hash(model: Path, file: str) -> None:
    before = fingerprint_model(model)

    with (model / file).open("ab") as part:
        part.write(b" ")

    assert fingerprint_model(model) != before


def test_a_folder_without_anything_is_told_all_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no config.json") as caught:
        model_folder(tmp_path)

    assert len(caught.value.mistakes) == 3
    assert "has no tokenizer (tokenizer.json" in str(caught.value)
    assert "has no safetensors weights" in str(caught.value)


def test_pickled_weights_are_refused_with_the_way_out(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")

    with pytest.raises(BadInputError, match=r"only pickled weights .* `save_pretrained`"):
        model_folder(model)


def test_a_missing_folder_is_no_hub_id() -> None:
    with pytest.raises(BadInputError, match="no such model folder, and no hub id"):
        model_folder("/no/such/folder")


@pytest.mark.usefixtures("hub_cache")
def test_an_unreachable_hub_is_told() -> None:
    with pytest.raises(BadInputError, match="someone/tiny: no such model folder, and the hub"):
        model_folder("someone/tiny")


def test_a_model_in_the_hub_cache_is_found(tiny: Tiny, hub_cache: Path) -> None:
    repository = hub_cache / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny.bert, repository / "snapshots" / ("0" * 40))

    assert fingerprint_model("someone/tiny") == fingerprint_model(tiny.bert)


@pytest.mark.parametrize(
    ("text", "what"), [("{", "is no JSON"), ("[]", "is no JSON object"), ("\xff", "is no JSON")]
)
def test_a_damaged_config_is_refused(model: Path, text: str, what: str) -> None:
    (model / "config.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(BadInputError, match=what):
        model_config(model)


def test_every_tokenizer_file_counts_as_one(model: Path) -> None:
    (model / "tokenizer.json").rename(model / "spare")

    for name in TOKENIZERS:
        (model / name).touch()
        assert model_folder(model) == model
        (model / name).unlink()


@pytest.mark.parametrize(
    ("kind", "asked", "settled"),
    [
        ("dpr", "auto", "pooler"),
        ("dpr", "pooler", "pooler"),
        ("bert", "auto", "mean"),
        ("bert", "cls", "cls"),
        ("bert", "pooler", "pooler"),
    ],
)
def test_auto_is_the_pooler_for_dpr_and_the_mean_for_others(
    kind: str, asked: str, settled: str
) -> None:
    assert choose_pooling({"model_type": kind}, asked, "m") == settled


def test_dpr_pools_by_itself_only() -> None:
    with pytest.raises(BadInputError, match=r"m: pooling: a DPR encoder pools by itself"):
        choose_pooling({"model_type": "dpr"}, "mean", "m")


def test_config_is_read_without_transformers(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)

    assert model_config(folder) == json.loads((folder / "config.json").read_text())


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache that huggingface_hub takes for its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"
