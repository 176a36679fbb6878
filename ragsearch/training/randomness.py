"""Where a worker's random numbers stand: torch's, numpy's, Python's, and those of the order.

In and out: plain JSON values, so that they are kept without pickle.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

RandomState = dict[str, Any]
"""Any: JSON, whose shape is known to the two functions below alone."""


def random_state(order: torch.Generator) -> RandomState:
    """Return where the random numbers of this process stand.

    Args:
        order: Draws the order of the questions to train on.
    """
    on_gpu = torch.cuda.is_available()
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if on_gpu else None,
        "order": _text(order.get_state()),
        "numpy": _with_list(np.random.get_state(legacy=False)),  # noqa: NPY002 (not ours: who else draws from it)
        "python": random.getstate(),
    }


def set_random_state(state: RandomState, order: torch.Generator) -> None:
    """Have the random numbers of this process go on from where they stood."""
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(_tensor(state["cuda"]))
    order.set_state(_tensor(state["order"]))
    np.random.set_state(state["numpy"])  # noqa: NPY002 (as above)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _text(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _with_list(state: Any) -> RandomState:  # noqa: ANN401 (numpy's own word for it)
    inner = state["state"]
    return {**state, "state": {**inner, "key": inner["key"].tolist()}}
