"""References to environment variables in texts of a space file: `${DATA}/train.jsonl`.

`${NAME:-default}` gives the default where the variable is unset or empty, as a shell does;
`$${` stands for `${` itself. Names of keys, numbers and expressions hold none.
"""

import os
import re
from collections.abc import Iterator, Mapping

from ragsearch.spec.document import Finding, KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inner>[^}]*)(?P<end>\}?)")
_INNER = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)
_KEPT = (("tracking", "uri"),)
"""Keys whose references are looked up only where they are used: they may hold secrets, which
no record of a search is to hold."""


def expand(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Return a text with its references replaced.

    Args:
        text: What the user wrote.
        variables: The environment; this process's by default.

    Raises:
        ValueError: If a variable is not set, or a reference cannot be read.
    """
    known = os.environ if variables is None else variables

    def value(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        inner = _INNER.fullmatch(found["inner"])
        if inner is None or not found["end"]:
            raise ValueError(
                f"holds {found[0]!r}, which names no variable; write ${{NAME}}, or $${{ for "
                "the signs themselves"
            )
        if known.get(inner["name"]) or (inner["default"] is None and inner["name"] in known):
            return known[inner["name"]]
        if inner["default"] is not None:
            return inner["default"].removeprefix(":-")
        name = inner["name"]
        raise ValueError(
            f"names {name}, which is not set; set it or write ${{{name}:-default}}"
        )

    return _REFERENCE.sub(value, text)


def escaped(data: object, path: KeyPath = ()) -> object:
    """Return plain data whose texts `expand_all` gives back as they are."""
    if isinstance(data, dict):
        return {key: escaped(value, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [escaped(value, (*path, place)) for place, value in enumerate(data)]
    if isinstance(data, str) and path not in _KEPT:
        return data.replace("${", "$${")
    return data


def expand_all(data: object, path: KeyPath = ()) -> Iterator[Finding]:
    """Replace references in all texts of plain data, in place.

    Yields:
        A finding for each text with a reference that cannot be followed.
    """
    inner = data.items() if isinstance(data, dict) else ()
    for key, value in list(enumerate(data)) if isinstance(data, list) else list(inner):
        here = (*path, key)
        if not isinstance(value, str):
            yield from expand_all(value, here)
        elif here not in _KEPT:
            try:
                data[key] = expand(value)  # type: ignore[index]
            except ValueError as error:
                yield Finding(here, str(error))
