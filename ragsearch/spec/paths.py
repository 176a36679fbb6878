"""Paths of a space file made absolute, and whether what they name is there.

`package:REST` is a file shipped in ragsearch; other paths are relative to the space file.
A model that is no folder and looks like a hub id stays a hub id.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft

_PACKAGE = Path(__file__).resolve().parent.parent
_DATA = ("train", "val", "test")
MODEL_KEYS = ("model.question_encoder", "model.generator")
"""Keys of a trial that name a model."""


def resolve_paths(data: dict[str, object], base: Path) -> None:
    """Make every path in a space file's data absolute, in place.

    Args:
        data: Plain data of a space file, right or wrong.
        base: The folder that relative paths start from.
    """

    def as_path(text: str) -> str:
        return str(resolve_path(text, base))

    def as_model(text: str) -> str:
        return resolve_model(text, base)

    for key in _DATA:
        _change(data.get("data"), key, as_path)
    indexes = data.get("indexes")
    for index in indexes.values() if isinstance(indexes, dict) else ():
        _change(index, "corpus", as_path)
        _change(index, "folder", as_path)
        _change(index, "encoder", as_model)
    trial = data.get("trial")
    for path in MODEL_KEYS:
        section, key = path.split(".")
        _change(trial.get(section) if isinstance(trial, dict) else None, key, as_model)
        _change_domain(data.get("space"), path, as_model)


def resolve_model(text: str, base: Path) -> str:
    """Return a model's folder as an absolute path, or its hub id as it is.

    Args:
        text: What the user wrote.
        base: The folder that relative paths start from.
    """
    path = resolve_path(text, base)
    looks_like_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text)
    # models/reader beside an existing folder `models` is a folder misspelt, not a hub id
    is_elsewhere = not path.exists() and ("/" not in text or not path.parent.is_dir())
    return text if looks_like_id and is_elsewhere else str(path)


def resolve_path(text: str, base: Path) -> Path:
    """Return an absolute path.

    Args:
        text: What the user wrote; `package:REST` is a file shipped in ragsearch.
        base: The folder that relative paths start from.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "package":
        return _PACKAGE / rest
    return (base / Path(text).expanduser()).absolute()


def _change(section: object, key: str, change: Callable[[str], str]) -> None:
    if isinstance(section, dict) and isinstance(section.get(key), str) and section[key].strip():
        section[key] = change(section[key])


def _change_domain(space: object, path: str, change: Callable[[str], str]) -> None:
    for name, domain in space.items() if isinstance(space, dict) else ():
        if not isinstance(domain, dict):
            continue
        bundle = domain.get("bundle")
        for option in bundle if isinstance(bundle, list) else ():
            _change(option, path, change)
        for keyword in ("choice", "ordinal"):
            values = domain.get(keyword)
            if name == path and isinstance(values, list):
                domain[keyword] = [change(v) if isinstance(v, str) else v for v in values]


def missing_files(draft: Draft) -> Iterator[Finding]:
    """Find data files and corpora that are not there.

    Yields:
        A finding for each.
    """
    for key in _DATA:
        path = draft.value("data", key)
        if isinstance(path, str) and path.strip() and (what := _why_no_data(key, path)):
            yield Finding(("data", key), what)
    for name in draft.names("indexes"):
        path = draft.value("indexes", name, "corpus")
        if isinstance(path, str) and path.strip() and not _exists(path, Path.exists):
            yield Finding(("indexes", name, "corpus"), f"no such file or folder: {path}")


def _why_no_data(key: str, path: str) -> str | None:
    """Return what is wrong with the place of questions, None if nothing is."""
    if _exists(path, Path.is_dir):
        original = Path(path) / f"{key}.source"  # so the original scripts had their folders
        hint = f", such as {original}" if _exists(str(original), Path.is_file) else f": {path}"
        return f"is a folder; give a file{hint}"
    if not _exists(path, Path.is_file):
        return f"no such file: {path}"
    if Path(path).suffix != ".source":
        return None
    answers = str(Path(path).with_suffix(".target"))
    is_there = _exists(answers, Path.is_file)
    return None if is_there else f"needs its answers beside it, one a line: no file {answers}"


def _exists(path: str, test: Callable[[Path], bool]) -> bool:
    try:
        return test(Path(path))
    except (OSError, ValueError):  # a name too long, a NUL
        return False
