"""A space file with those it extends, as one document in which each key knows its file.

In: a path. Out: a `Document`: paths absolute, references to the environment replaced. Mappings
are merged key by key, what varies under a path of `space` is replaced as a whole, and so is any
list.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ragsearch.errors import BadInputError, Mistake
from ragsearch.spec.document import Document, Finding, KeyPath, read_document
from ragsearch.spec.environment import expand_all
from ragsearch.spec.messages import shown
from ragsearch.spec.paths import resolve_path, resolve_paths


def read_text(path: Path, place: Mistake) -> str:
    """Return the contents of a space file.

    Args:
        path: Where it is.
        place: The mistake if it is not there.

    Raises:
        BadInputError: If it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError([place]) from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        raise BadInputError([Mistake(str(path), "", what)]) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise BadInputError([Mistake(str(path), "", f"cannot be read: {why}")]) from error


def read_extended(text: str, path: Path, above: tuple[Path, ...] = ()) -> Document:
    """Return a space file over what it extends.

    Args:
        text: Its contents.
        path: Where it is, for messages and for the paths in it.
        above: Files that extend it, outermost first.

    Raises:
        BadInputError: If it is no YAML mapping, or names variables that are not set; if a file
            it extends is not there, is wrong in these ways, or extends it in turn.
    """
    document = read_document(text, str(path))
    own = document.data
    unset = list(expand_all(own))
    if unset or (above and document.findings):
        raise BadInputError(document.places.mistakes(iter([*document.findings, *unset])))
    resolve_paths(own, path.absolute().parent)
    asked = own.pop("extends", None)
    if asked is None:
        return document
    if not isinstance(asked, str) or not asked.strip():
        what = f"must be the path of a space file, not {shown(asked)}"
        raise BadInputError([document.places.mistake(Finding(("extends",), what))])
    base_path = Path(resolve_path(asked, path.absolute().parent))
    absent = Finding(("extends",), f"no such space file: {base_path}")
    base_text = read_text(base_path, document.places.mistake(absent))
    chain = (*above, path.resolve())
    if base_path.resolve() in chain:
        names = " extends ".join(one.name for one in (*chain, base_path))
        what = f"leads in a circle: {names}; drop one"
        raise BadInputError([document.places.mistake(Finding(("extends",), what))])
    return merge(read_extended(base_text, base_path, chain), document)


def merge(base: Document, own: Document) -> Document:
    """Return a document with the keys of another over it."""
    replaced: list[KeyPath] = []
    data = _merged(base.data, own.data, (), replaced)
    kept = {
        path: line
        for path, line in base.places.lines.items()
        if not any(path[: len(gone)] == gone for gone in replaced)
    }
    files = {path: base.places.file_of(path) for path in kept} | dict.fromkeys(
        own.places.lines, own.places.file
    )
    places = replace(own.places, lines={**kept, **own.places.lines}, files=files)
    return Document(data, places, own.findings)


def _merged(
    base: Mapping[str, object],
    own: Mapping[str, object],
    path: KeyPath,
    replaced: list[KeyPath],
) -> dict[str, object]:
    result = dict(base)
    for key, value in own.items():
        here, below = (*path, key), result.get(key)
        if path == ("space",) and value is None and key in base:
            del result[key]  # no longer varies
            replaced.append(here)
        elif isinstance(below, dict) and isinstance(value, dict) and path != ("space",):
            result[key] = _merged(below, value, here, replaced)
        else:
            result[key] = value
            replaced.append(here)
    return result
