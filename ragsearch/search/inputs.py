"""What trials read, hashed, so that a search that goes on finds it as it was.

Indexes have fingerprints of their own; these are questions and model folders. Models of the hub
are known by their names alone.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ragsearch.data.questions import read_questions
from ragsearch.spec import Spec
from ragsearch.spec.models import CHECKPOINT_TOKENIZERS
from ragsearch.spec.paths import MODEL_KEYS

_BLOCK_BYTES = 1 << 20
_OF_MODELS = {".json", ".model", ".safetensors", ".txt"}


def data_digests(spec: Spec) -> dict[str, str]:
    """Return a hash of the questions that trials are trained and compared on, by their use."""
    data = spec.file.data
    return {
        "train": _digest(data.train, data.n_train),
        "val": _digest(data.val, data.n_val),
    }


def _digest(path: str, limit: int | None) -> str:
    digest = hashlib.sha256()
    for question in read_questions(Path(path), limit):
        digest.update(json.dumps(asdict(question)).encode())
    return digest.hexdigest()


def model_digests(spec: Spec) -> dict[str, str]:
    """Return a hash of every model folder that some trial opens, by folder."""
    named = (str(value) for path in MODEL_KEYS for value in spec.options(path))
    folders = {folder for folder in named if Path(folder).is_absolute()}  # else it is a hub id
    return {folder: model_digest(Path(folder)) for folder in sorted(folders)}


def model_digest(folder: Path) -> str:
    """Return a hash that changes where the model in a folder does.

    Of each file with configuration, tokenizer or weights, the name, the size, and a MiB at its
    beginning, in its middle and at its end count: training changes every weight, and gigabytes
    are not read for it. Times do not count, nor where the folder lies.
    """
    digest = hashlib.sha256()
    for part in (folder, *(folder / name for name in CHECKPOINT_TOKENIZERS)):
        for file in sorted(part.glob("*")):
            if file.suffix in _OF_MODELS and file.is_file():
                name = file.relative_to(folder).as_posix()
                digest.update(json.dumps([name, file.stat().st_size]).encode())
                for block in _sample(file):
                    digest.update(block)
    return digest.hexdigest()


def _sample(file: Path) -> Iterator[bytes]:
    """Yield a small file whole, and three blocks of a large one."""
    with file.open("rb") as content:
        last = content.seek(0, os.SEEK_END) - _BLOCK_BYTES
        if last <= 2 * _BLOCK_BYTES:
            content.seek(0)
            yield content.read()
            return
        for start in (0, last // 2, last):
            content.seek(start)
            yield content.read(_BLOCK_BYTES)
