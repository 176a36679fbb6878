"""What memory a node has left and a process takes, as Linux says, and what fits together.

Knows /proc and control groups; knows nothing of Ray, pools or indexes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path("/")
_UNLIMITED = 2**60  # version 1 writes a number near 2**63 where there is no limit


def available_bytes(root: Path = ROOT) -> int:
    """Return the bytes a new process can take without any other being swapped or killed.

    The smaller of what the machine has and what the control group of this process may still
    take; pages of files count as available, for the kernel gives them up.

    Args:
        root: Where `/proc` and `/sys` lie.
    """
    meminfo = _pairs(root / "proc/meminfo")
    free = [1024 * meminfo.get("MemAvailable:", 0)]
    groups = _text(root / "proc/self/cgroup").splitlines()
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            free += _left(root / "sys/fs/cgroup", path, ("memory.max", "memory.current"))
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            free += _left(root / "sys/fs/cgroup/memory", path, names)
    return max(min(free), 0)


def pss_bytes(pids: Iterable[int], root: Path = ROOT) -> int:
    """Return what processes take together, a page that several share counted once.

    Pages shared with processes that are not named count in part: the kernel's proportional set
    size (PSS). It walks the page tables for it: some milliseconds a gigabyte.
    """
    rollups = [_pairs(root / f"proc/{pid}/smaps_rollup") for pid in pids]
    return 1024 * sum(rollup.get("Pss:", 0) for rollup in rollups)


def first_fit(
    names: Iterable[str], fit: Callable[[Sequence[str]], bool]
) -> tuple[tuple[str, ...], ...]:
    """Divide names into parts that fit, each into the first one that has room.

    Args:
        names: In their order; one that does not fit alone is a part of its own.
        fit: Tells whether several fit together.

    Returns:
        The parts, in the order of their first names.
    """
    parts: list[list[str]] = []
    for name in names:
        part = next((part for part in parts if fit([*part, name])), None)
        if part is None:
            parts.append([name])
        else:
            part.append(name)
    return tuple(map(tuple, parts))


def readable(n_bytes: int) -> str:
    """Write a number of bytes as a person would."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:  # noqa: PLR2004
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def _left(mount: Path, path: str, names: tuple[str, str]) -> list[int]:
    """Return what each group may still take, from this one to the outermost."""
    left = []
    group = mount / path.strip("/")
    if not group.is_dir():
        group = mount  # in a container the mount is the group, whatever its path is outside
    while group.is_relative_to(mount):
        limit, used = (_text(group / name).strip() for name in names)
        if limit.isdecimal() and used.isdecimal() and int(limit) < _UNLIMITED:
            stat = _pairs(group / "memory.stat")
            files = stat.get("active_file", 0) + stat.get("inactive_file", 0)
            left.append(int(limit) - int(used) + files)
        group = group.parent
    return left


def _pairs(path: Path) -> dict[str, int]:
    """Return the lines `name number ...` of a file of the kernel."""
    words = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) > 1 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not on this kernel, or not for us
        return ""
