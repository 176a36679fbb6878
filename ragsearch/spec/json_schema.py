"""The space file as a JSON Schema, by which editors complete and check.

Made of the sections and their docstrings; what varies gets each key's own kind of values. What
is missing is left to `ragsearch validate`, as a file may extend another that has it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ragsearch.spec.schema import SpaceFile
from ragsearch.spec.space_parser import FIXED
from ragsearch.spec.trial import TrialSection

Schema = dict[str, Any]  # Any: JSON, nested as the standard has it

DOMAINS: Mapping[str, str] = {
    "log": (
        "A number between two ends above 0, as likely in each power of ten; with `step`, which "
        "multiplies, on a grid from the low end. `log: true` beside `int` does the same there."
    ),
    "uniform": "A number between two ends, each as likely; with `step`, on a grid.",
    "int": (
        "A whole number between two ends, both included; with `step` on a grid, with "
        "`log: true` as likely in each power of ten, or both."
    ),
    "normal": (
        "A number around a mean, with a standard deviation: `[mean, deviation]`; `bounds` cut "
        "its ends off, 5 deviations from the mean by default."
    ),
    "choice": "One of several values without an order.",
    "ordinal": "One of several values in an order: neighbours behave alike.",
    "bundle": (
        "Keys that move together: a list of mappings, all of the same keys. It stands under a "
        "name of its own, without dots."
    ),
    "derive": "No domain: an expression that computes the key from others.",
}
"""What may stand under a key of `space`, one sentence each."""
OPTIONS: Mapping[str, str] = {
    "step": "Distance of neighbours on the grid; of `log` the factor between them.",
    "bounds": "Ends of `normal`: `[low, high]`.",
    "when": "Expression: where it does not hold, the key has the baseline's value.",
}
"""What may stand beside a domain, one sentence each."""

_PAIR: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_SHAPES: Mapping[str, Schema] = {
    "log": {"anyOf": [_PAIR, {"type": "boolean"}]},
    "uniform": _PAIR,
    "int": _PAIR | {"items": {"type": "integer"}},
    "normal": _PAIR,
    "bundle": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 2},
    "derive": {"type": "string"},
    "step": {"type": "number"},
    "bounds": _PAIR,
    "when": {"type": "string"},
}
_KINDS = {
    key: {"description": {**DOMAINS, **OPTIONS}[key], **shape} for key, shape in _SHAPES.items()
}
_WHOLE = ("ObjectiveSection", "ConstraintSection")  # in lists, which no other file completes


def json_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a space file."""
    schema = SpaceFile.model_json_schema()
    _drop_titles(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "ragsearch space file"
    required = schema.pop("required")
    schema |= {"if": {"not": {"required": ["extends"]}}, "then": {"required": required}}
    for name, section in schema["$defs"].items():
        if name not in _WHOLE:
            section.pop("required", None)
    point = {path: _bare(leaf) for path, leaf in _leaves(schema)}
    schema["$defs"] |= {
        "point": {"type": "object", "properties": point, "additionalProperties": False},
        **_KINDS,
    }
    schema["properties"]["space"] |= _space(schema)
    schema["properties"]["try_first"]["items"] = {"$ref": "#/$defs/point"}
    return schema


def _drop_titles(schema: Schema) -> None:
    """Drop what pydantic makes of names: editors show the keys themselves."""
    for section in (schema, *schema["$defs"].values()):
        section.pop("title", None)
        for field in section["properties"].values():
            field.pop("title", None)


def _leaves(
    schema: Schema, name: str = TrialSection.__name__, above: str = ""
) -> Iterator[tuple[str, Schema]]:
    """Give the keys of a trial with their own schemas.

    Yields:
        Dotted path and schema.
    """
    for key, inner in schema["$defs"][name]["properties"].items():
        if "$ref" in inner:
            section = inner["$ref"].rpartition("/")[2]
            yield from _leaves(schema, section, f"{above}{key}.")
        else:
            yield above + key, inner


def _bare(leaf: Schema) -> Schema:
    return {key: value for key, value in leaf.items() if key != "default"}


def _space(schema: Schema) -> Schema:
    entries = {path: _entry(leaf) for path, leaf in _leaves(schema) if path not in FIXED}
    return {
        "properties": entries,
        "patternProperties": {
            "^[A-Za-z][A-Za-z0-9_-]{0,63}$": {
                "type": ["object", "null"],
                "properties": {key: {"$ref": f"#/$defs/{key}"} for key in ("bundle", "when")},
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }


def _entry(leaf: Schema) -> Schema:
    value = {key: value for key, value in _bare(leaf).items() if key != "description"}
    listed = {
        key: {"description": DOMAINS[key], "type": "array", "items": value, "minItems": 2}
        for key in ("choice", "ordinal")
    }
    others = {key: {"$ref": f"#/$defs/{key}"} for key in _KINDS if key != "bundle"}
    return {
        "description": leaf.get("description", ""),
        "type": ["object", "null"],
        "properties": {**listed, **others},
        "additionalProperties": False,
    }
