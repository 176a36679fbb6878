"""`ragsearch bench retrieval` as a user runs it: real FAISS, gloo, Ray."""

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import command, environment, try_ragsearch

SMALL = ("bench", "retrieval", "--passages", 2000, "--dimension", 32, "--steps", 3)


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that were started with a temporary folder of their own."""
    mark = f"TMPDIR={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_until_gone(folder: Path, timeout_s: float = 30.0) -> None:
    """Wait for processes that end by themselves, as Ray's last ones do."""
    deadline = time.monotonic() + timeout_s
    while left := processes_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder for temporary files, with a path as short as Ray needs it."""
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_and_leaves_nothing(tmp_path, folder):
    run = subprocess.Popen(
        command(*SMALL, "--kind", "exact", "--clients", 2, "--steps", 2000),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=environment() | {"TMPDIR": str(folder)},
    )  # fmt: skip
    assert run.stderr is not None
    for line in run.stderr:
        if "faiss, 2 clients" in line:
            break
    run.send_signal(signal.SIGINT)

    assert run.wait(60) == 130
    wait_until_gone(folder)
    assert list(folder.iterdir()) == []
    run.stderr.close()


@pytest.mark.ray
@pytest.mark.long
def test_four_designs_are_measured_and_nothing_is_left(tmp_path, folder):
    done = try_ragsearch(
        *SMALL, "--kind", "hnsw", "--clients", 1, "--clients", 2, "--json",
        "--plot", "bench.png", cwd=tmp_path, TMPDIR=str(folder),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    wait_until_gone(folder)
    assert list(folder.iterdir()) == []
    told = json.loads(done.stdout)
    assert set(told) == {"rows"}
    assert [(row["design"], row["clients"]) for row in told["rows"]] == [
        (design, clients)
        for design in ("faiss", "torch_distributed", "ray_original", "pool")
        for clients in (1, 2)
    ]
    for row in told["rows"]:
        assert set(row) == {
            "design", "kind", "clients", "mean_s", "p50_s", "p95_s", "queries_per_s",
            "pss_bytes",
        }  # fmt: skip
        assert row["kind"] == "hnsw"
        assert 0 < row["p50_s"] <= row["p95_s"]
        assert row["queries_per_s"] > 0
        assert row["pss_bytes"] > 10e6
    assert (tmp_path / "bench.png").stat().st_size > 1000
    assert "hnsw: pool, 2 clients:" in done.stderr
