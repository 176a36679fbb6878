"""The Lightning module of a trial: loss, optimiser, validation.

In: batches of `Question`s as they are; tokenising belongs to the pipeline. Out: `train/loss`
and the `val/...` metrics of each epoch, in `epoch_metrics`.
"""

import time
from collections.abc import Iterator
from typing import Any, override

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from ragsearch.data.questions import Question
from ragsearch.spec import OptimSection
from ragsearch.training.evaluation import Example, evaluate_batch, summarise
from ragsearch.training.loss import marginal_loss
from ragsearch.training.pipeline import Pipeline

_SCHEDULES = {"constant": "constant_with_warmup"}
_LR_END = 1e-7  # Transformers' default for the polynomial schedule


class RagModule(pl.LightningModule):
    """Trains a pipeline's model through the marginal loss."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.network = pipeline.model.network
        self.pipeline = pipeline
        self.epoch_metrics: dict[str, float] = {}
        self._losses: list[tuple[float, int]] = []
        self._examples: list[Example] = []
        self._epoch_started = 0.0

    @override
    def transfer_batch_to_device(
        self, batch: list[Question], device: torch.device, dataloader_idx: int
    ) -> list[Question]:
        """Leave questions as they are: the pipeline puts their tokens on the device."""
        return batch

    @override
    def training_step(self, batch: list[Question], _: int) -> Tensor:
        """Give the mean loss a target token, label smoothing included."""
        pipeline, trial = self.pipeline, self.pipeline.model.trial
        texts = [question.question for question in batch]
        retrieved = pipeline.retrieve(texts, trial.retrieval.n_docs)
        contexts = pipeline.read(texts, retrieved)
        labels = pipeline.labels([question.answers[0] for question in batch])
        loss = marginal_loss(
            pipeline.model.kind,
            pipeline.logits(contexts, retrieved.doc_scores, labels),
            retrieved.doc_scores,
            labels.ids,
            labels.mask,
            trial.regularisation.label_smoothing,
        )
        n_tokens = int(loss.n_tokens.sum())
        mean = loss.smoothed.sum() / n_tokens
        self._losses.append((float(mean.detach()), n_tokens))
        return mean

    @override
    def validation_step(self, batch: list[Question], _: int) -> None:
        """Answer and score a batch."""
        self._examples += evaluate_batch(self.pipeline, batch)

    @override
    def on_train_epoch_start(self) -> None:
        """Start the epoch's clocks and switch dropout on.

        Models from `from_pretrained` are in evaluation mode, and Lightning leaves them so.
        """
        self.network.train()
        if self.pipeline.model.trial.model.freeze_question_encoder:
            self.pipeline.model.question_encoder.eval()
        self._losses.clear()
        self.pipeline.retrieval_s = 0.0
        self._epoch_started = time.perf_counter()

    @override
    def on_validation_epoch_start(self) -> None:
        """Close the training part of the epoch."""
        self._examples.clear()
        self.network.eval()
        elapsed = time.perf_counter() - self._epoch_started
        n_tokens = sum(n for _, n in self._losses)
        self.epoch_metrics = {
            "train/loss": sum(loss * n for loss, n in self._losses) / max(n_tokens, 1),
            "time/epoch_s": elapsed,
            "time/retrieval_share": self.pipeline.retrieval_s / elapsed,
        }

    @override
    def on_validation_epoch_end(self) -> None:
        """Average what validation found."""
        summary = summarise(self._examples)
        self.epoch_metrics |= {f"val/{name}": value for name, value in summary.items()}

    @override
    def configure_optimizers(self) -> dict[str, Any]:  # Any: Lightning's own contract
        """AdamW in up to four groups, and a learning rate that changes at every step."""
        optim = self.pipeline.model.trial.optim
        optimizer = torch.optim.AdamW(
            list(_parameter_groups(self.network, optim)),
            lr=optim.learning_rate,
            eps=optim.adam_epsilon,
        )
        polynomial = optim.schedule == "polynomial"
        end = {"lr_end": min(_LR_END, optim.learning_rate / 10)} if polynomial else None
        schedule = get_scheduler(
            _SCHEDULES.get(optim.schedule, optim.schedule),
            optimizer,
            num_warmup_steps=optim.warmup_steps,
            num_training_steps=int(self.trainer.estimated_stepping_batches),
            scheduler_specific_kwargs=end,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _parameter_groups(
    network: nn.Module, optim: OptimSection
) -> Iterator[dict[str, object]]:
    """Split trainable parameters by learning rate and by whether they decay."""
    norms = {
        id(parameter)
        for module in network.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
    for part, ratio in (("question_encoder", optim.question_encoder_lr_ratio), ("", 1.0)):
        mine = [
            (name, parameter)
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and ("question_encoder" in name) == bool(part)
        ]
        kept = [p for name, p in mine if name.endswith("bias") or id(p) in norms]
        decaying = [p for name, p in mine if not name.endswith("bias") and id(p) not in norms]
        for parameters, decay in ((decaying, optim.weight_decay), (kept, 0.0)):
            if parameters:
                yield {
                    "params": parameters,
                    "lr": optim.learning_rate * ratio,
                    "weight_decay": decay,
                }
