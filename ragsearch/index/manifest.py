"""What an index folder says of itself: `manifest.json`, written last and read first.

Light: reading it loads no FAISS, Arrow or torch, so `ragsearch index info` is quick.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.weights import Pooling, sha256_file

FORMAT = 1
"""Version of the index folder; a newer one is refused, another one gives another index."""

MANIFEST_FILE = "manifest.json"
FAISS_FILE = "index.faiss"
PASSAGES_FILE = "passages.arrow"

_LIBRARIES = ("faiss-cpu", "numpy", "pyarrow", "torch", "transformers")
SKETCH_FROM_PASSAGES = 20_000
"""A flat index of so many passages, or a shard, has a sketch. Below that exact search takes few
milliseconds, and torch, which a sketch needs, is not worth importing."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What a file must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Canary:
    """One search whose result is known: whoever opens the index repeats it."""

    query: tuple[float, ...]
    """The vector of one passage."""
    score: float
    """The best inner product with it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of vectors that can be searched alone: those of one run of passages."""

    file: str
    start: int
    """Number of its first passage."""
    stop: int
    """One more than the number of its last."""
    canary_score: float
    """The best inner product of the canary's query in this shard."""


@dataclass(frozen=True, slots=True)
class IndexManifest:
    """Counts, settings and checksums of an index."""

    format: int
    """Version of the folder's layout."""
    fingerprint: str
    """Hash over contents and settings: which index this is."""
    n_passages: int
    n_texts: int
    """Texts of the corpus; fewer than passages where texts were cut."""
    dimension: int
    encoder: str
    """Folder or hub id of the context encoder, as it was given."""
    encoder_fingerprint: str
    """Hash over the encoder's files."""
    pooling: Pooling
    normalise: bool
    max_length: int
    """Tokens of a passage the encoder read."""
    chunk_words: int | None
    """Words a passage; None where each text is one passage."""
    chunk_overlap: int
    faiss: str
    """FAISS factory string."""
    files: Mapping[str, FileCheck]
    """Size and checksum of the other files, by name."""
    canary: Canary
    shards: tuple[Shard, ...]
    """Files of vectors in the order of their passages; the file names only several."""
    created: str
    """When it was built, ISO 8601."""
    versions: Mapping[str, str]
    """Libraries it was built with."""

    def write(self, folder: Path) -> None:
        """Write `manifest.json`; once it is there, the index is complete."""
        said = dataclasses.asdict(self)
        if len(self.shards) == 1:
            del said["shards"]
        text = json.dumps(said, indent=2)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> IndexManifest:
    """Return what an index folder says of itself; checks no other file.

    Raises:
        BadInputError: If the folder is no index, or its manifest is damaged or too new.
    """
    path = folder / MANIFEST_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"is no index (no {MANIFEST_FILE}); build one with `ragsearch index build`"
        raise BadInputError.single(folder, what) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    _check_format(path, found)
    try:
        return TypeAdapter(IndexManifest).validate_python({"shards": _only(found)} | found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{where}: {first['msg']}") from error


def files_of(manifest: IndexManifest, shard: int | None) -> list[str]:
    """Return the files one needs for a shard, or for all: vectors and passages."""
    others = [each.file for number, each in enumerate(manifest.shards) if number != shard]
    not_needed = {*others, *map(sketch_file, others)}
    return [name for name in manifest.files if shard is None or name not in not_needed]


def check_files(
    folder: Path, manifest: IndexManifest, *, contents: bool, shard: int | None = None
) -> None:
    """Compare an index's files with its manifest.

    Args:
        folder: Where they lie.
        manifest: What they must be.
        contents: Compare checksums too, which reads every byte.
        shard: The only shard whose vectors must be there; all by default.

    Raises:
        BadInputError: With every file that is missing or altered.
    """
    mistakes: list[Mistake] = []
    for name in files_of(manifest, shard):
        what = _difference(folder / name, manifest.files[name], contents=contents)
        if what:
            again = "the index is damaged, run `ragsearch index build` again"
            mistakes.append(Mistake(str(folder / name), "", f"{what}; {again}"))
    if mistakes:
        raise BadInputError(mistakes)


def versions() -> dict[str, str]:
    """Return the libraries an index is made with."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def file_check(path: Path) -> FileCheck:
    """Return what a file is."""
    return FileCheck(sha256_file(path), path.stat().st_size)


def shard_file(number: int, n_shards: int) -> str:
    """Return the name of a file of vectors: `index.faiss`, or `index-0-of-4.faiss`."""
    if n_shards == 1:
        return FAISS_FILE
    stem, dot, suffix = FAISS_FILE.partition(".")
    return f"{stem}-{number}-of-{n_shards}{dot}{suffix}"


def sketch_file(shard_file: str) -> str:
    """Return the name of the sketch of a file of vectors, which not every one has."""
    return shard_file.removesuffix(".faiss") + ".sketch"


def _only(found: dict[str, Any]) -> tuple[dict[str, object], ...]:
    """Return the one shard of an index whose manifest names none."""
    score = found.get("canary", {}).get("score")
    only = {"file": FAISS_FILE, "start": 0, "stop": found.get("n_passages")}
    return (only | {"canary_score": score},)


def _difference(path: Path, expected: FileCheck, *, contents: bool) -> str:
    if not path.is_file():
        return "is missing"
    n_bytes = path.stat().st_size
    if n_bytes != expected.bytes:
        return f"has {n_bytes} bytes instead of {expected.bytes}"
    if contents and sha256_file(path) != expected.sha256:
        return "was altered (its SHA-256 differs from the manifest's)"
    return ""


def _check_format(path: Path, found: object) -> None:
    version = found.get("format") if isinstance(found, dict) else None
    if not isinstance(version, int):
        raise _damaged(path, "no format version")
    if version > FORMAT:
        what = (
            f"is of format {version}, newer than this ragsearch reads ({FORMAT}); update "
            "ragsearch, or build the index anew in another folder"
        )
        raise BadInputError.single(path, what)


def _damaged(path: Path, reason: str) -> BadInputError:
    what = f"is damaged ({reason}); remove {path.parent} and run `ragsearch index build` again"
    return BadInputError.single(path, what)
