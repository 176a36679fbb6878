"""Several processes train one model together: each reads its share, and sums are over all.

In: numbers and gradients of one worker. Out: those of all of them. With one worker nothing is
sent and nothing changes. Knows torch.distributed; knows nothing of Ray, models or trials.

Lightning's own data parallelism is not used: it sums gradients during every backward pass,
while an optimiser step here has as many passes as `train.batch_size` makes, not as many on each
worker; and it averages over workers, while here every token weighs the same.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")

_WAIT = timedelta(minutes=30)  # one writes a checkpoint while the others wait for the next step
_BUCKET = 2**24  # numbers sent at a time: 64 MB


@dataclass(frozen=True, slots=True)
class Workers:
    """Who trains a model together, as one of them sees it."""

    rank: int = 0
    """Number of this worker; the first one reports and saves."""
    n: int = 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this worker's items: every `n`-th, from the `rank`-th on; maybe none."""
        return list(items[self.rank :: self.n])

    def total(self, *numbers: float) -> list[float]:
        """Return each number summed over all workers; all have to ask."""
        if self.n == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=_device())
        dist.all_reduce(sums)
        return [float(number) for number in sums]

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of all workers, in the order that `share` took them from."""
        if self.n == 1:
            return list(items)
        shares: list[Any] = [None] * self.n  # Any: torch's own contract
        dist.all_gather_object(shares, list(items))
        rows = range(max(map(len, shares)))
        return [share[row] for row in rows for share in shares if row < len(share)]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have every worker's gradients be the sum of all; all have to ask.

        A parameter that no worker has a gradient of keeps none: an optimiser lets it be.
        """
        if self.n == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in self._with_gradient_anywhere(trained):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, summed in zip(bucket, torch.split(flat, sizes), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _with_gradient_anywhere(
        self, parameters: Sequence[nn.Parameter]
    ) -> Iterator[nn.Parameter]:
        found = [float(parameter.grad is not None) for parameter in parameters]
        for parameter, n_found in zip(parameters, self.total(*found), strict=True):
            if n_found:
                yield parameter


@contextmanager
def working_together(place: str, rank: int, n: int) -> Iterator[Workers]:
    """Be one of `n` processes that train together, while the block lasts.

    Args:
        place: Where they meet: `file://path` on one machine, else `tcp://host:port`.
        rank: Which one this is, from 0.
        n: How many they are.

    Yields:
        What they do together.
    """
    if place.startswith("file://"):  # on one machine nobody outside need hear them
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=place, rank=rank, world_size=n, timeout=_WAIT)
    try:
        yield Workers(rank, n)
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one type together, up to so many numbers."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        bucket = by_type.setdefault(gradient.dtype, [])
        bucket.append(gradient)
        if sum(one.numel() for one in bucket) >= _BUCKET:
            yield by_type.pop(gradient.dtype)
    yield from by_type.values()
