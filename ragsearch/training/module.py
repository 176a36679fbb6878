"""The Lightning module of a trial: loss, optimiser, validation.

In: batches of `Question`s as they are; tokenising belongs to the pipeline. A training batch is
one optimiser step, however many forward passes it takes, and says what comes next. Out:
`train/loss`, the `val/...` metrics of each epoch with the signs of `collapse`, and what waiting
for the retriever cost, in `epoch_metrics`. Where a question encoder is trained, also
`train/question_encoder_grad_norm`: the norm of its gradient before clipping, averaged over the
steps of the epoch (with float16, over those that it did not overflow).
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple, cast

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from ragsearch.data.questions import Question
from ragsearch.spec import LATENCY
from ragsearch.training.collapse import Hits, collapse_signs, hits_of
from ragsearch.training.contexts import Contexts
from ragsearch.training.evaluation import Example, evaluate_batch, summarise
from ragsearch.training.latency import latency_ms_p95
from ragsearch.training.loss import DivergedError, marginal_loss
from ragsearch.training.model import RagModel
from ragsearch.training.optimizer import make_optimizer, make_schedule, parameter_groups
from ragsearch.training.pipeline import Found, Labels, Pipeline, Retrieved
from ragsearch.training.rungs import Rungs, Validations
from ragsearch.training.workers import Workers


class Step(NamedTuple):
    """The questions of one optimiser step."""

    questions: list[Question]
    following: list[Question] | None
    """Those of the next step of this epoch; None at its end."""


class Done(NamedTuple):
    """What a trial has behind it when Lightning starts to train it."""

    epochs: int
    steps: int


_NOTHING = Done(epochs=0, steps=0)


class RagModule(pl.LightningModule):
    """Trains a pipeline's model through the marginal loss.

    Args:
        pipeline: What is trained.
        workers: Who trains it together, each on its share of every batch.
        done: What it has behind it, of which Lightning is to know nothing.
        times_answers: Whether each validation also measures latency.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        workers: Workers = Workers(),
        done: Done = _NOTHING,
        *,
        times_answers: bool = False,
    ) -> None:
        super().__init__()
        # Lightning's own accumulation averages averages; here every token weighs the same.
        self.automatic_optimization = False
        self.network = pipeline.model.network
        self.pipeline = pipeline
        self.workers = workers
        self.times_answers = times_answers
        self.done = done
        self.hits_before: list[Hits] | None = None
        """What was found for the validation questions of this worker before training."""
        self.epoch_metrics: dict[str, float] = {}
        self._ahead: Future[Found] | None = None
        self._losses: list[tuple[float, float]] = []
        self._encoder_norms: list[Tensor] = []
        self._examples: list[Example] = []
        self.compared: dict[str, float] = {}
        self._epoch_started = 0.0

    @override
    def transfer_batch_to_device(
        self, batch: Step | list[Question], device: torch.device, dataloader_idx: int
    ) -> Step | list[Question]:
        """Return questions as they are: the pipeline puts their tokens on the device."""
        return batch

    @override
    def training_step(self, batch: Step, _: int) -> None:
        """Take one optimiser step on the mean loss of the batch's target tokens.

        Raises:
            DivergedError: If the loss is no longer a finite number.
        """
        texts = [question.question for question in batch.questions]
        labels = self.pipeline.labels([question.answers[0] for question in batch.questions])
        n_tokens = self.workers.total(float(labels.mask.sum()))[0]
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        optimizer.zero_grad()
        retrieved = self._retrieve(texts, batch.following)
        mine = self._leave_gradients(texts, retrieved, labels, n_tokens) if texts else 0.0
        total = self.workers.total(mine)[0]
        if not math.isfinite(total):
            raise DivergedError(f"the training loss is {total}; try a lower learning rate")
        self.workers.sum_gradients(self.network.parameters())
        self._losses.append((total, n_tokens))
        optimizer.step()
        self.schedule.step()

    def _leave_gradients(
        self, texts: list[str], retrieved: Retrieved, labels: Labels, n_tokens: float
    ) -> float:
        """Return the loss of this worker's questions, its gradients left in the parameters.

        Args:
            texts: At least one question.
            retrieved: Their passages.
            labels: Their answers.
            n_tokens: Target tokens of the whole step, over which the loss is a mean.
        """
        contexts = self.pipeline.read(texts, retrieved)
        # each part leaves its gradient here: the question encoder is passed once, at the end
        live = retrieved.doc_scores
        scores = live.detach().requires_grad_(live.requires_grad)
        total = 0.0
        for part in self._parts(contexts, len(texts)):
            loss = self._loss(part, contexts, scores, labels) / n_tokens
            self.manual_backward(loss)
            total += float(loss.detach())
        if live.requires_grad and math.isfinite(total):
            torch.autograd.backward(live, scores.grad)
        return total

    def _retrieve(self, texts: list[str], following: list[Question] | None) -> Retrieved:
        """Return this step's passages, and have those of the next one found meanwhile."""
        asked, pipeline = self.pipeline.model.trial.retrieval, self.pipeline
        retrieved = pipeline.retrieve(texts, asked.n_docs, self._ahead, texts=False)
        self._ahead = None
        if asked.prefetch and following is not None:
            later = [question.question for question in following]
            self._ahead = pipeline.request(later, asked.n_docs)
        return retrieved

    def _parts(self, contexts: Contexts, n_questions: int) -> Iterator[Tensor]:
        """Divide the questions of a step among forward passes, by the width of their contexts.

        Yields:
            Numbers of questions, in their order where one pass is enough.
        """
        size = self.pipeline.model.trial.train.batch_size
        widths = contexts.attention_mask.sum(dim=-1).view(n_questions, -1).amax(dim=-1)
        order = widths.argsort(stable=True)
        for start in range(0, n_questions, size):
            yield order[start : start + size].sort().values

    def _loss(
        self, part: Tensor, contexts: Contexts, scores: Float[Tensor, "B K"], labels: Labels
    ) -> Tensor:
        """Return the sum over the target tokens of some questions."""
        pipeline, n_docs = self.pipeline, scores.shape[1]
        rows = (part[:, None] * n_docs + torch.arange(n_docs, device=part.device)).flatten()
        answers = labels.of(part)
        logits = pipeline.logits(contexts.rows(rows), scores[part], answers)
        return marginal_loss(
            pipeline.model.kind,
            logits,
            scores[part],
            answers.ids,
            answers.mask,
            pipeline.model.trial.regularisation.label_smoothing,
        ).smoothed.sum()

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure and clip gradients; with float16 they are unscaled by now."""
        if (norm := self._encoder_norm()) is not None:
            self._encoder_norms.append(norm)
        limit = self.pipeline.model.trial.optim.max_grad_norm
        if limit is not None:
            self.clip_gradients(
                optimizer, gradient_clip_val=limit, gradient_clip_algorithm="norm"
            )

    def _encoder_norm(self) -> Tensor | None:
        """Return the norm of the question encoder's gradient, None where it is not trained."""
        model = self.pipeline.model
        if not isinstance(model, RagModel) or model.question_encoder in model.frozen:
            return None
        parameters = model.question_encoder.parameters()
        return get_total_norm([one.grad for one in parameters if one.grad is not None])

    @override
    def validation_step(self, batch: list[Question], _: int) -> None:
        """Answer and score a batch."""
        self._examples += evaluate_batch(self.pipeline, batch)

    @override
    def on_train_start(self) -> None:
        """Note what is found for the validation questions before anything is trained."""
        batches = self.trainer.val_dataloaders
        if self.pipeline.retriever is None or batches is None or self.hits_before is not None:
            return
        whole = batches.whole if isinstance(batches, Validations) else batches
        self.pipeline.model.stop_training()
        with self.trainer.precision_plugin.val_step_context():  # as validation encodes them
            self.hits_before = hits_of(self.pipeline, whole)

    @override
    def on_train_epoch_start(self) -> None:
        """Start the epoch's clocks and switch dropout on."""
        self.pipeline.model.start_training()
        self._losses.clear()
        self._encoder_norms.clear()
        self.pipeline.waits_s.clear()
        self._epoch_started = time.perf_counter()

    @override
    def on_validation_epoch_start(self) -> None:
        """Close the training part of the epoch: its times leave validation out."""
        self.pipeline.model.stop_training()
        self._examples.clear()
        self.epoch_metrics = {}
        if not self._losses:  # nothing was trained
            return
        elapsed = time.perf_counter() - self._epoch_started
        n_tokens, waits_s = sum(n for _, n in self._losses), self.pipeline.waits_s
        self.epoch_metrics = {
            "train/loss": math.fsum(loss * n for loss, n in self._losses) / n_tokens,
            "time/epoch_s": elapsed,
        }
        norms = [norm for norm in map(float, self._encoder_norms) if math.isfinite(norm)]
        if norms:
            self.epoch_metrics["train/question_encoder_grad_norm"] = float(np.mean(norms))
        if waits_s:  # a closed-book model waits for nobody
            self.epoch_metrics |= {
                "time/retrieval_share": math.fsum(waits_s) / elapsed,
                "retrieval/p95_ms": 1000.0 * float(np.percentile(waits_s, 95)),
            }

    @override
    def on_validation_epoch_end(self) -> None:
        """Average what validation found."""
        self.compared = self._summary(self._examples)
        summary = dict(self.compared)
        if self.pipeline.retriever is not None:
            signs = collapse_signs(self._examples, self._before(), self.workers)
            summary |= {f"val/{name}": value for name, value in signs.items()}
        (n,) = self.workers.total(float(len(self._examples)))
        self.epoch_metrics |= summary | {"val/n": n}
        rungs = self._rungs()
        if rungs is not None and len(rungs.compared) < n:
            among = [one for one in self._examples if one.question.id in rungs.compared]
            self.compared = self._summary(among)
        if self.times_answers:
            questions = [example.question for example in self._examples]
            with self.trainer.precision_plugin.val_step_context():
                self.epoch_metrics[LATENCY] = latency_ms_p95(self.pipeline, questions)

    def _rungs(self) -> Rungs | None:
        asked = self.trainer.val_dataloaders
        return asked.rungs if isinstance(asked, Validations) else None

    def _before(self) -> list[Hits] | None:
        """Return what was found before training for the questions of this validation."""
        rungs = self._rungs()
        if self.hits_before is None or rungs is None:
            return self.hits_before
        # of fewer questions this worker has others than its share of all
        known = dict(zip(rungs.ids, self.workers.gather(self.hits_before), strict=True))
        return [known[example.question.id] for example in self._examples]

    def _summary(self, examples: list[Example]) -> dict[str, float]:
        recall = self.pipeline.retriever is not None
        summary = summarise(examples, recall=recall, workers=self.workers)
        return {f"val/{name}": value for name, value in summary.items()}

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return an optimiser of up to four groups, its learning rate changing every step."""
        optim = self.pipeline.model.trial.optim
        optimizer = make_optimizer(parameter_groups(self.network, optim), optim)
        n_steps = self.done.steps + int(self.trainer.estimated_stepping_batches)
        return OptimizerLRSchedulerConfig(
            optimizer=optimizer, lr_scheduler=make_schedule(optimizer, optim, n_steps)
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser itself, without what Lightning wraps it in."""
        return cast("torch.optim.Optimizer", self.optimizers(use_pl_optimizer=False))

    @property
    def schedule(self) -> LRScheduler:
        """What moves its learning rates."""
        return cast("LRScheduler", self.lr_schedulers())
