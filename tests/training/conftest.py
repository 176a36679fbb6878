"""What the tests of training share: questions, a trial, and a retriever in ten lines."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ragsearch.data.passages import iter_corpus
from ragsearch.data.questions import Question, read_questions
from ragsearch.index.encoder import TextEncoder
from ragsearch.index.hits import Hits
from ragsearch.index.store import Passage
from ragsearch.spec import TrialSection
from ragsearch.training.compiler import why_not_compiled
from tests.tiny import Tiny

MakeTrial = Callable[..., TrialSection]

really_compiled = [
    pytest.mark.long,
    pytest.mark.skipif(
        why_not_compiled(on_gpu=False) is not None,
        reason=f"torch.compile {why_not_compiled(on_gpu=False)}",
    ),
    # torch 2.13 warns of itself when it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, which other work on the machine slows down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class FakeRetriever:
    """Exact search over a few vectors: what an index does, without one."""

    fingerprint = "fake"

    def __init__(self, passages: Sequence[Passage], vectors: np.ndarray) -> None:
        self._passages, self._vectors = list(passages), vectors

    @property
    def n_passages(self) -> int:
        """Passages to find."""
        return len(self._passages)

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self._vectors.shape[1]

    def retrieve(self, queries: np.ndarray, n_docs: int, *_: object) -> Hits:
        """Return the nearest passages, missing ones marked; a batch changes no score."""
        scores = np.stack([self._vectors @ query for query in queries])
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :n_docs]
        n_missing = ((0, 0), (0, n_docs - ids.shape[1]))
        return Hits(
            np.pad(ids, n_missing, constant_values=-1),
            np.pad(np.take_along_axis(scores, ids, 1), n_missing, constant_values=-np.inf),
            np.pad(self._vectors[ids], (*n_missing, (0, 0))),
        )

    def passages(self, ids: np.ndarray) -> list[Passage]:
        """Return passages by number."""
        return [self._passages[number] for number in ids]


@pytest.fixture(scope="session")
def retriever(tiny: Tiny) -> FakeRetriever:
    rows = list(iter_corpus(tiny.corpus))
    passages = [Passage(row.id, row.id, row.title, row.text) for row in rows]
    encoder = TextEncoder.load(tiny.context_encoder)
    vectors = encoder.encode_passages([row.title for row in rows], [row.text for row in rows])
    return FakeRetriever(passages, vectors)


@pytest.fixture(scope="session")
def steady_encoder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the question encoder without dropout, of which two runs draw other numbers."""
    folder = tmp_path_factory.mktemp("models") / "question_encoder"
    shutil.copytree(tiny.question_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def train(tiny: Tiny) -> list[Question]:
    return read_questions(tiny.train)


@pytest.fixture(scope="session")
def val(tiny: Tiny) -> list[Question]:
    return read_questions(tiny.val)


@pytest.fixture
def make_trial(tiny: Tiny) -> MakeTrial:
    """Return a function from dotted settings to a trial of tiny models."""

    def make(generator: str = "t5", **settings: object) -> TrialSection:
        sections: dict[str, dict[str, object]] = {
            "model": {
                "question_encoder": str(tiny.question_encoder),
                "generator": str(getattr(tiny, generator)),
            },
            "retrieval": {"n_docs": 3},
            "regularisation": {"dropout": 0.0},
            "train": {"max_epochs": 1, "max_context_length": 64, "max_source_length": 32},
            "decode": {"max_length": 12},
        }
        for path, value in settings.items():
            section, _, key = path.partition("__")
            sections.setdefault(section, {})[key] = value
        return TrialSection.model_validate(sections)

    return make
