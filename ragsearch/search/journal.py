"""Files written whole, or not at all, whatever ends the process or fills the disk.

One process writes, any number read. In files that only grow, a line cut off in the middle, as a
kill leaves it, is no line: readers pass over it, and the next writer removes it first.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(file: Path, line: str) -> None:
    """Add a line at the end of a file, which is made if it is not there.

    It is handed to the operating system, which keeps it when this process dies; it is not
    forced to the disk, which a power cut may find without it.

    Raises:
        OSError: If it cannot be written whole; nothing of it is left in the file then.
    """
    data = line.encode() + b"\n"
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before, n_written = os.fstat(handle).st_size, 0
        try:
            n_written = os.write(handle, data)
        finally:
            if n_written < len(data):
                os.ftruncate(handle, before)
        if n_written < len(data):  # the last bytes of a disk are given without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(handle)


def append_row(file: Path, row: Mapping[str, object]) -> None:
    """Add a JSON document as a line; raises what `append_line` raises."""
    append_line(file, json.dumps(row, separators=(",", ":")))


def read_rows(file: Path) -> list[dict[str, Any]]:  # Any: as JSON has it
    """Read the JSON documents of a file.

    Returns:
        None of them where there is no file.

    Raises:
        ValueError: If a whole line is not JSON.
    """
    try:
        whole, _, _ = file.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in whole.splitlines()]


def drop_torn_line(file: Path) -> None:
    """Remove what follows the last whole line of a file, if it is there."""
    if not file.is_file():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)


def write_whole(file: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, and a crash leaves either.

    Raises:
        OSError: If the disk does not take it; the old one is left as it was.
    """
    beside = file.with_name(f"{file.name}.new")
    try:
        beside.write_text(text)
        beside.replace(file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
