"""What the kernel says of memory, read from a made-up /proc and from the real one."""

import os
from pathlib import Path

import pytest

from ragsearch.retrieval.memory import available_bytes, pss_bytes, readable

MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a machine with 100 MiB to spare and no control groups."""
    _write(tmp_path / "proc/meminfo", "MemTotal: 204800 kB\nMemAvailable: 102400 kB\n")
    return tmp_path


def test_without_control_groups_the_machine_decides(root):
    assert available_bytes(root) == 100 * MIB


@pytest.mark.parametrize("outside", [False, True])
def test_a_control_group_leaves_less_but_gives_up_pages_of_files(root, outside):
    group = root / "sys/fs/cgroup" / ("" if outside else "job")
    _write(root / "proc/self/cgroup", "0::/job\n")
    _write(group / "memory.max", f"{50 * MIB}\n")
    _write(group / "memory.current", f"{40 * MIB}\n")
    _write(group / "memory.stat", f"anon 1\nactive_file {2 * MIB}\ninactive_file {3 * MIB}\n")

    assert available_bytes(root) == 15 * MIB


def test_the_tightest_of_nested_groups_decides(root):
    _write(root / "proc/self/cgroup", "0::/outer/inner\n")
    for name, limit in (("outer", f"{30 * MIB}"), ("outer/inner", "max")):
        _write(root / "sys/fs/cgroup" / name / "memory.max", limit)
        _write(root / "sys/fs/cgroup" / name / "memory.current", f"{10 * MIB}")

    assert available_bytes(root) == 20 * MIB


def test_groups_of_version_one_count_too(root):
    _write(root / "proc/self/cgroup", "3:cpu:/job\n7:memory:/job\n")
    group = root / "sys/fs/cgroup/memory"
    _write(group / "memory.limit_in_bytes", f"{2**63 - 4096}")
    _write(group / "memory.usage_in_bytes", f"{MIB}")
    _write(group / "job/memory.limit_in_bytes", f"{8 * MIB}")
    _write(group / "job/memory.usage_in_bytes", f"{MIB}")

    assert available_bytes(root) == 7 * MIB


def test_a_group_above_its_limit_has_nothing_left(root):
    _write(root / "proc/self/cgroup", "0::/\n")
    _write(root / "sys/fs/cgroup/memory.max", "10")
    _write(root / "sys/fs/cgroup/memory.current", "20")

    assert available_bytes(root) == 0


def test_this_machine_has_memory_and_this_process_takes_some():
    assert available_bytes() > 0
    assert pss_bytes([os.getpid()]) > MIB


def test_bytes_are_written_as_a_person_would():
    assert [readable(n) for n in (0, 999, 1500, 64_000_000_000, 5 * 10**15)] == [
        "0 B", "999 B", "1.5 kB", "64 GB", "5e+03 TB",
    ]  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
