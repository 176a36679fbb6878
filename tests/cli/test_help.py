"""Every command's help teaches: it ends in an example, and the example parses."""

import shlex
import subprocess
import sys

import pytest
import typer

from ragsearch.cli.app import app


def walk(command, path=()):
    """Every command under a group, with the words that call it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_all_commands_are_there():
    assert {" ".join(path) for path in COMMANDS} == {
        "", "init", "validate", "schema", "run", "trials", "final", "export", "eval", "score",
        "ask",
        "index", "index build", "index import", "index info",
        "pool", "pool ls", "pool start", "pool stop",
        "pool alias",
        "bench", "bench retrieval", "bench train", "bench sweep",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_in_an_example_that_parses(path, capsys):
    with pytest.raises(SystemExit) as ended:
        app([*path, "--help"], prog_name="ragsearch")

    _, example = capsys.readouterr().out.split("Example: ")
    words = shlex.split(example)
    assert ended.value.code == 0
    assert words[: len(path) + 1] == ["ragsearch", *path]
    parse(words[1:])


def parse(words: list[str]) -> None:
    """Parse a command line down to its last command, without calling it."""
    command, context = COMMANDS[()], None
    while True:
        context = command.make_context("ragsearch", list(words), parent=context)
        if not hasattr(command, "commands"):
            return
        words = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, words)


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_the_first_line_of_help_fits_the_list_of_commands(path, capsys):
    with pytest.raises(SystemExit):
        app([*path[:-1], "--help"], prog_name="ragsearch")

    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [path[-1]]
    ]
    assert not line.endswith("...")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import ragsearch; dir(ragsearch)"],
        ["-m", "ragsearch", "--help"],
        ["-m", "ragsearch", "validate", "search_spaces/starter.yaml"],
        ["-m", "ragsearch", "schema"],
        ["-m", "ragsearch", "trials", "--help"],
    ],
)
def test_the_front_door_is_light(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "ragsearch" in imported
    assert imported.isdisjoint({
        "torch",
        "ray",
        "transformers",
        "mlflow",
        "faiss",
        "optuna",
        "pytorch_lightning",
    })
