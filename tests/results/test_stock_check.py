import ast
import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from ragsearch.data import read_questions
from ragsearch.results.ask import Answerer
from ragsearch.results.export import export_best
from tests.results.conftest import BundleOf, SearchOf
from tests.results.searches import Settings
from tests.tiny import Tiny

SCRIPT = Path(__file__).parents[2] / "scripts" / "stock_check.py"


@pytest.fixture(scope="module")
def stock_check() -> ModuleType:
    """Return the script as a module."""
    spec = spec_from_file_location("stock_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(bundle: Path, tiny: Tiny, to: Path) -> Path:
    """Write what `ragsearch ask --json` prints for every question there is."""
    answerer = Answerer(bundle)
    questions = read_questions(tiny.train)[:12] + read_questions(tiny.val)
    answers = [answerer.ask(question.question).as_dict() for question in questions]
    to.write_text(json.dumps(answers, indent=2))
    return to


def test_the_script_imports_nothing_of_ours():
    tree = ast.parse(SCRIPT.read_text())
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert modules - set(sys.stdlib_module_names) == {"torch", "transformers"}


@pytest.mark.parametrize(
    "settings",
    [
        Settings("rag_sequence", "t5", num_beams=1),
        Settings("rag_sequence", "bart", num_beams=1),
        Settings("rag_sequence", "bart", num_beams=3),
        Settings("rag_token", "t5", num_beams=3),
        Settings("rag_token", "bart", num_beams=1),
        Settings("rag_token", "bart", num_beams=3, n_docs=5),
    ],
    ids=str,
)
def test_stock_transformers_gives_our_answers_from_our_contexts(
    settings: Settings, exported: BundleOf, stock_check: ModuleType, tiny: Tiny, tmp_path: Path
):
    bundle = exported(settings).folder
    file = asked(bundle, tiny, tmp_path / "asked.json")

    assert stock_check.compare(bundle, file) == 0


def test_stock_transformers_gives_our_answers_of_a_trained_model(
    fitted: SearchOf, stock_check: ModuleType, tiny: Tiny, tmp_path: Path
):
    # Trained: an untrained T5 proposes answers without words, see the script.
    record = fitted(Settings("rag_sequence", "t5", num_beams=3, max_epochs=3))
    bundle = export_best(record.folder, tmp_path / "best").folder
    file = asked(bundle, tiny, tmp_path / "asked.json")

    assert stock_check.compare(bundle, file) == 0
    assert {row["answer"] for row in json.loads(file.read_text())} != {""}


def test_an_answer_that_differs_is_shown(
    exported: BundleOf,
    stock_check: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    bundle = exported(Settings()).folder
    answer = Answerer(bundle).ask("Why?").as_dict() | {"answer": "no such answer"}
    file = tmp_path / "asked.jsonl"
    file.write_text(json.dumps(answer) + "\n")

    assert stock_check.compare(bundle, file) == 1
    assert "differs: 'Why?': " in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_runs_end_to_end_over_the_exported_index(
    exported: BundleOf, tiny: Tiny, tmp_path: Path
):
    bundle = exported(Settings(generator="bart")).folder
    file = asked(bundle, tiny, tmp_path / "asked.json")
    command = [sys.executable, SCRIPT, bundle, file, "--hf-retriever", "--data", tiny.val]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "same answers: 20 of 20"
    assert lines[1].startswith("end to end, as it is: exact match 0.")
    assert lines[2].startswith("end to end, mended: exact match 0.")
    assert lines[2].endswith("of 8 questions")


def test_without_questions_there_is_no_end_to_end(
    stock_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["stock_check.py", "x", "y", "--hf-retriever"])

    with pytest.raises(SystemExit):
        stock_check.main()
    assert "--hf-retriever needs --data" in capsys.readouterr().err
