"""Indexes that a space file names by their folder: built or imported before, used as they are.

In: the data of a space file. Out: the same with what the folder's manifest says of the encoder
and the FAISS index filled in, so that other checks need not know how the index came to be.
Reads `manifest.json` alone; whether the files are whole is checked when the plan is made.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft
from ragsearch.spec.messages import shown

_MANIFEST = "manifest.json"
_SAID = ("encoder", "pooling", "normalise", "faiss", "max_length")
"""Keys of an index that its manifest has under the same names."""
_OF_BUILDING: Mapping[str, object] = {"chunk": None, "batch_size": 64}
"""Keys that only building has a use for, with their defaults."""
_UNKNOWN = "an encoder that is not known"  # the folder is refused, and this never seen


def fill_from_folders(data: Mapping[str, object]) -> None:
    """Give every index with a folder the settings it was made with, in place.

    Args:
        data: Plain data of a space file, right or wrong, its paths absolute.
    """
    indexes = data.get("indexes")
    for index in indexes.values() if isinstance(indexes, dict) else ():
        if isinstance(index, dict) and isinstance(folder := index.get("folder"), str):
            said = _settings(folder) or {"encoder": _UNKNOWN}
            index |= {key: value for key, value in said.items() if key not in index}


def wrong_folders(draft: Draft) -> Iterator[Finding]:
    """Find folders that hold no index, and settings that differ from what they hold.

    Yields:
        A finding for each.
    """
    for name in draft.names("indexes"):
        folder = draft.value("indexes", name, "folder")
        if not isinstance(folder, str):
            continue
        settings = _settings(folder)
        if settings is None:
            what = (
                f"no index here ({_MANIFEST} is missing or damaged): {folder}; make one with "
                "`ragsearch index build` or `index import`"
            )
            yield Finding(("indexes", name, "folder"), what)
            continue
        for key, value in {**settings, **_OF_BUILDING}.items():
            given = draft.value("indexes", name, key)
            if given != value:
                what = f"is {shown(given)}, but the index in {folder} has {shown(value)}"
                if key in _OF_BUILDING:
                    what = "is of no use, for the index in folder is not built"
                yield Finding(("indexes", name, key), f"{what}; leave it out")


def n_passages_in(folder: str) -> int:
    """Return how many passages an index folder has that was found right."""
    found = _manifest(folder)
    assert found is not None, f"{folder} was not checked"
    return int(str(found["n_passages"]))


def _settings(folder: str) -> dict[str, object] | None:
    """Return the keys of an `indexes` section that an index folder settles."""
    found = _manifest(folder)
    if found is None:
        return None
    shards = found.get("shards")
    n_shards = len(shards) if isinstance(shards, list) else 1  # the manifest names only several
    return {key: found[key] for key in _SAID} | {"shards": n_shards}


def _manifest(folder: str) -> dict[str, object] | None:
    try:
        found = json.loads((Path(folder) / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(found, dict) and found.keys() >= {*_SAID, "n_passages"}
    return found if is_whole and isinstance(found["n_passages"], int) else None
