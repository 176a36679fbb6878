"""Whole trials: tiny models, a few seconds each."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import RagSequenceForGeneration, RagTokenForGeneration

from ragsearch.data.questions import Question
from ragsearch.spec import LATENCY, METRICS, SIGNS, ObjectiveSection, TrialSection
from ragsearch.training.evaluation import evaluate, summarise
from ragsearch.training.fit import DivergedError, EpochReport, fit_trial
from ragsearch.training.model import load
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import FakeRetriever, MakeTrial

NLL = ObjectiveSection(metric="val/nll", goal="min")


@dataclass
class Fit:
    """Fits trials on the tiny data."""

    retriever: FakeRetriever | None
    train: list[Question]
    val: list[Question]

    def __call__(
        self,
        trial: TrialSection,
        objective: ObjectiveSection = NLL,
        seed: int = 3,
        on_report: Callable[[EpochReport], None] = lambda _: None,
        **settings: bool,
    ) -> list[EpochReport]:
        """Return the reports of a trial."""
        reports: list[EpochReport] = []

        def report(state: EpochReport) -> None:
            reports.append(state)
            on_report(state)

        questions = self.train, self.val
        fit_trial(
            trial, questions, self.retriever, report, objective=objective, seed=seed, **settings
        )
        return reports


@pytest.fixture
def fit(retriever: FakeRetriever, train: list[Question], val: list[Question]) -> Fit:
    return Fit(retriever, train, val)


def learning_trial(make_trial: MakeTrial, kind: str, generator: str) -> TrialSection:
    return make_trial(
        generator,
        model__type=kind,
        optim__learning_rate=5e-3,
        optim__max_grad_norm=1.0,
        optim__effective_batch=8,
        train__max_epochs=3,
        decode__num_beams=2,
        decode__max_length=6,
    )


KINDS = pytest.mark.parametrize(
    ("kind", "generator"), [("rag_sequence", "t5"), ("rag_token", "bart")]
)


@KINDS
def test_a_trial_learns_and_reports_every_metric_each_epoch(
    kind: str, generator: str, make_trial: MakeTrial, fit: Fit
) -> None:
    reports = fit(learning_trial(make_trial, kind, generator))

    assert [report.epoch for report in reports] == [1, 2, 3]
    times = {"time/epoch_s", "time/retrieval_share", "retrieval/p95_ms"}
    for report in reports:
        assert set(report.metrics) == {*METRICS, *SIGNS, "val/n", "train/loss", *times}
    losses = [report.metrics["train/loss"] for report in reports]
    assert losses[2] < losses[1] < losses[0]
    assert 0.0 < reports[0].metrics["time/retrieval_share"] < 1.0


@pytest.mark.parametrize("kind", ["rag_sequence", "closed_book"])
def test_latency_is_measured_where_it_is_asked_for(
    kind: str, make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(model__type=kind, decode__max_length=4)

    if kind == "closed_book":
        fit = replace(fit, retriever=None)

    (report,) = fit(trial, times_answers=True)

    assert 0.0 < report.metrics[LATENCY] < 60_000.0


@KINDS
def test_the_model_saved_scores_what_was_reported(
    kind: str, generator: str, make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    saved: list[EpochReport] = []

    def save_best(state: EpochReport) -> None:
        if state.is_best:
            saved.append(state)
            state.save(tmp_path)

    fit(learning_trial(make_trial, kind, generator), on_report=save_best)

    model, said = load(tmp_path), saved[-1].metrics
    summary = summarise(list(evaluate(Pipeline(model, fit.retriever), fit.val)))
    assert summary["nll"] == pytest.approx(said["val/nll"], rel=1e-5)
    assert summary["em"] == said["val/em"]
    assert summary["f1"] == said["val/f1"]
    stock = RagSequenceForGeneration if kind == "rag_sequence" else RagTokenForGeneration
    theirs = stock.from_pretrained(tmp_path).state_dict()
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, theirs[name])


@pytest.mark.parametrize(
    ("metric", "goal"), [("val/nll", "min"), ("val/nll", "max"), ("val/f1", "max")]
)
def test_the_best_epoch_is_the_best_by_the_objective(
    metric: str, goal: str, make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(train__max_epochs=3, optim__learning_rate=3e-2, decode__max_length=3)

    reports = fit(trial, ObjectiveSection(metric=metric, goal=goal))

    sign = 1.0 if goal == "max" else -1.0
    best = -math.inf
    for report in reports:
        score = sign * report.metrics[metric]
        assert report.is_best == (score > best)
        best = max(best, score)


@pytest.mark.parametrize(("patience", "n_reports"), [(1, 2), (2, 3), (None, 5)])
def test_a_trial_ends_when_its_patience_is_at_an_end(
    patience: int | None, n_reports: int, make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(
        optim__learning_rate=1e-12,  # nothing moves, and so nothing becomes better
        train__max_epochs=5,
        train__early_stopping_patience=patience,
        decode__max_length=2,
    )

    reports = fit(trial, ObjectiveSection(metric="val/em"))

    assert [report.epoch for report in reports] == list(range(1, n_reports + 1))
    assert [report.is_last for report in reports] == [False] * (n_reports - 1) + [True]
    assert [report.is_best for report in reports] == [True] + [False] * (n_reports - 1)


def test_an_epoch_that_is_better_renews_the_patience(make_trial: MakeTrial, fit: Fit) -> None:
    trial = make_trial(
        optim__learning_rate=5e-3,
        optim__max_grad_norm=1.0,
        optim__effective_batch=8,
        train__max_epochs=4,
        train__early_stopping_patience=1,
        decode__max_length=2,
    )

    reports = fit(trial)

    assert all(report.is_best for report in reports[:3])
    assert len(reports) == 4


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(
    make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(
        train__max_epochs=2, optim__learning_rate=1e-2, regularisation__dropout=0.2
    )

    one, same, other = (fit(trial, seed=seed) for seed in (3, 3, 4))

    def timeless(reports: list[EpochReport]) -> list[dict[str, float]]:
        return [
            {
                name: value
                for name, value in report.metrics.items()
                if name.startswith(("train/", "val/"))
            }
            for report in reports
        ]

    assert timeless(one) == timeless(same)
    assert timeless(one) != timeless(other)


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_a_trial_may_run_in_mixed_precision(kind: str, make_trial: MakeTrial, fit: Fit) -> None:
    trial = make_trial(
        model__type=kind,
        train__precision="bf16-mixed",
        regularisation__label_smoothing=0.1,
        decode__max_length=3,
    )

    reports = fit(trial)

    assert math.isfinite(reports[0].metrics["train/loss"])
    assert math.isfinite(reports[0].metrics["val/nll"])


@pytest.mark.parametrize("freeze", [False, True], ids=["all", "frozen"])
def test_a_diverged_trial_is_said_to_be_one(
    freeze: bool,  # noqa: FBT001
    make_trial: MakeTrial,
    fit: Fit,
) -> None:
    """B26: else a NaN query is refused by the index, in words that explain nothing."""
    trial = make_trial(
        "bart",
        model__freeze_question_encoder=freeze,
        optim__learning_rate=1e36,
        optim__schedule="constant",
        optim__weight_decay=0.9,
        optim__effective_batch=8,
        train__max_epochs=3,
    )

    with pytest.raises(DivergedError, match="try a lower learning rate"):
        fit(trial)


def test_a_trial_that_diverges_in_its_last_step_is_no_result(
    make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(
        "bart",
        model__freeze_question_encoder=True,
        optim__learning_rate=1e36,
        optim__schedule="constant",
        optim__weight_decay=0.9,
        optim__effective_batch=24,  # the only step of the epoch
    )

    with pytest.raises(DivergedError, match="the validation loss is nan"):
        fit(trial)


def test_a_vector_that_is_no_number_is_never_searched_for(
    make_trial: MakeTrial, fit: Fit
) -> None:
    trial = make_trial(
        optim__learning_rate=1e36, optim__schedule="constant", optim__effective_batch=24
    )

    with pytest.raises(DivergedError, match="vectors that are not finite"):
        fit(trial)


def test_what_the_caller_raises_ends_the_trial(make_trial: MakeTrial, fit: Fit) -> None:
    def stop(_: EpochReport) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        fit(make_trial(train__max_epochs=3), on_report=stop)


def test_a_loss_far_above_guessing_has_diverged(make_trial: MakeTrial, fit: Fit) -> None:
    trial = make_trial(
        optim__learning_rate=1e6, optim__schedule="constant", decode__max_length=2
    )

    with pytest.raises(
        DivergedError, match=r"loss is .*; try a lower|not finite; try a lower learning rate"
    ):
        fit(trial)
