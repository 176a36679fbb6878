"""Waiting for what another process does in its own time."""

import time
from collections.abc import Callable


def wait(claim: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether the claim became true in time."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
