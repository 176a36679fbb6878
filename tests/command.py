"""The `ragsearch` command as a user runs it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def ragsearch(*arguments: object, cwd: Path, timeout_s: float = 300) -> str:
    """Run a command that must succeed and return its stdout."""
    done = try_ragsearch(*arguments, cwd=cwd, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_ragsearch(
    *arguments: object, cwd: Path, timeout_s: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, however it ends."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def command(*arguments: object) -> list[str]:
    """Return the command line, run by this very Python."""
    return [sys.executable, "-m", "ragsearch", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return the environment, with the checkout importable from any folder."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT)}
