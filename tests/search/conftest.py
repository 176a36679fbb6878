"""A space file over tiny models, with sections changed by the test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ragsearch.spec import Spec, load_spec
from tests.tiny import Tiny

SPACE = {
    "model.type": {"choice": ["rag_sequence", "rag_token"]},
    "retrieval.n_docs": {"ordinal": [1, 3, 5]},
    "optim.learning_rate": {"log": [1e-5, 1e-2]},
    "optim.warmup_steps": {"int": [0, 40], "step": 10},
    "regularisation.dropout": {"uniform": [0.0, 0.2], "step": 0.05},
}


@pytest.fixture
def space_of(tiny: Tiny, tmp_path: Path) -> Callable[..., Spec]:
    """Return a function that loads a small space file with some sections replaced."""

    def make(**sections: dict) -> Spec:
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(space_content(tiny, **sections)))
        return load_spec(file)

    return make


def space_content(tiny: Tiny, **sections: dict) -> dict:
    """Return the content of a small space file; `trial` is merged, others are replaced."""
    content = {
        "version": 1,
        "name": "tiny",
        "seed": 3,
        "data": {"train": str(tiny.train), "val": str(tiny.val)},
        "indexes": {"tiny": {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder)}},
        "trial": {
            "model": {
                "question_encoder": str(tiny.question_encoder),
                "generator": str(tiny.t5),
            },
            "retrieval": {"n_docs": 2},
            "optim": {"learning_rate": 0.01},
            "train": {"max_epochs": 4},
        },
        "space": {"optim.learning_rate": {"log": [1.0e-4, 1.0e-1]}},
        "budget": {"trials": 3},
    }
    trial = content["trial"] | sections.pop("trial", {})
    return content | {"trial": trial} | sections
