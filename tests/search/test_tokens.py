"""Passages tokenised before the trials: for whom, where, and that trials read them."""

import logging
from contextlib import contextmanager

import pytest
import yaml

from ragsearch.errors import BadInputError
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.run import build_indexes
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.tokens import tokenise_passages
from ragsearch.search.trainable import IndexAddress, TrialJob, _train
from ragsearch.spec import load_spec
from ragsearch.training.workers import Workers
from tests.search.conftest import space_content


def kept(folder):
    return sorted(path.name for path in folder.glob("tokens/*"))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Return an output folder with the index of the tiny space file."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "space.yaml").write_text(yaml.safe_dump(space_content(tiny)))
    build_indexes(load_spec(folder / "space.yaml"), folder / "runs")
    return folder / "runs"


@pytest.fixture
def tokenised(runs, tmp_path, caplog):
    """Return a function that tokenises what a spec needs, and what it logged."""

    def run(spec, **settings):
        with caplog.at_level(logging.INFO):
            tokenise_passages(spec, build_indexes(spec, runs), tmp_path, **settings)
        return [line for line in caplog.messages if line.startswith("tokens")]

    return run


def test_each_generator_that_a_trial_can_have_gets_tokens(tiny, space_of, tokenised, tmp_path):
    spec = space_of(
        space={
            "model.generator": {"choice": [str(tiny.t5), str(tiny.bart)]},
            "model.prefix": {"choice": ["", "answer: "]},
            "model.type": {"choice": ["rag_token", "closed_book"]},
        }
    )
    titles = []

    @contextmanager
    def progress(title):
        titles.append(title)
        yield lambda *_: None

    said = tokenised(spec, progress=progress)
    first = kept(tmp_path)
    tokenised(spec)

    assert kept(tmp_path) == first
    assert len(first) == 4
    assert titles == ["tokens tiny"] * 4
    assert [line.partition(", ")[0] for line in said] == 4 * ["tokens tiny: 40 passages"]


def test_a_search_without_retrieval_keeps_no_tokens(tiny, space_of, tokenised, tmp_path):
    model = {"type": "closed_book", "generator": str(tiny.t5)}

    said = tokenised(space_of(trial={"model": model, "retrieval": {}}, indexes={}))

    assert said == ["tokens: none are kept, as no trial reads passages"]
    assert kept(tmp_path) == []


def test_where_tokens_depend_on_questions_each_trial_makes_its_own(
    tiny, space_of, tokenised, tmp_path
):
    models = {"question_encoder": str(tiny.question_encoder), "generator": str(tiny.t5)}

    said = tokenised(space_of(trial={"model": models | {"doc_separator": "//"}}))

    (line,) = said
    assert line.startswith("tokens tiny: each trial makes its own, as doc_separator '//' does")
    assert kept(tmp_path) == []


def test_a_generator_without_a_tokenizer_is_refused_before_any_trial(
    tiny, space_of, tokenised, tmp_path
):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("config.json", "model.safetensors"):
        (bare / file).write_bytes((tiny.t5 / file).read_bytes())
    models = {"question_encoder": str(tiny.question_encoder), "generator": str(bare)}

    with pytest.raises(BadInputError, match="has no tokenizer"):
        tokenised(space_of(trial={"model": models}))


def test_a_trial_reads_the_tokens_and_trains_without_texts(
    space_of, runs, tmp_path, monkeypatch
):
    spec = space_of(
        trial={
            "retrieval": {"n_docs": 2, "backend": "in_process"},
            "optim": {"effective_batch": 24},
            "train": {"max_epochs": 1},
            "decode": {"max_length": 4},
        }
    )
    indexes = build_indexes(spec, runs)
    folder, index = tokenise_passages(spec, indexes, tmp_path), indexes["tiny"]
    address = {"tiny": IndexAddress(str(index.folder), index.manifest.fingerprint)}
    n_texts, passages = [], InProcessRetriever.passages
    monkeypatch.setattr(
        InProcessRetriever,
        "passages",
        lambda self, ids: n_texts.append(len(ids)) or passages(self, ids),
    )
    second = Workers(rank=1, n=1)  # who reads all but the first of a batch, and reports nothing

    for tokens in (folder, tmp_path / "of another node"):
        _train({TRIAL_KEY: 0}, TrialJob(spec, address, tmp_path, tokens), None, second)

    to_train, to_validate = 23 * 2, 7 * 10
    before = to_validate  # what is found for the validation questions before training
    assert n_texts == [before, to_validate, before, to_train, to_validate]
