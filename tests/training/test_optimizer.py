"""The learning rate over the steps of a trial."""

from typing import get_args

import pytest
import torch
from torch import nn

from ragsearch.spec import OptimSection
from ragsearch.training.optimizer import make_optimizer, make_schedule


def rates(n_steps: int, **settings: object) -> list[float]:
    """Return the learning rate of every step, and what it would be after the last."""
    optim = OptimSection(learning_rate=0.1, **settings)
    optimizer = make_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], optim)
    schedule = make_schedule(optimizer, optim, n_steps)
    found = [schedule.get_last_lr()[0]]
    for _ in range(n_steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


SCHEDULES = get_args(OptimSection.model_fields["schedule"].annotation)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_as_long_as_the_trial_takes_all_its_steps(schedule: str) -> None:
    found = rates(4, schedule=schedule, warmup_steps=4)

    assert found == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_longer_warm_up_is_cut_off_by_the_end_of_the_trial(schedule: str) -> None:
    assert rates(2, schedule=schedule, warmup_steps=8) == pytest.approx([0.0, 0.0125, 0.025])


def test_the_only_step_of_a_trial_may_be_warm_up() -> None:
    assert rates(1, schedule="polynomial", warmup_share=0.5) == pytest.approx([0.0, 0.1])


def test_after_warm_up_the_rate_falls_to_its_end_at_the_last_step() -> None:
    found = rates(4, schedule="polynomial", warmup_steps=2)

    assert found == pytest.approx([0.0, 0.05, 0.1, 0.05, 1e-7])
