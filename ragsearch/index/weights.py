"""Model folders, from disk or the hub, and the hash of what is in them.

In: a folder or a hub id. Out: a folder with config, tokenizer and safetensors weights, or one
sentence on what it lacks. Reads names and bytes, never weights as numbers; imports no torch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ragsearch.errors import BadInputError, Mistake

Pooling = Literal["pooler", "cls", "mean"]
"""How token vectors become one, once `auto` is settled."""
AskedPooling = Literal["auto", "pooler", "cls", "mean"]

CONFIG = "config.json"
TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
"""Any one of these makes a tokenizer; without one Transformers invents one of five tokens."""
_FILES = (
    CONFIG,
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "*.safetensors",
    "model.safetensors.index.json",
)
_BLOCK_BYTES = 1 << 20


def model_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a model, fetched from the hub if it is no folder here.

    Raises:
        BadInputError: If there is no such model, or it lacks config, tokenizer or weights.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _fetch(str(name_or_path))
    _check_parts(folder, str(name_or_path))
    return folder


def model_config(name_or_path: str | Path) -> dict[str, object]:
    """Return what a model's `config.json` says.

    Raises:
        BadInputError: If there is no such model or its config is no JSON object.
    """
    path = model_folder(name_or_path) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError.single(
            path, f"is no JSON ({error}); save the model anew"
        ) from error
    if not isinstance(config, dict):
        raise BadInputError.single(path, "is no JSON object; save the model anew")
    return config


def choose_pooling(config: Mapping[str, object], asked: AskedPooling, name: str) -> Pooling:
    """Return how an encoder is pooled: `auto` is the pooler for DPR, else the mean.

    Args:
        config: The model's `config.json`.
        asked: What the user wrote.
        name: The model's name, for the message.

    Raises:
        BadInputError: If a DPR encoder shall be pooled otherwise; it returns nothing else.
    """
    if config.get("model_type") != "dpr":
        return "mean" if asked == "auto" else asked
    if asked not in {"auto", "pooler"}:
        what = f"a DPR encoder pools by itself, not by {asked!r}; choose auto or pooler"
        raise BadInputError.single(name, what, key="pooling")
    return "pooler"


def fingerprint_model(name_or_path: str | Path) -> str:
    """Return a hash over a model's config, tokenizer and weights.

    Names and contents of files count, their folder and their times do not. Reads every byte.

    Raises:
        BadInputError: If there is no such model, or it lacks a part.
    """
    folder = model_folder(name_or_path)
    digest = hashlib.sha256()
    for file in _parts(folder):
        digest.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _parts(folder: Path) -> Iterator[Path]:
    found = {file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()}
    yield from sorted(found)


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except HFValidationError as error:
        what = "no such model folder, and no hub id; check the path"
        raise BadInputError.single(name, what) from error
    except (HfHubHTTPError, OSError) as error:
        what = (
            "no such model folder, and the hub did not give it "
            f"({type(error).__name__}); check the name, or give a folder with the model"
        )
        raise BadInputError.single(name, what) from error


def _check_parts(folder: Path, name: str) -> None:
    lacks = [Mistake(name, "", what) for what in _lacking(folder)]
    if lacks:
        raise BadInputError(lacks)


def _lacking(folder: Path) -> Iterator[str]:
    if not (folder / CONFIG).is_file():
        yield f"has no {CONFIG}; give a folder that `save_pretrained` wrote"
    if not any((folder / file).is_file() for file in TOKENIZERS):
        yield f"has no tokenizer ({', '.join(TOKENIZERS)}); save it beside the model"
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("pytorch_model*.bin")):
        yield (
            "has only pickled weights (pytorch_model.bin), which are not read; convert them: "
            "load the model in Transformers and `save_pretrained` it to a new folder"
        )
    else:
        yield "has no safetensors weights; save the model beside its tokenizer"
