"""What torch.compile needs of a machine, looked for before it is needed."""

from pathlib import Path

import pytest

from ragsearch.errors import BadInputError
from ragsearch.training import compiler
from ragsearch.training.compiler import why_not_compiled
from ragsearch.training.model import assemble
from tests.training.conftest import MakeTrial


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the one folder of programs of a machine, on which there are headers of Python."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda _: str(tmp_path / "include"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "bin"


def put_program(folder: Path, name: str) -> None:
    program = folder / name
    program.touch()
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("on_gpu", "kind", "name"), [(False, "C++", "g++"), (True, "C", "clang")]
)
def test_what_is_missing_is_named_until_it_is_there(
    bare_machine: Path, *, on_gpu: bool, kind: str, name: str
) -> None:
    before = why_not_compiled(on_gpu=on_gpu)
    put_program(bare_machine, name)

    assert before is not None
    assert before.startswith(f"needs a {kind} compiler (")
    assert name in before
    assert "apt-get install" in before
    assert why_not_compiled(on_gpu=on_gpu) is None


def test_a_compiler_that_the_environment_names_is_the_one_that_is_needed(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(bare_machine, "g++")
    monkeypatch.setenv("CXX", "icpx")

    assert "CXX is icpx, and there is none" in str(why_not_compiled(on_gpu=False))


def test_headers_of_python_are_needed_too(bare_machine: Path) -> None:
    (bare_machine.parent / "include" / "Python.h").unlink()
    told = why_not_compiled(on_gpu=False)

    assert told is not None
    assert "C++ compiler" in told
    assert "headers of Python (there is no Python.h)" in told


@pytest.mark.usefixtures("bare_machine")
def test_a_trial_that_finds_no_compiler_says_so_and_one_that_needs_none_does_not_look(
    make_trial: MakeTrial,
) -> None:
    assemble(make_trial())

    with pytest.raises(BadInputError, match=r"trial\.train\.compile: needs a C"):
        assemble(make_trial(train__compile=True))
