"""Waiting for what another process does in its own time."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def wait(claim: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether the claim became true in time."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def ended(pids: Iterable[int]) -> bool:
    """Return whether processes are gone soon: one that is killed may answer for a moment."""
    return wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
