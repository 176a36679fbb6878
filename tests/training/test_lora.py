"""Adapters: what is trained, and that what is saved needs none."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, RagSequenceForGeneration

from ragsearch.data.questions import Question
from ragsearch.errors import BadInputError
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training import lora
from ragsearch.training.evaluation import evaluate, summarise
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.model import assemble, load
from ragsearch.training.pipeline import Pipeline
from tests.tiny import Tiny
from tests.training.conftest import FakeRetriever, MakeTrial


class Kind(NamedTuple):
    """A model, and which of its layers have adapters."""

    type: str
    generator: str
    targets: str


KINDS = pytest.mark.parametrize(
    "kind",
    [
        Kind("rag_sequence", "bart", "query_value"),
        Kind("rag_token", "t5", "linear"),
        Kind("closed_book", "t5", "query_value"),
    ],
    ids=str,
)
Fit = Callable[[TrialSection, Callable[[EpochReport], None]], FakeRetriever | None]


@pytest.fixture
def fit(retriever: FakeRetriever, train: list[Question], val: list[Question]) -> Fit:
    """Return a function that trains and returns who found passages."""

    def run(trial: TrialSection, report: Callable[[EpochReport], None]) -> FakeRetriever | None:
        finder = None if trial.model.type == "closed_book" else retriever
        objective = ObjectiveSection(metric="val/nll", goal="min")
        fit_trial(trial, (train, val), finder, report, objective=objective, seed=3)
        return finder

    return run


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("generator", "names"), [("bart", {"q_proj", "v_proj"}), ("t5", {"q", "v"})]
)
def test_only_adapters_of_query_and_value_are_trained(
    generator: str, names: set[str], make_trial: MakeTrial
) -> None:
    network = assemble(make_trial(generator, model__lora={"rank": 2, "alpha": 6})).network

    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained(network)}
    assert layers == {*names, "query", "value"}
    assert all(".lora_" in name for name in trained(network))
    (scale,) = {layer.scaling["default"] for layer in lora._layers(network)}
    assert scale == 3.0


def test_a_frozen_part_has_no_adapters(make_trial: MakeTrial) -> None:
    trial = make_trial("bart", model__lora={"rank": 2}, model__freeze_question_encoder=True)

    names = trained(assemble(trial).network)

    assert names
    assert all(name.startswith("rag.generator.") for name in names)


def test_every_linear_layer_but_the_head_may_have_adapters(make_trial: MakeTrial) -> None:
    trial = make_trial("bart", model__lora={"rank": 2, "targets": "linear", "dropout": 0.3})

    layers = list(lora._layers(assemble(trial).network))

    # of BART's 2 and 2 layers 6 and 10, of the encoder's 2 layers 6
    assert len(layers) == 2 * 6 + 2 * 10 + 2 * 6
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.3}


@KINDS
def test_what_is_saved_is_plain_and_scores_what_was_said(
    kind: Kind, make_trial: MakeTrial, fit: Fit, val: list[Question], tmp_path: Path
) -> None:
    is_closed = kind.type == "closed_book"
    settings = {"model__question_encoder": None} if is_closed else {}
    trial = make_trial(
        kind.generator,
        model__type=kind.type,
        model__lora={"rank": 4, "alpha": 32, "targets": kind.targets, "dropout": 0.1},
        optim__learning_rate=3e-2,
        optim__max_grad_norm=1.0,
        optim__effective_batch=8,
        train__max_epochs=3,
        decode__max_length=4,
        **settings,
    )
    reports: list[EpochReport] = []

    def report(state: EpochReport) -> None:
        reports.append(state)
        state.save(tmp_path / str(state.epoch))

    finder = fit(trial, report)

    losses = [report.metrics["train/loss"] for report in reports]
    assert losses[2] < losses[1] < losses[0]  # goes on after it was merged and saved
    for state in reports:
        model = load(tmp_path / str(state.epoch))
        names = {name for name, _ in model.network.named_parameters()}
        assert not any("lora" in name or "base_layer" in name for name in names)
        summary = summarise(list(evaluate(Pipeline(model, finder), val)), recall=not is_closed)
        assert summary["nll"] == pytest.approx(state.metrics["val/nll"], rel=1e-5)
        assert summary["em"] == state.metrics["val/em"]


def test_weights_without_adapters_stay_as_they_were(
    tiny: Tiny, make_trial: MakeTrial, fit: Fit, tmp_path: Path
) -> None:
    trial = make_trial("bart", model__lora={"rank": 2}, optim__learning_rate=3e-2)
    fit(trial, lambda state: state.save(tmp_path))

    before = AutoModelForSeq2SeqLM.from_pretrained(tiny.bart).state_dict()
    after = RagSequenceForGeneration.from_pretrained(tmp_path).generator.state_dict()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)


def test_a_weight_that_was_merged_is_trained_on_as_it_was(make_trial: MakeTrial) -> None:
    network = assemble(make_trial("bart", model__lora={"rank": 2, "alpha": 7})).network
    for layer in lora._layers(network):
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}

    lora.merge(network)
    merged = {name: weight.clone() for name, weight in network.state_dict().items()}
    lora.unmerge(network)

    after = network.state_dict()
    assert after.keys() == merged.keys() == before.keys()
    assert any(not torch.equal(weight, merged[name]) for name, weight in before.items())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_a_model_without_known_layers_is_refused(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "_QUERY_VALUE", ({"queries", "values"},))

    with pytest.raises(
        BadInputError, match=r"model\.lora: a \w+ has no query and value layers"
    ):
        assemble(make_trial(model__lora={"rank": 2}))
