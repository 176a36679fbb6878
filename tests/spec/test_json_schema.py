"""The schema and the reference page: up to date, and of one mind with `load_spec`."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from ragsearch.spec.document import read_document
from ragsearch.spec.json_schema import DOMAINS, json_schema
from ragsearch.spec.keys import leaves
from ragsearch.spec.schema import SpaceFile
from tests.spec.spaces import VALID

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
REMEDY = "out of date: run python scripts/space_reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Return the script that writes the page and the schema, as a module."""
    spec = spec_from_file_location("reference", ROOT / "scripts" / "space_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_the_page_and_the_shipped_schema_are_up_to_date(reference: ModuleType):
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), REMEDY
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema_text(), REMEDY


def test_the_page_has_every_key_and_every_domain_with_a_sentence(reference: ModuleType):
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]

    for name in {*DOMAINS, *(leaf.rpartition(".")[2] for leaf in leaves(SpaceFile))}:
        assert [row for row in rows if row.startswith(f"| `{name}` | ")], name
    assert [row for row in rows if row.split(" | ")[1].strip() == ""] == []


def test_examples_of_the_page_are_yaml_that_the_schema_takes(
    reference: ModuleType, validator: jsonschema.Draft202012Validator
):
    blocks = [part.partition("```")[0] for part in reference.page().split("```yaml\n")[1:]]
    file = read_document(VALID, "f").data

    assert len(blocks) >= 6
    for block in blocks:
        text = block if block[0] != " " else f"space:\n{block}"
        validator.validate(file | read_document(text, "example").data)


def test_the_schema_is_one(validator: jsonschema.Draft202012Validator):
    validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_name_the_schema_and_fulfil_it(
    path: Path, validator: jsonschema.Draft202012Validator
):
    text = path.read_text(encoding="utf-8")

    assert text.startswith("# yaml-language-server: $schema=space.schema.json\n")
    assert path.with_name("space.schema.json").is_file()
    validator.validate(read_document(text, "space").data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 3", "sed: 3"),
        ("{log: [1e-5, 1e-3]}", "{logg: [1e-5, 1e-3]}"),
        ("{choice: [one, two]}", "{choice: one}"),
        ("  retrieval.n_docs: {int", "  retrieval.n_doc: {int"),
        ("{int: [1, 3]}", "{choice: [1, many]}"),
        ("    learning_rate: 1e-4\n", "    learning_rate: fast\n"),
        ("name: kb\n", ""),
    ],
)
def test_an_editor_marks_what_validate_refuses(
    old: str, new: str, validator: jsonschema.Draft202012Validator
):
    assert validator.is_valid(read_document(VALID, "f").data)
    assert VALID.count(old) == 1
    assert not validator.is_valid(read_document(VALID.replace(old, new), "f").data)


def test_a_file_that_extends_another_need_not_be_whole(
    validator: jsonschema.Draft202012Validator,
):
    assert validator.is_valid({"extends": "space.yaml", "trial": {"model": {}}})
    assert not validator.is_valid({"trial": {"model": {}}})
