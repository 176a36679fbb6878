"""The generator alone: what a trial without retrieval trains, reports and saves."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from ragsearch.data.questions import Question
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training.evaluation import evaluate, summarise
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.model import ClosedBookModel, assemble, load
from ragsearch.training.pipeline import Pipeline
from tests.training.conftest import MakeTrial

GENERATORS = pytest.mark.parametrize("generator", ["t5", "bart"])
QUESTION = "What is the capital of Québec?"


@pytest.fixture
def closed(make_trial: MakeTrial) -> MakeTrial:
    """Return a function from dotted settings to a closed-book trial."""

    def make(generator: str, **settings: object) -> TrialSection:
        return make_trial(
            generator, model__type="closed_book", model__question_encoder=None, **settings
        )

    return make


@GENERATORS
def test_a_closed_book_trial_learns_and_what_is_saved_scores_what_was_said(
    generator: str,
    closed: MakeTrial,
    train: list[Question],
    val: list[Question],
    tmp_path: Path,
) -> None:
    trial = closed(
        generator,
        optim__learning_rate=5e-3,
        optim__max_grad_norm=1.0,
        optim__effective_batch=8,
        train__max_epochs=3,
        decode__num_beams=2,
    )
    reports: list[EpochReport] = []

    def report(state: EpochReport) -> None:
        reports.append(state)
        state.save(tmp_path)

    objective = ObjectiveSection(metric="val/nll", goal="min")
    fit_trial(trial, (train, val), None, report, objective=objective, seed=3)

    losses = [report.metrics["train/loss"] for report in reports]
    assert losses[2] < losses[1] < losses[0]
    said = reports[-1].metrics
    assert set(said) == {
        "train/loss",
        "time/epoch_s",
        "val/em",
        "val/f1",
        "val/n",
        "val/nll",
        "val/rouge_l",
    }
    examples = list(evaluate(Pipeline(load(tmp_path), None), val))
    summary = summarise(examples, recall=False)
    assert summary["nll"] == pytest.approx(said["val/nll"], rel=1e-5)
    assert (summary["em"], summary["f1"]) == (said["val/em"], said["val/f1"])


@GENERATORS
def test_stock_transformers_opens_a_closed_book_model_and_answers_the_same(
    generator: str, closed: MakeTrial, train: list[Question], tmp_path: Path
) -> None:
    model = assemble(closed(generator, model__prefix="answer: ", decode__num_beams=2))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in model.network.named_parameters():
            if weight.ndim > 1 and ("encoder_attn" in name or "EncDecAttention" in name):
                weight.add_(0.5 * torch.randn_like(weight))  # answers that heed the question
    model.save(tmp_path)

    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    questions = [*train[:3], Question("q", QUESTION, ("Baba",), ())]
    examples = list(evaluate(Pipeline(load(tmp_path), None), questions))

    assert len({example.prediction for example in examples}) > 1
    for example in examples:
        tokens = tokenizer(f"answer: {example.question.question}", return_tensors="pt")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        labels = tokenizer(example.question.answers[0], return_tensors="pt")["input_ids"]
        settings = GenerationConfig.from_pretrained(tmp_path)
        with torch.no_grad():
            answer = stock.generate(**inputs, generation_config=settings)
            loss = stock(**inputs, labels=labels).loss  # a mean per token
        said = tokenizer.batch_decode(answer, skip_special_tokens=True)[0].strip()
        assert example.prediction == said
        assert example.nll == pytest.approx(float(loss) * labels.shape[1], rel=1e-4)
        assert example.passages == [None]


def test_a_closed_book_model_opens_no_question_encoder(closed: MakeTrial) -> None:
    model = assemble(closed("bart", regularisation__encoder_layerdrop=0.2))

    assert isinstance(model, ClosedBookModel)
    assert model.generator is model.network
    assert model.network.config.encoder_layerdrop == 0.2
