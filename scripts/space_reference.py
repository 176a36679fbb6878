"""Write the reference of the space file: `docs/space-file.md`, and the schema for editors.

Both are made of the sections' docstrings; a test says when they are out of date. Run from
anywhere: python scripts/space_reference.py
"""

# rows of tables are one line each:
# ruff: noqa: E501
import json
from collections.abc import Iterator
from pathlib import Path

from ragsearch.spec.json_schema import DOMAINS, OPTIONS, Schema, json_schema

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "space-file.md"
SCHEMA = ROOT / "search_spaces" / "space.schema.json"

INTRODUCTION = """\
# The space file

<!-- made by scripts/space_reference.py out of the sections' docstrings; edit those -->

One YAML file says what a search does. `trial:` is a complete configuration, the baseline and
trial 0; `space:` says what varies in it. `ragsearch validate` tells every mistake at once, each
with its file, line and key; unknown keys are mistakes. Numbers and booleans are those of YAML
1.2: `1e-5` is a number, `yes` is text. Paths are relative to the file; `package:` is shipped in
ragsearch. `ragsearch init` writes a file to start from, with a header line by which editors that
know the YAML language server complete and check; `ragsearch schema` prints the JSON Schema.

- [What varies](#what-varies): domains, conditions, bundles, derived values
- [Expressions](#expressions) and [constraints](#constraints)
- [Points to try first](#points-to-try-first)
- [Files that extend others, options, variables](#files-that-extend-others)
- [Every key](#every-key)

## What varies

Under `space`, a dotted path in `trial` has one domain, in natural units:

```yaml
space:
  optim.learning_rate:      {log: [5.0e-6, 1.0e-4]}
  optim.weight_decay:       {normal: [0.01, 0.005], bounds: [0.0, 0.1]}
  optim.warmup_steps:       {int: [0, 1000], step: 100}
  regularisation.dropout:   {uniform: [0.0, 0.3], step: 0.05}
  retrieval.n_docs:         {ordinal: [3, 5, 10]}
  model.type:               {choice: [rag_sequence, rag_token]}
```

"""

AFTER_DOMAINS = """\
A step must divide the width of a domain evenly. A searcher sees grids and ordinal values by
their place, and a normal one by its quantile: uniform between 0 and 1, put through the inverse
of the normal curve cut at the bounds, so that values are distributed exactly as the domain says.
An `int` with `log: true` it sees as a number on a log scale, of which the nearest value is
taken: `{int: [16, 256], step: 16, log: true}` is a multiple of 16, and 16 is drawn more often
than 256.

**Conditions.** `when` holds an expression over keys of the trial. Where it does not hold, the
key keeps the baseline's value, the searcher is not asked for it, and `ragsearch trials` shows
nothing for it.

```yaml
  model.freeze_question_encoder:   {choice: [true, false]}
  optim.question_encoder_lr_ratio: {log: [0.01, 1.0], when: "not model.freeze_question_encoder"}
```

**Bundles.** Keys that only make sense together stand under a name of your own, without dots;
every option gives the same keys. A key is set by one entry of `space` only.

```yaml
  retriever:
    bundle:
      - {model.question_encoder: models/small, retrieval.index: small}
      - {model.question_encoder: models/large, retrieval.index: large}
```

**Derived values.** `derive` computes a key. Where `trial` says nothing of it, the baseline gets
the computed value, too; where it says something else, that is a mistake.

```yaml
  train.max_epochs:   {int: [2, 10]}
  optim.warmup_steps: {derive: "round(20 * train.max_epochs)"}
```

Conditions and derived values may look each other up, but not in a circle.

## Expressions

Expressions stand in quotes. They are read by a grammar of their own and never run as Python.

| what | examples |
|---|---|
| keys of the trial | `retrieval.n_docs`, `model.lora.rank`: the trial's value, or the baseline's |
| values | `5`, `3e-5`, `'rag_token'`, `true`, `false`, `null`, `[3, 5]` |
| comparisons, also in chains | `==` `!=` `<` `<=` `>` `>=`, `in`, `not in`; `1 <= decode.num_beams < 8` |
| logic, of true and false only | `and`, `or`, `not`, parentheses |
| arithmetic | `+` `-` `*` `/` `//` `%` `**`, with Python's precedence |
| functions | `min(…)`, `max(…)`, `round(x)` to a whole number (halves to the even one), `round(x, digits)` |

`==` between values of two kinds is false (`1 == true`, `'5' == 5`); an order between them,
division by zero and numbers beyond 1e300 are mistakes. Every expression is computed for the
values that its keys can have before a search starts; one that has no value in between rejects
that proposal.

## Constraints

```yaml
constraints:
  - "retrieval.n_docs * optim.effective_batch <= 320"     # before a trial is launched
  - {metric: val/unique_passage_ratio, min: 0.05}         # after each validation
```

What breaks an expression is never launched: the searcher is asked again. `ragsearch validate`
prints the share of 1,000 random proposals that are accepted, drawn with the file's seed. If none
of 10,000 is, or the baseline breaks one, that is a mistake.

## Points to try first

```yaml
try_first:
  - {optim.learning_rate: 1.0e-5, retrieval.n_docs: 10}
```

Each is tried after the baseline, in this order. What a point leaves open is as in the baseline;
of a bundle one key is enough if it tells the option. Every value must lie in its domain, and a
point must not break a constraint.

## Files that extend others

`extends: other.yaml` lays a file over another one: mappings are merged key by key; lists, and
domains under a path of `space`, are replaced as a whole; a domain of `null` ends that a key
varies. Each file's paths are relative to itself. `-o dotted.key=value` on the command line is
laid over that; after `space.` the rest is one key: `-o 'space.retrieval.n_docs={int: [1, 9]}'`.

A text may refer to variables of the environment: `${DATA}/train.jsonl`, `${DATA:-data}` with a
default where the variable is unset or empty, `$${` for the signs themselves. One that is not set
is a mistake. References in `tracking.uri` are followed only when MLflow is called and stay as
written in everything that a search records, so that passwords are in no record.

## Every key

"""


def page() -> str:
    """Return the reference page."""
    schema = json_schema()
    rows = [f"| `{key}` | {text} |" for key, text in DOMAINS.items()]
    beside = [f"| `{key}` | {text} |" for key, text in OPTIONS.items()]
    table = [
        "| under a path | |",
        "|---|---|",
        *rows,
        "",
        "| beside it | |",
        "|---|---|",
        *beside,
    ]
    keys = "\n".join(_sections(schema))
    return INTRODUCTION + "\n".join(table) + "\n\n" + AFTER_DOMAINS + keys + "\n"


def _sections(schema: Schema) -> Iterator[str]:
    yield from _table("The file", schema, schema, ())
    for key, field in schema["properties"].items():
        yield from _below(schema, field, (key,))


def _below(schema: Schema, field: Schema, path: tuple[str, ...]) -> Iterator[str]:
    name, place = _section_of(field, path)
    if name is None:
        return
    section = schema["$defs"][name]
    yield from _table(f"`{'.'.join(place)}`", section, schema, place)
    for key, inner in section["properties"].items():
        yield from _below(schema, inner, (*place, key))


def _section_of(field: Schema, path: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the section a key holds, and how its place is written."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return (name if name.endswith("Section") else None), path
    if "additionalProperties" in field and isinstance(field["additionalProperties"], dict):
        return _section_of(field["additionalProperties"], (*path, "NAME"))
    if isinstance(items := field.get("items"), dict):
        return _section_of(items, (*path, "N"))
    for one in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        name, place = _section_of(one, path)
        if name is not None:
            return name, place
    return None, path


def _table(
    heading: str, section: Schema, schema: Schema, path: tuple[str, ...]
) -> Iterator[str]:
    yield f"### {heading}\n"
    if path:
        yield _sentence(section.get("description", "")) + "\n"
    yield "| key | what | default | allowed |"
    yield "|---|---|---|---|"
    for key, field in section["properties"].items():
        name, _ = _section_of(field, ())
        text = field.get("description") or (
            schema["$defs"][name]["description"] if name is not None else ""
        )
        below = "" if name is None else "a section" if "$ref" in field else "sections"
        cells = (f"`{key}`", _sentence(text), _default(field, below), below or _allowed(field))
        escaped = (cell.replace("|", "\\|") for cell in cells)
        yield f"| {' | '.join(escaped)} |"
    yield ""


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _default(field: Schema, below: str) -> str:
    if below == "a section":
        return "its keys'" if "default" in field else ""
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


_SIGNS = {
    "minimum": "≥",
    "maximum": "≤",
    "exclusiveMinimum": ">",
    "exclusiveMaximum": "<",
}


def _allowed(field: Schema) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_allowed(one) for one in field["anyOf"])
    names = {"integer": "whole number", "string": "text", "boolean": "true, false"}
    kind = str(field.get("type", ""))
    bounds = [f"{sign} {field[key]:g}" for key, sign in _SIGNS.items() if key in field]
    return " ".join([names.get(kind, kind), ", ".join(bounds)]).strip()


def schema_text() -> str:
    """Return the schema as its file has it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both files."""
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(f"{PAGE}\n{SCHEMA}")


if __name__ == "__main__":
    main()
