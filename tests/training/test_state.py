"""A trial that was interrupted after an epoch goes on as if it had not been."""

import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ragsearch.data.questions import Question
from ragsearch.errors import BadInputError
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.state import STATE_FILE
from tests.training.conftest import FakeRetriever, MakeTrial

Report = Callable[[EpochReport], None]
Fit = Callable[..., list[dict[str, float]]]

NLL, EM = (
    ObjectiveSection(metric="val/nll", goal="min"),
    ObjectiveSection(metric="val/em", goal="max"),
)


@pytest.fixture
def fit(retriever: FakeRetriever, train: list[Question], val: list[Question]) -> Fit:
    """Return a function that trains and returns what was reported, times aside."""

    def run(
        trial: TrialSection,
        report: Report = lambda _: None,
        resume: Path | None = None,
        objective: ObjectiveSection = NLL,
        mutable: Sequence[str] = (),
    ) -> list[dict[str, float]]:
        rows = []

        def note(state: EpochReport) -> None:
            metrics = {
                name: value
                for name, value in state.metrics.items()
                if name.startswith(("val/", "train/"))
            }
            rows.append({
                "epoch": state.epoch,
                "is_best": state.is_best,
                "is_last": state.is_last,
                **metrics,
            })
            report(state)

        finder = None if trial.model.type == "closed_book" else retriever
        for draw in (torch.manual_seed, np.random.seed, random.seed):  # as a fresh process has
            draw(11)
        fit_trial(
            trial, (train, val), finder, note, objective=objective, seed=3, resume=resume,
            mutable=mutable,
        )  # fmt: skip
        return rows

    return run


def keeping(folder: Path, n_epochs: int) -> Report:
    """Return what saves each state, and interrupts a trial after some epochs."""

    def report(state: EpochReport) -> None:
        state.save_state(folder)
        if state.epoch == n_epochs:
            raise InterruptedError

    return report


def interrupted_and_resumed(
    fit: Fit, trial: TrialSection, folder: Path, n_epochs: int = 2, **settings: object
) -> tuple[list, list]:
    with pytest.raises(InterruptedError):
        fit(trial, keeping(folder, n_epochs), **settings)
    return fit(trial, resume=folder, **settings)


def learning(make_trial: MakeTrial, **settings: object) -> TrialSection:
    return make_trial(
        **{
            "optim__learning_rate": 5e-3,
            "optim__max_grad_norm": 1.0,
            "optim__effective_batch": 8,
            "optim__schedule": "polynomial",
            "optim__warmup_steps": 4,
            "regularisation__dropout": 0.2,
            "train__max_epochs": 4,
            "decode__max_length": 4,
        }
        | settings
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"train__batch_size": 3, "retrieval__prefetch": 1, "optim__weight_decay": 0.1},
        {"generator": "bart", "model__type": "rag_token", "optim__schedule": "cosine"},
        {"model__type": "closed_book", "model__question_encoder": None},
        {"optim__optimizer": "adafactor", "optim__question_encoder_lr_ratio": 0.1},
        {"generator": "bart", "model__lora": {"rank": 4, "alpha": 32, "dropout": 0.2}},
        {"model__freeze_question_encoder": True, "optim__schedule": "linear"},
        {"train__precision": "bf16-mixed", "optim__schedule": "cosine_with_restarts"},
    ],
    ids=["parts-prefetch", "rag_token", "closed_book", "adafactor", "lora", "frozen", "bf16"],
)
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path, settings: dict
) -> None:
    trial = learning(make_trial, **settings)

    whole = fit(trial)
    rest = interrupted_and_resumed(fit, trial, tmp_path)

    assert rest == whole[2:]
    assert [row["epoch"] for row in rest] == [3, 4]


def test_the_model_of_a_resumed_trial_is_that_of_an_uninterrupted_one(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    trial = learning(make_trial)

    fit(trial, lambda state: state.save(tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        fit(trial, keeping(tmp_path / "state", 3))
    fit(trial, lambda state: state.save(tmp_path / "resumed"), resume=tmp_path / "state")

    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "resumed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_patience_goes_on_over_an_interruption(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    trial = learning(
        make_trial,
        optim__learning_rate=1e-12,  # nothing moves, and so nothing becomes better
        train__max_epochs=9,
        train__early_stopping_patience=3,
        decode__max_length=2,
    )

    rest = interrupted_and_resumed(fit, trial, tmp_path, objective=EM)

    assert [(row["epoch"], row["is_best"], row["is_last"]) for row in rest] == [
        (3, False, False),
        (4, False, True),
    ]


def test_a_trial_that_was_over_does_nothing_more(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    rest = interrupted_and_resumed(fit, learning(make_trial), tmp_path, n_epochs=4)

    assert rest == []
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]  # and so needs nothing


@pytest.fixture
def state(make_trial: MakeTrial, fit: Fit, tmp_path: Path) -> tuple[TrialSection, Path]:
    """Return a trial of one epoch and its state."""
    trial = make_trial(optim__effective_batch=24, train__max_epochs=2, decode__max_length=2)
    with pytest.raises(InterruptedError):
        fit(trial, keeping(tmp_path / "state", 1))
    return trial, tmp_path / "state"


def test_a_state_is_written_without_pickle(state: tuple[TrialSection, Path]) -> None:
    _, folder = state

    suffixes = sorted(path.suffix for path in folder.iterdir())

    assert suffixes == [".json", ".safetensors"]


def test_a_crash_while_a_state_is_written_leaves_the_one_before(
    state: tuple[TrialSection, Path], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, folder = state

    def crash(self: Path, target: Path) -> Path:
        if target.name == STATE_FILE:
            raise OSError("disk full")
        return replace(self, target)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        fit(trial, keeping(folder, 2), resume=folder)
    monkeypatch.undo()

    assert [row["epoch"] for row in fit(trial, resume=folder)] == [2]


def test_a_folder_without_a_state_is_refused(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"no state of a trial is here: state\.json is mis"):
        fit(make_trial(), resume=tmp_path)


def test_a_state_of_another_trial_is_refused_with_all_that_differs(
    state: tuple[TrialSection, Path], fit: Fit
) -> None:
    trial, folder = state
    file = folder / STATE_FILE
    content = json.loads(file.read_text())
    content["origin"] |= {"version of torch": "1.0.0", "trial.optim.learning_rate": 0.5}
    file.write_text(json.dumps(content))

    with pytest.raises(
        BadInputError,
        match=r"of another trial: trial\.optim\.learning_rate was 0\.5 and is .*; "
        r"version of torch was '1\.0\.0' and is '[^']+'; start this one anew",
    ):
        fit(trial, resume=folder)


def test_a_state_goes_on_with_another_learning_rate_where_that_may_change(
    make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    still = learning(make_trial, optim__learning_rate=1e-12, optim__schedule="constant")
    moving = learning(make_trial, optim__learning_rate=5e-3, optim__schedule="constant")
    with pytest.raises(InterruptedError):
        fit(still, keeping(tmp_path, 1))

    with pytest.raises(BadInputError, match=r"learning_rate was 1e-12 and is 0\.005"):
        fit(moving, resume=tmp_path)
    rows = fit(moving, resume=tmp_path, mutable=["optim.learning_rate"])

    stayed = fit(still)
    assert [row["epoch"] for row in rows] == [2, 3, 4]
    assert rows[-1]["val/nll"] < stayed[-1]["val/nll"] - 0.1


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_tensors_are_refused(
    state: tuple[TrialSection, Path], fit: Fit, damage: Callable[[Path], None]
) -> None:
    trial, folder = state
    (tensors,) = folder.glob("*.safetensors")
    damage(tensors)

    with pytest.raises(BadInputError, match=r"safetensors: the state of a trial is damaged \("):
        fit(trial, resume=folder)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"tensors": "x", "numbers": {}}'])
def test_a_damaged_state_file_is_refused(
    state: tuple[TrialSection, Path], fit: Fit, content: str
) -> None:
    trial, folder = state
    (folder / STATE_FILE).write_text(content)

    with pytest.raises(BadInputError, match=r"state\.json: the state of a trial is damaged \("):
        fit(trial, resume=folder)


def forget(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def shorten(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].flatten()[:1].clone()


@pytest.mark.parametrize(
    ("change", "what"),
    [(forget, "1 weights are in it or in the model only, as rag"), (shorten, "of shape")],
)
def test_weights_of_another_model_are_refused(
    state: tuple[TrialSection, Path],
    fit: Fit,
    change: Callable[[dict[str, torch.Tensor], str], None],
    what: str,
) -> None:
    """The folder that a trial takes its model from may hold another one by now."""
    trial, folder = state
    (before,) = folder.glob("*.safetensors")
    tensors = load_file(before)
    change(tensors, min(name for name in tensors if name.startswith("weights/")))
    save_file(tensors, before)
    after = before.with_stem(f"{zlib.crc32(before.read_bytes()):08x}")
    before.rename(after)
    content = (folder / STATE_FILE).read_text()
    (folder / STATE_FILE).write_text(content.replace(before.name, after.name))

    with pytest.raises(BadInputError, match=rf"is damaged \(.*{what}"):
        fit(trial, resume=folder)
