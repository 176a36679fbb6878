"""Compiled by torch, a trial learns what it learns without: really compiled, in minutes."""

from pathlib import Path
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from ragsearch.data.questions import Question
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.loss import marginal_loss
from ragsearch.training.model import TrialModel, assemble
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial, really_compiled

pytestmark = really_compiled


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()
    counters.clear()


def n_compiled() -> int:
    return counters["stats"]["unique_graphs"]


def learned(
    trial: TrialSection, retriever: FakeRetriever | None, questions: list[Question]
) -> tuple[list[float], dict[str, Tensor]]:
    """Return the losses of two batches of unlike sizes, and the sum of their gradients."""
    torch.manual_seed(0)  # of adapters
    model = assemble(trial)
    pipeline = Pipeline(model, retriever)
    model.start_training()
    losses = []
    for batch in (questions[:4], questions[4:11]):
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=trial.train.precision == "bf16-mixed"
        ):
            losses.append(loss_of(model, pipeline, batch))
        losses[-1].backward()
    gradients = {
        name: parameter.grad
        for name, parameter in model.network.named_parameters()
        if parameter.grad is not None
    }
    return [float(loss.detach()) for loss in losses], gradients


def loss_of(model: TrialModel, pipeline: Pipeline, batch: list[Question]) -> Tensor:
    texts = [question.question for question in batch]
    found = pipeline.retrieve(texts, model.trial.retrieval.n_docs)
    labels = pipeline.labels([question.answers[0] for question in batch])
    logits = pipeline.logits(pipeline.read(texts, found), found.doc_scores, labels)
    loss = marginal_loss(model.kind, logits, found.doc_scores, labels.ids, labels.mask)
    return loss.nll.sum() / labels.mask.sum()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return how far gradients are from others, as a share of these."""
    assert one.keys() == other.keys()
    off = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (off / sum(float(other[name].square().sum()) for name in other)) ** 0.5


class Case(NamedTuple):
    """A trial, and how near its compiled gradients must come, as a share of the others."""

    kind: str
    generator: str
    settings: dict[str, object]
    tolerance: float = 1e-4


CASES = {
    "rag_sequence": Case("rag_sequence", "bart", {}),
    "lora": Case("rag_token", "t5", {"model__lora": {"rank": 2}}),
    "checkpointing": Case("closed_book", "bart", {"train__gradient_checkpointing": True}),
    # compiled code keeps in float32 what autocast rounds between two operations
    "bf16": Case("closed_book", "bart", {"train__precision": "bf16-mixed"}, 2e-2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_compiled_losses_and_gradients_are_those_of_the_model_as_it_is(
    case: Case,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    steady_encoder: Path,
) -> None:
    reads = case.kind != "closed_book"
    finder = retriever if reads else None
    settings = case.settings | {
        "model__type": case.kind,
        "model__question_encoder": str(steady_encoder) if reads else None,
    }

    plain, expected = learned(make_trial(case.generator, **settings), finder, train)
    assert n_compiled() == 0
    settings["train__compile"] = True
    compiled, gradients = learned(make_trial(case.generator, **settings), finder, train)

    assert n_compiled() == (3 if reads else 2)  # once each, for batches of both sizes
    assert not counters["graph_break"]
    assert compiled == pytest.approx(plain, rel=case.tolerance)
    assert distance(gradients, expected) < case.tolerance


def test_a_compiled_trial_reports_and_saves_what_it_would_and_the_next_compiles_nothing(
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
    val: list[Question],
    steady_encoder: Path,
) -> None:
    """LoRA takes its adapters into the weights and out again between the two."""

    def fitted(*, is_compiled: bool) -> tuple[list[dict[str, float]], list[str]]:
        trial = make_trial(
            "bart",
            model__question_encoder=str(steady_encoder),
            model__lora={"rank": 2},
            optim__learning_rate=5e-3,
            optim__effective_batch=8,
            train__batch_size=3,
            train__max_epochs=2,
            decode__num_beams=2,
            decode__max_length=6,
            retrieval__prefetch=1,
            train__compile=is_compiled,
        )
        told, keys = [], []

        def report(state: EpochReport) -> None:
            told.append(state.metrics)
            keys.append(sorted(state.save.__self__.network.state_dict()))

        objective = ObjectiveSection(metric="val/nll", goal="min")
        fit_trial(trial, (train, val), retriever, report, objective=objective, seed=3)
        return told, keys[-1]

    plain, keys = fitted(is_compiled=False)
    compiled, compiled_keys = fitted(is_compiled=True)
    n_first = n_compiled()
    again, _ = fitted(is_compiled=True)

    assert 3 <= n_first <= 4  # one more for a single question: torch takes sizes of 1 apart
    assert n_compiled() == n_first
    assert compiled_keys == keys
    for found, same, expected in zip(compiled, again, plain, strict=True):
        figures = [name for name in expected if name.startswith(("train/", "val/"))]
        assert {name: found[name] for name in figures} == {name: same[name] for name in figures}
        for name in figures:
            assert found[name] == pytest.approx(expected[name], abs=1e-4), name


def test_a_compiled_trial_goes_on_as_if_it_had_not_been_interrupted(
    make_trial: MakeTrial, train: list[Question], val: list[Question], tmp_path: Path
) -> None:
    """With dropout, whose numbers compiled code draws by a seed of its own."""
    trial = make_trial(
        "bart",
        model__type="closed_book",
        model__question_encoder=None,
        regularisation__dropout=0.2,
        optim__learning_rate=5e-3,
        train__max_epochs=2,
        train__compile=True,
    )
    told: list[list[dict[str, float]]] = []

    for resume in (None, tmp_path / "state"):
        rows = []

        def report(state: EpochReport, rows: list[dict[str, float]] = rows) -> None:
            rows.append({
                name: value
                for name, value in state.metrics.items()
                if name.startswith(("train/", "val/"))
            })
            if state.epoch == 1:
                state.save_state(tmp_path / "state")

        torch.compiler.reset()  # as in a process of its own
        pl.seed_everything(1, verbose=False)
        objective = ObjectiveSection(metric="val/nll", goal="min")
        fit_trial(trial, (train, val), None, report, objective=objective, seed=3, resume=resume)
        told.append(rows)

    whole, rest = told
    assert len(whole) == 2
    assert rest == whole[1:]
