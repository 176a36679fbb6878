"""Two real gloo processes train one model, and it is the model that one would have trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ragsearch.index.build import build_index
from ragsearch.spec import IndexSection
from ragsearch.training.workers import Workers
from tests.command import CHECKOUT, environment
from tests.tiny import Tiny
from tests.training import together
from tests.training.conftest import MakeTrial, really_compiled

PATIENCE_S = 600  # two compilations of a model, on a busy machine


def run_both(job: str, place: Path) -> list[dict]:
    """Run two workers to their end and return what each tells."""
    words = (sys.executable, "-m", "tests.training.together", job, str(place))
    started = [
        subprocess.Popen(
            [*words, str(rank), "2"], cwd=CHECKOUT, stdout=subprocess.PIPE, env=environment()
        )
        for rank in (0, 1)
    ]
    try:
        return [json.loads(one.communicate(timeout=PATIENCE_S)[0]) for one in started]
    finally:
        for one in started:
            one.kill()


@pytest.fixture(scope="module")
def index(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    return build_index(settings, tmp_path_factory.mktemp("indexes") / "index").folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},  # 11 questions, 4 a step: the last step leaves one worker a single question
        {"model__type": "rag_token", "optim__effective_batch": 5, "train__batch_size": 2},
        {"retrieval__backend": "torch_distributed", "retrieval__prefetch": 1},
        # ten times slower: Adam makes whole steps of what rounds otherwise in compiled code
        pytest.param(
            {"train__compile": True, "optim__learning_rate": 5e-4}, marks=really_compiled
        ),
    ],
    ids=["rag_sequence", "rag_token-parts", "torch_distributed-prefetch", "compiled"],
)
def test_two_workers_train_as_one_would(
    tiny: Tiny,
    index: Path,
    steady_encoder: Path,
    make_trial: MakeTrial,
    tmp_path: Path,
    settings: dict,
) -> None:
    settings["model__question_encoder"] = str(steady_encoder)
    trial = make_trial(
        **{"optim__effective_batch": 4, "optim__learning_rate": 5e-3, "train__max_epochs": 2}
        | settings
    )
    data = {"train": str(tiny.train), "val": str(tiny.val), "n_train": 9, "n_val": 5}
    job = data | {
        "trial": trial.model_dump(mode="json"),
        "index": str(index),
    }

    first, second = run_both(json.dumps(job), tmp_path / "place")
    alone = trial.retrieval.model_copy(update={"backend": "in_process"})
    job["trial"] = trial.model_copy(update={"retrieval": alone}).model_dump(mode="json")
    one = together.fitted(job, Workers())

    assert first["weights"] == second["weights"]
    assert len(first["epochs"]) == 2
    for both, same, expected in zip(
        first["epochs"], second["epochs"], one["epochs"], strict=True
    ):
        figures = [name for name in expected if name.startswith(("train/", "val/"))]
        assert {name: both[name] for name in figures} == {name: same[name] for name in figures}
        for name in figures:
            assert both[name] == pytest.approx(expected[name], abs=1e-4), name
    assert first["epochs"][0]["train/loss"] > first["epochs"][1]["train/loss"]


@pytest.mark.slow
def test_two_workers_go_on_as_if_they_had_not_been_interrupted(
    tiny: Tiny, index: Path, make_trial: MakeTrial, tmp_path: Path
) -> None:
    """With dropout, which each worker draws for itself, and last steps that one sits out."""
    trial = make_trial(
        optim__effective_batch=4,
        optim__learning_rate=5e-3,
        regularisation__dropout=0.2,
        train__max_epochs=3,
        decode__max_length=4,
    )
    job = {
        "trial": trial.model_dump(mode="json"),
        "train": str(tiny.train),
        "val": str(tiny.val),
        "n_train": 9,
        "n_val": 5,
        "index": str(index),
        "state": str(tmp_path / "state"),
    }

    for told in run_both(json.dumps(job), tmp_path / "place"):
        whole, rest = told["whole"], told["rest"]
        assert rest["weights"] == whole["weights"]
        assert len(rest["epochs"]) == 2
        for one, other in zip(rest["epochs"], whole["epochs"][1:], strict=True):
            figures = [name for name in other if name.startswith(("train/", "val/"))]
            assert {name: one[name] for name in figures} == {
                name: other[name] for name in figures
            }


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return run_both("sums", tmp_path_factory.mktemp("group") / "place")


def test_numbers_are_summed_over_workers(sums: list[dict]) -> None:
    assert [told["total"] for told in sums] == [[3.0, 1.0]] * 2


def test_every_item_has_one_worker_and_comes_back_in_its_place(sums: list[dict]) -> None:
    assert [told["share"] for told in sums] == [[0, 2, 4], [1, 3]]
    assert [told["gathered"] for told in sums] == [[0, 1, 2, 3, 4]] * 2


def test_gradients_are_summed_and_who_has_none_anywhere_keeps_none(sums: list[dict]) -> None:
    for told in sums:
        assert told["gradients"] == [[3.0] * 3, [5.0] * 3, None, None]


def test_one_worker_has_all_and_sends_nothing() -> None:
    workers = Workers()

    assert workers.share([1, 2]) == workers.gather([1, 2]) == [1, 2]
    assert workers.total(2.0, 0.5) == [2.0, 0.5]
