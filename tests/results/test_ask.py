import json
import shutil
from pathlib import Path

import pytest

from ragsearch.data import read_questions
from ragsearch.errors import BadInputError
from ragsearch.results.ask import Answerer, ask
from ragsearch.results.bundle import Bundle
from tests.results.conftest import BundleOf, SearchOf
from tests.results.searches import Settings
from tests.tiny import Tiny

QUESTION = "What is the capital of Babex?"


@pytest.fixture(scope="module")
def bundle(exported: BundleOf) -> Bundle:
    """Return the bundle most tests ask."""
    return exported(Settings())


def test_an_answer_shows_what_was_read(bundle: Bundle):
    answer = ask(bundle.folder, QUESTION)

    assert len(answer.passages) == len(answer.contexts) == len(answer.doc_scores) == 3
    assert answer.doc_scores == sorted(answer.doc_scores, reverse=True)
    assert [passage.doc_score for passage in answer.passages] == answer.doc_scores
    assert sum(passage.weight for passage in answer.passages) == pytest.approx(1.0)
    assert answer.contexts == [
        f"{passage.title} / {passage.text} // {QUESTION}" for passage in answer.passages
    ]


def test_an_answer_is_plain_json(bundle: Bundle):
    answer = ask(bundle.folder, QUESTION)

    again = json.loads(json.dumps(answer.as_dict(), allow_nan=False))

    assert again["answer"] == answer.answer
    assert again["doc_scores"] == answer.doc_scores
    assert again["passages"][0].keys() == {"id", "title", "text", "doc_score", "weight"}


def test_an_answer_does_not_depend_on_what_was_asked_before(bundle: Bundle, tiny: Tiny):
    answerer = Answerer(bundle.folder)
    questions = [question.question for question in read_questions(tiny.val)]

    forth = [answerer.ask(question) for question in questions]
    back = [answerer.ask(question) for question in reversed(questions)]

    assert forth == back[::-1]


def test_passages_that_do_not_exist_are_not_shown(exported: BundleOf):
    answer = ask(exported(Settings(n_docs=50)).folder, QUESTION)

    assert len(answer.passages) == len(answer.contexts) == len(answer.doc_scores) == 40


def test_an_empty_question_is_refused(bundle: Bundle):
    with pytest.raises(BadInputError, match="question: is empty; ask something"):
        ask(bundle.folder, "  ")


def test_a_mean_pooled_model_answers(exported: BundleOf):
    answer = ask(exported(Settings(encoder="bert")).folder, QUESTION)

    assert all(-1.001 <= score <= 1.001 for score in answer.doc_scores)


def test_another_index_is_refused(bundle: Bundle, made: SearchOf):
    other = Path(made(Settings(encoder="bert")).indexes["facts"].folder)

    with pytest.raises(
        BadInputError, match=r"this is index [0-9a-f]{16} but .* was trained with [0-9a-f]{16}"
    ):
        Answerer(bundle.folder, other)


def test_an_index_that_has_moved_can_be_given(made: SearchOf, tmp_path: Path, bundle: Bundle):
    moved = tmp_path / "moved"
    shutil.copytree(made(Settings()).indexes["facts"].folder, moved)

    assert ask(bundle.folder, QUESTION, moved) == ask(bundle.folder, QUESTION)


def test_an_index_that_is_gone_is_asked_for(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / "best"
    shutil.copytree(bundle.folder, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(bundle.manifest.index.folder, "/gone"))

    with pytest.raises(
        BadInputError, match="/gone: the bundle's index 'facts' is gone; say where"
    ):
        Answerer(folder)
