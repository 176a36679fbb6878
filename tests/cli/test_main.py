"""How the command line ends: exit codes, one clear line an error, results on stdout."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragsearch import cli
from ragsearch.errors import (
    BadInputError,
    EveryTrialFailedError,
    Mistake,
    PoolUnavailableError,
    SearchInterruptedError,
)


def run(*words, cwd, **environment):
    """Run the real command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ragsearch", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
    )


@pytest.fixture
def ends_with(monkeypatch, capsys):
    """Let the application raise something; say what the user sees and the exit code."""

    def main_with(error):
        def app(**_):
            raise error

        monkeypatch.setattr(cli, "app", app)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return main_with


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInputError([Mistake("a.yaml:1", "x", "wrong"), Mistake("b", "", "gone")]), 2),
        (PoolUnavailableError("no replica"), 3),
        (EveryTrialFailedError("all of them"), 4),
        (SearchInterruptedError("stopped"), 130),
    ],
)
def test_an_error_on_purpose_ends_with_its_code_and_message(ends_with, error, code):
    shown = "".join(f"error: {line}\n" for line in str(error).splitlines())

    assert ends_with(error) == (code, shown)


def test_an_error_of_ours_is_one_line_with_a_hint(ends_with, monkeypatch):
    monkeypatch.delenv("RAGSEARCH_DEBUG", raising=False)

    code, shown = ends_with(KeyError("lost\nand more"))

    assert code == 1
    assert shown.count("\n") == 1
    assert shown.startswith("error: KeyError: 'lost")
    assert "RAGSEARCH_DEBUG=1" in shown


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("RAGSEARCH_DEBUG", "1")

    def app(prog_name):
        raise KeyError(prog_name)

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(KeyError, match="ragsearch"):
        cli.main()


def test_what_the_user_has_set_in_the_environment_stays(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)

    cli.prepare_environment()

    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_news_are_told_as_they_are_and_trouble_by_its_name():
    formatter = cli._Plain()

    def shown(level):
        return formatter.format(logging.LogRecord("x", level, "", 0, "trial 1", (), None))

    assert shown(logging.INFO) == "trial 1"
    assert shown(logging.WARNING) == "warning: trial 1"


def test_a_usage_error_is_bad_input(tmp_path):
    assert run("validate", cwd=tmp_path).returncode == 2
    assert run("no-such-command", cwd=tmp_path).returncode == 2


def test_init_then_validate_prints_the_plan_on_stdout(tmp_path):
    made = run("init", "kb", cwd=tmp_path)
    people = run("validate", "kb/space.yaml", cwd=tmp_path)
    scripts = run("validate", "kb/space.yaml", "--json", "-o", "budget.trials=3", cwd=tmp_path)

    assert (made.returncode, made.stdout) == (0, "kb/space.yaml\nkb/space.schema.json\n")
    assert people.returncode == 0
    assert people.stdout.startswith("trials    8")
    assert json.loads(scripts.stdout)["trials"] == 3


def test_every_mistake_is_reported_at_once_and_nothing_is_written(tmp_path):
    done = run("init", "kb", cwd=tmp_path)
    space = tmp_path / "kb/space.yaml"
    text = space.read_text().replace("n_docs: 5", "n_dox: 5").replace("trials: 8", "trials: 0")
    space.write_text(text)

    for command in ("validate", "run"):
        done = run(command, "kb/space.yaml", cwd=tmp_path)

        assert done.returncode == 2
        assert done.stdout == ""
        assert "unknown key; did you mean 'n_docs'?" in done.stderr
        assert "budget.trials" in done.stderr
        assert all(
            line.startswith("error: kb/space.yaml:") for line in done.stderr.splitlines()
        )
    made = ["kb", "space.schema.json", "space.yaml"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == made


def test_trials_of_an_empty_folder_is_bad_input(tmp_path):
    done = run("trials", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr == "error: runs: no search here; start one with `ragsearch run`\n"
