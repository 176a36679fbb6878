"""The shape of the package: floors, the map, and sizes a reader can hold in mind."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ragsearch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ragsearch"
FILES = sorted(PACKAGE.rglob("*.py"))

N_FILE_LINES = 400
N_FUNCTION_LINES = 45


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def function_lines(function: ast.AST) -> int:
    """Lines of a function without its docstring and decorators: what a reader must follow."""
    start = function.body[0].lineno
    if ast.get_docstring(function) is not None:
        start = function.body[0].end_lineno + 1
    return function.end_lineno - start + 1


def mapped() -> set[str]:
    """Module names as the map in the package's docstring has them, dotted."""
    found, package = set(), ""
    for line in ragsearch.__doc__.splitlines():
        if top := re.fullmatch(r" {4}(\w+) {2,}\S.*", line):
            package = top[1]
            found.add(package)
        elif re.fullmatch(r" {18}[\w ]+", line):
            found |= {f"{package}.{module}" for module in line.split()}
    return found


def test_the_map_names_every_module_and_no_other():
    there = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
    } - {"__init__"}

    assert there
    assert mapped() == there


def test_the_public_names_can_be_imported_and_are_listed():
    names = {"load_spec", "run_search", "open_index", "join_pool", "export_best", "__version__"}

    assert set(ragsearch.__all__) == names
    assert names <= set(dir(ragsearch))
    assert all(getattr(ragsearch, name) for name in names)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ragsearch' has no attribute 'serach'"):
        ragsearch.serach  # noqa: B018 - the access is the point


def test_imports_only_go_down_the_floors():
    command = "import sys; from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_and_its_functions_are_short(path):
    text = path.read_text()
    long = [
        f"{node.name}: {function_lines(node)}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and function_lines(node) > N_FUNCTION_LINES
    ]

    assert long == []
    assert len(text.splitlines()) <= N_FILE_LINES
