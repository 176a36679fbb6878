"""Training steps: what moves, by how much, with which dropout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from transformers import Adafactor

from ragsearch.data.questions import Question
from ragsearch.index.hits import Hits
from ragsearch.spec import TrialSection
from ragsearch.training import fit
from ragsearch.training.contexts import Contexts
from ragsearch.training.loss import marginal_loss
from ragsearch.training.model import assemble, load
from ragsearch.training.module import RagModule
from ragsearch.training.optimizer import parameter_groups
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.workers import Workers
from tests.tiny import Tiny
from tests.training.conftest import FakeRetriever, MakeTrial

Watch = Callable[[RagModule], None]


class Probe(pl.Callback):
    """Looks at the module after each training batch."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_batch_end(self, _: pl.Trainer, pl_module: RagModule, *__: object) -> None:
        """Look."""
        self._watch(pl_module)


@pytest.fixture
def train_steps(
    retriever: FakeRetriever, train: list[Question]
) -> Callable[[TrialSection, Watch], RagModule]:
    """Return a function that trains one epoch on eight questions, in order."""

    def run(trial: TrialSection, watch: Watch = lambda _: None) -> RagModule:
        pl.seed_everything(0, verbose=False)
        module = RagModule(Pipeline(assemble(trial), retriever))
        loaders = (
            fit.Steps(fit._loader(train[:8], trial.optim.effective_batch), Workers()),
            fit._loader(train[8:10], trial.train.eval_batch_size),
        )
        with fit._quiet():
            fit._trainer(trial, Probe(watch)).fit(module, *loaders)
        return module

    return run


TrainSteps = Callable[..., RagModule]


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_dropout_is_on_at_every_training_step(
    generator: str, make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    """B4: Lightning leaves models in evaluation mode; a validation lies between the two."""
    modes: list[bool] = []

    train_steps(
        make_trial(generator, train__max_epochs=2),
        lambda module: modes.append(all(part.training for part in module.network.modules())),
    )

    assert modes == [True, True]


def test_a_frozen_question_encoder_has_no_dropout_and_stays_as_it_is(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    modes: list[tuple[bool, bool]] = []
    trial = make_trial(model__freeze_question_encoder=True, optim__learning_rate=1e-2)
    before = assemble(trial)

    module = train_steps(
        trial,
        lambda module: modes.append((
            module.pipeline.model.generator.training,
            any(part.training for part in module.pipeline.model.question_encoder.modules()),
        )),
    )

    after = module.pipeline.model
    assert modes == [(True, False)]
    assert same_weights(after.question_encoder, before.question_encoder)
    assert not same_weights(after.generator, before.generator)


def test_a_frozen_generator_has_no_dropout_and_stays_as_it_is(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    modes: list[tuple[bool, bool]] = []
    trial = make_trial(
        model__freeze_generator=True, optim__learning_rate=1e-2, regularisation__dropout=0.1
    )
    before = assemble(trial)

    module = train_steps(
        trial,
        lambda module: modes.append((
            any(part.training for part in module.pipeline.model.generator.modules()),
            module.pipeline.model.question_encoder.training,
        )),
    )

    after = module.pipeline.model
    assert modes == [(False, True)]
    assert same_weights(after.generator, before.generator)
    assert not same_weights(after.question_encoder, before.question_encoder)
    assert len(list(parameter_groups(after.network, trial.optim))) == 2


def test_an_unfrozen_question_encoder_learns(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    trial = make_trial(optim__learning_rate=1e-2)

    module = train_steps(trial)

    learnt = module.pipeline.model.question_encoder
    assert not same_weights(learnt, assemble(trial).question_encoder)


def test_a_mean_pooled_question_encoder_learns(
    tiny: Tiny, make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    trial = make_trial(model__question_encoder=str(tiny.bert), optim__learning_rate=1e-2)

    module = train_steps(trial)

    learnt = module.pipeline.model.question_encoder
    words = "embeddings.word_embeddings.weight"
    before = assemble(trial).question_encoder
    assert not torch.equal(learnt.state_dict()[words], before.state_dict()[words])


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize("generator", ["t5", "bart"])
@pytest.mark.parametrize(("dropout", "is_same"), [(0.0, True), (0.5, False)])
def test_two_forward_passes_differ_only_with_dropout(
    dropout: float,
    is_same: bool,  # noqa: FBT001
    generator: str,
    make_trial: MakeTrial,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    trial = make_trial(generator, regularisation__dropout=dropout)
    pipeline = Pipeline(assemble(trial), retriever)
    pipeline.model.generator.train()
    texts = [question.question for question in train[:2]]
    found = pipeline.retrieve(texts, 2)
    labels = pipeline.labels([question.answers[0] for question in train[:2]])

    with torch.no_grad():
        one, other = (
            pipeline.logits(pipeline.read(texts, found), found.doc_scores, labels)
            for _ in range(2)
        )

    assert torch.equal(one, other) == is_same


def test_biases_and_norms_do_not_decay(make_trial: MakeTrial) -> None:
    trial = make_trial(
        optim__weight_decay=0.1,
        optim__learning_rate=1e-3,
        optim__question_encoder_lr_ratio=0.5,
    )
    for generator in ("t5", "bart"):
        network = assemble(make_trial(generator)).network
        names = {id(parameter): name for name, parameter in network.named_parameters()}

        groups = list(parameter_groups(network, trial.optim))

        seen = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(seen) == sorted(names)
        assert [(group["lr"], group["weight_decay"]) for group in groups] == [
            (0.0005, 0.1),
            (0.0005, 0.0),
            (0.001, 0.1),
            (0.001, 0.0),
        ]
        for group in groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                is_spared = name.endswith(".bias") or "norm" in name.lower()
                assert is_spared == (group["weight_decay"] == 0.0), name
                assert name.startswith("rag.question_encoder.") == (group["lr"] < 0.001)


def test_a_frozen_question_encoder_is_in_no_group(make_trial: MakeTrial) -> None:
    model = assemble(make_trial(model__freeze_question_encoder=True))

    groups = list(parameter_groups(model.network, model.trial.optim))

    assert len(groups) == 2
    n_grouped = sum(len(group["params"]) for group in groups)
    assert n_grouped == len(list(model.generator.parameters()))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 2 / 3, 1 / 3]),
        ("cosine", [0.5, 1.0, 0.75, 0.25]),
        ("polynomial", [0.5, 1.0, 2 / 3, 1 / 3]),
    ],
)
def test_the_learning_rate_follows_its_schedule_over_all_steps(
    schedule: str, rates: list[float], make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    seen: list[list[float]] = []
    trial = make_trial(
        optim__schedule=schedule,
        optim__warmup_steps=2,
        optim__learning_rate=1e-3,
        optim__question_encoder_lr_ratio=0.1,
        optim__effective_batch=3,  # three steps an epoch, the last one of two questions
        train__max_epochs=2,
        train__batch_size=3,
    )
    if schedule == "cosine":  # of six steps, four after warm-up
        rates = [0.5, 1.0, 0.853553, 0.5, 0.146447]
    elif schedule != "constant":
        rates = [0.5, 1.0, 0.75, 0.5, 0.25]

    train_steps(trial, lambda module: seen.append(module.lr_schedulers().get_last_lr()))

    assert len(seen) == 6
    assert [step[-1] for step in seen[:5]] == pytest.approx(
        [rate * 1e-3 for rate in [*rates, 1.0][:5]], rel=1e-3
    )
    assert [step[0] for step in seen] == pytest.approx([step[-1] / 10 for step in seen])


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # 4 steps after warm-up: 0.5 * (1 + cos(pi * (2 * t / 4 mod 1)))
        ({"n_cycles": 2, "warmup_steps": 2}, [0.5, 1.0, 0.5, 1.0, 0.5]),
        ({"warmup_steps": 2}, [0.5, 1.0, 0.853553, 0.5, 0.146447]),
        ({"n_cycles": 2, "warmup_share": 0.3}, [0.5, 1.0, 0.5, 1.0, 0.5]),  # 1.8 steps: 2
    ],
)
def test_cosine_starts_again_as_often_as_asked(
    settings: dict[str, float],
    rates: list[float],
    make_trial: MakeTrial,
    train_steps: TrainSteps,
) -> None:
    seen: list[float] = []
    trial = make_trial(
        optim__schedule="cosine_with_restarts",
        optim__learning_rate=1e-3,
        optim__effective_batch=3,  # three steps an epoch
        train__max_epochs=2,
        **{f"optim__{key}": value for key, value in settings.items()},
    )

    train_steps(trial, lambda module: seen.append(module.lr_schedulers().get_last_lr()[-1]))

    assert seen[:5] == pytest.approx([rate * 1e-3 for rate in rates], rel=1e-3)


def test_adafactor_moves_weights_by_the_learning_rate_it_is_given(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    """Its first step divides a gradient by its own size: what moves, moves by the rate."""
    settings = {"optim__schedule": "constant", "optim__weight_decay": 0.0}
    trial = make_trial(optim__optimizer="adafactor", optim__learning_rate=1e-3, **settings)
    steps: list[torch.optim.Optimizer] = []

    module = train_steps(trial, lambda module: steps.append(module.optimizers().optimizer))

    before = assemble(trial).generator.state_dict()
    moved = {
        name: (weight - before[name]).square().mean().sqrt().item()
        for name, weight in module.pipeline.model.generator.state_dict().items()
    }
    assert isinstance(steps[0], Adafactor)
    assert len(steps[0].param_groups) == 4
    assert 5e-4 < max(moved.values()) < 1.01e-3


def test_gradients_are_left_as_they_are_without_a_limit(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    norms: list[float] = []
    for limit in (None, 1e6):
        trial = make_trial(
            optim__max_grad_norm=limit,
            optim__learning_rate=1e-12,
            model__freeze_question_encoder=True,
        )
        train_steps(trial, lambda module: norms.append(norm_of(module)))

    assert norms[0] == norms[1] > 0.01


def norm_of(module: RagModule) -> float:
    return torch.stack([grad.norm() for grad in gradients_of(module).values()]).norm().item()


@contextmanager
def watched_linears(ran: list[bool]) -> Iterator[None]:
    """Count the runs of every linear layer, those for the backward pass included."""

    def note(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            ran.append(True)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_gradient_checkpointing_computes_twice_and_changes_no_gradient(
    generator: str, make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    gradients: list[dict[str, Tensor]] = []
    settings = {"optim__max_grad_norm": None, "regularisation__dropout": 0.1}

    ran: list[list[bool]] = [[], []]

    for is_on in (False, True):
        trial = make_trial(generator, **settings, train__gradient_checkpointing=is_on)
        with watched_linears(ran[is_on]):
            train_steps(trial, lambda module: gradients.append(gradients_of(module)))

    assert len(ran[True]) > 1.8 * len(ran[False]) > 0  # heads lie outside the layers
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("generator", ["t5", "bart"])
def test_gradient_checkpointing_reaches_both_parts_and_is_not_saved(
    generator: str, make_trial: MakeTrial, tmp_path: Path
) -> None:
    """B21: turned on for the whole RAG model it raises an error."""
    model = assemble(make_trial(generator, train__gradient_checkpointing=True))

    def on(part: torch.nn.Module) -> bool:
        return any(getattr(inner, "gradient_checkpointing", False) for inner in part.modules())

    model.save(tmp_path)
    assert [on(part) for part in model.parts] == [True, True]
    assert not on(load(tmp_path).network)


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_accumulation_changes_no_step(
    kind: str, make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    """Answers differ in length: an average of averages would give other weights."""
    settings = {
        "model__type": kind,
        "optim__effective_batch": 8,
        "optim__max_grad_norm": 1000.0,
        "regularisation__label_smoothing": 0.1,
    }
    gradients: list[dict[str, Tensor]] = []

    for size in (8, 3):  # parts of 3, 3 and 2 questions
        trial = make_trial(
            **settings,
            train__batch_size=size,
            model__freeze_question_encoder=True,  # DPR's own dropout is drawn by shape
        )
        train_steps(trial, lambda module: gradients.append(gradients_of(module)))

    assert len(gradients) == 2
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["rag_sequence", "rag_token"])
def test_parts_of_a_step_leave_the_gradient_of_the_whole(
    kind: str, make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    """The question encoder included, which is passed once for all parts."""
    gradients: list[dict[str, Tensor]] = []
    asked = Counting(retriever._passages, retriever._vectors)

    for size in (8, 3):
        trial = make_trial(
            model__type=kind,
            optim__max_grad_norm=1000.0,
            train__batch_size=size,
            optim__effective_batch=8,
        )
        module = RagModule(Pipeline(assemble(trial), asked))
        for layer in module.modules():
            if isinstance(layer, nn.Dropout):  # drawn by shape, and parts have others
                layer.p = 0.0
        probe = Probe(lambda module: gradients.append(gradients_of(module)))
        with fit._quiet():
            fit._trainer(trial, probe).fit(
                module, fit.Steps(fit._loader(train[:8], 8), Workers())
            )

    assert asked.n_calls == 2
    names = gradients[0].keys()
    assert gradients[1].keys() == names
    assert any("question_encoder" in name for name in names)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


class Counting(FakeRetriever):
    """Counts how often it is asked."""

    n_calls = 0

    def retrieve(self, queries: np.ndarray, n_docs: int, *rest: object) -> Hits:
        """Return the nearest passages."""
        self.n_calls += 1
        return super().retrieve(queries, n_docs, *rest)


def test_the_parts_of_a_step_hold_questions_of_like_width(
    make_trial: MakeTrial, retriever: FakeRetriever
) -> None:
    module = RagModule(Pipeline(assemble(make_trial(train__batch_size=2)), retriever))
    widths = [9, 3, 8, 2, 5, 5, 7, 1, 4, 4]  # of two contexts a question
    mask = torch.tensor([[1] * width + [0] * (9 - width) for width in widths])
    contexts = Contexts(mask, mask)

    parts = [part.tolist() for part in module._parts(contexts, 5)]

    assert parts == [[2, 4], [1, 3], [0]]
    assert contexts.rows(torch.tensor([4, 5])).input_ids.shape == (2, 5)


def gradients_of(module: RagModule) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.network.named_parameters()
        if parameter.grad is not None
    }


def test_gradients_are_clipped_to_their_global_norm(
    make_trial: MakeTrial, train_steps: TrainSteps
) -> None:
    norms: list[float] = []

    train_steps(
        make_trial(optim__max_grad_norm=0.01),
        lambda module: norms.append(norm_of(module)),
    )

    assert norms == pytest.approx([0.01], rel=1e-3)


def test_the_train_loss_is_the_mean_of_the_epochs_tokens(
    make_trial: MakeTrial,
    train_steps: TrainSteps,
    retriever: FakeRetriever,
    train: list[Question],
) -> None:
    trial = make_trial(
        optim__learning_rate=1e-12,
        optim__effective_batch=3,
        model__freeze_question_encoder=True,
    )
    pipeline = Pipeline(assemble(trial), retriever)
    pipeline.model.network.train(mode=False)
    texts = [question.question for question in train[:8]]
    labels = pipeline.labels([question.answers[0] for question in train[:8]])
    with torch.no_grad():
        found = pipeline.retrieve(texts, 3)
        logits = pipeline.logits(pipeline.read(texts, found), found.doc_scores, labels)
    loss = marginal_loss("rag_sequence", logits, found.doc_scores, labels.ids, labels.mask)

    module = train_steps(trial)

    expected = (loss.nll.sum() / loss.n_tokens.sum()).item()
    assert module.epoch_metrics["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert 0.0 < module.epoch_metrics["time/retrieval_share"] < 1.0


def test_document_scores_are_float32_under_autocast(
    make_trial: MakeTrial, retriever: FakeRetriever, train: list[Question]
) -> None:
    """Rounded to bfloat16, an inner product of 80 is off by up to 0.25."""
    pipeline = Pipeline(assemble(make_trial()), retriever)
    pipeline.model.network.train(mode=False)
    texts = [question.question for question in train[:4]]

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = pipeline.model.encode_questions(texts).float()
        scores = pipeline.retrieve(texts, 5).doc_scores

    hits = retriever.retrieve(vectors.numpy(), 5)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(hits.scores), rtol=1e-5, atol=1e-5)


def test_training_writes_nothing_where_it_runs(
    make_trial: MakeTrial,
    train_steps: TrainSteps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    train_steps(make_trial())

    assert list(tmp_path.iterdir()) == []
