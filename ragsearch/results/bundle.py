"""A bundle: the folder `export` writes, which holds one trained model and all about it.

Stock Transformers opens the folder as it is. `manifest.json` says where the model comes from,
which index it belongs to and what each file must hold.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.weights import sha256_file

MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
RETRIEVER_FOLDER = "retriever"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class IndexReference:
    """The index a model was trained with, and has to be asked with."""

    name: str
    """Its name in the space file."""
    folder: str
    """Where it lay when the bundle was written."""
    fingerprint: str
    n_passages: int
    dimension: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a bundle comes from, and what its files hold."""

    format: int
    search: str
    trial: int
    metrics: Mapping[str, float]
    """Of the trial's best epoch, the one the weights are from, asked under its best setting."""
    configuration: Mapping[str, Any]  # Any: a `trial:` section as plain data
    """The trial as a complete `trial:` section of a space file."""
    pooling: str | None
    """How the question encoder's token vectors become one; None without a question encoder."""
    decode: Mapping[str, float]
    index: IndexReference | None
    """None for a model that retrieves nothing."""
    spec: Mapping[str, Any]  # Any: a space file as plain data
    """The search's space file, with every default filled in."""
    versions: Mapping[str, str]
    """Of the libraries the bundle was written with."""
    sha256: Mapping[str, str]
    """Of every file but this one and the card, which people may edit."""
    seed: int | None = None
    """Of the final run that trained the model; None where a trial of the search did."""

    def save(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Return the manifest of a bundle.

        Raises:
            BadInputError: If there is none, or a damaged one, or one of another format.
        """
        file = folder / MANIFEST_FILE
        if not file.is_file():
            what = f"no {MANIFEST_FILE} here; give a folder written by `ragsearch export`"
            raise BadInputError.single(folder, what)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content["format"]
            if found == FORMAT:
                index = content["index"]
                reference = None if index is None else IndexReference(**index)
                return cls(**content | {"index": reference})
        except (ValueError, TypeError, KeyError) as error:
            what = f"the manifest is damaged ({error}); export the trial again"
            raise BadInputError.single(file, what) from error
        what = f"the bundle has format {found!r} and this version reads {FORMAT}; export again"
        raise BadInputError.single(file, what)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk."""

    folder: Path
    manifest: Manifest


def open_bundle(folder: Path | str) -> Bundle:
    """Return a bundle after checking that the files it needs are those exported.

    The index in stock Transformers' format, which only stock Transformers reads and which may
    be large, is not read.

    Raises:
        BadInputError: If it is no bundle, or a file is missing or changed.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    mistakes = [
        Mistake(str(folder / name), "", what)
        for name, expected in manifest.sha256.items()
        if not name.startswith(f"{RETRIEVER_FOLDER}/")
        and (what := _damage(folder / name, expected))
    ]
    if mistakes:
        raise BadInputError(mistakes)
    return Bundle(folder, manifest)


def checksums(folder: Path) -> dict[str, str]:
    """Hash every file of a folder and its subfolders but the manifest and the card."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        name: sha256_file(path)
        for name, path in files.items()
        if name not in {MANIFEST_FILE, CARD_FILE}
    }


def _damage(file: Path, expected: str) -> str:
    if not file.is_file():
        return "this file of the bundle is missing; export the trial again"
    if sha256_file(file) != expected:
        return "this file is not the one that was exported; export the trial again"
    return ""
