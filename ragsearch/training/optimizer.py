"""The optimiser of a trial, its parameter groups and its learning-rate schedule.

Knows torch and Transformers; knows nothing of Lightning, of batches or of losses.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import Adafactor, get_scheduler

from ragsearch.spec import OptimSection

Group = dict[str, Any]  # Any: torch's own contract

_SCHEDULES = {"constant": "constant_with_warmup"}
_LR_END = 1e-7  # Transformers' default for the polynomial schedule
_ADAM_EPSILON = 1e-8


def make_optimizer(groups: Iterable[Group], optim: OptimSection) -> torch.optim.Optimizer:
    """Return AdamW, or Adafactor (Shazeer and Stern 2018, arXiv 1804.04235).

    Adafactor takes the learning rate as it is given, neither scaled by the parameters' size nor
    made smaller by the step: as in the original fine-tuning script of Transformers.
    """
    if optim.optimizer == "adafactor":
        return Adafactor(  # type: ignore[no-untyped-call] # Transformers leaves it so
            list(groups), lr=optim.learning_rate, scale_parameter=False, relative_step=False
        )
    epsilon = _ADAM_EPSILON if optim.adam_epsilon is None else optim.adam_epsilon
    return torch.optim.AdamW(list(groups), lr=optim.learning_rate, eps=epsilon)


def make_schedule(
    optimizer: torch.optim.Optimizer, optim: OptimSection, n_steps: int
) -> LRScheduler:
    """Return what moves the learning rate after each of `n_steps` optimiser steps.

    A warm-up that is as long or longer takes all of them, whatever the schedule.
    """
    n_warmup = optim.warmup_steps or math.ceil(optim.warmup_share * n_steps)
    schedule: LRScheduler = get_scheduler(
        _SCHEDULES.get(optim.schedule, optim.schedule),
        optimizer,
        num_warmup_steps=n_warmup,
        # Transformers' polynomial divides by the steps after warm-up
        num_training_steps=max(n_steps, n_warmup + 1),
        scheduler_specific_kwargs=_shape(optim),
    )
    return schedule


def fast_forward(schedule: LRScheduler, n_steps: int) -> None:
    """Have a schedule and its optimiser be where they are after at least one step."""
    # a count above 1 tells torch that the optimiser has made steps
    before = {"last_epoch": n_steps - 1, "_step_count": n_steps + 1}
    schedule.load_state_dict(schedule.state_dict() | before)
    schedule.step()


def _shape(optim: OptimSection) -> dict[str, float | int]:
    if optim.schedule == "polynomial":
        return {"lr_end": min(_LR_END, optim.learning_rate / 10)}
    if optim.schedule == "cosine_with_restarts":
        return {"num_cycles": optim.n_cycles or 1}
    return {}


def parameter_groups(network: nn.Module, optim: OptimSection) -> Iterator[Group]:
    """Yield trainable parameters by learning rate and by whether they decay."""
    spared = {id(parameter) for parameter in _without_decay(network)}
    for of_encoder, ratio in ((True, optim.question_encoder_lr_ratio), (False, 1.0)):
        mine = [
            parameter
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
            and name.startswith("rag.question_encoder.") == of_encoder
        ]
        decaying = [parameter for parameter in mine if id(parameter) not in spared]
        kept = [parameter for parameter in mine if id(parameter) in spared]
        for parameters, decay in ((decaying, optim.weight_decay), (kept, 0.0)):
            if parameters:
                yield {
                    "params": parameters,
                    "lr": optim.learning_rate * ratio,
                    "weight_decay": decay,
                }


def _without_decay(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield biases, and the weights of anything called a norm (T5's is no `nn.LayerNorm`)."""
    for module in network.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or name.endswith("bias"):
                yield parameter
