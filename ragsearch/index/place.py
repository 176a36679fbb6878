"""One builder at a time, and the folder appears all at once or not at all.

What is being built lies beside its place as `.NAME.building-PID`. Whoever holds the lock is the
only builder, so any other such folder belongs to one that died, and is removed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock of a place, waiting for another builder of the same place to end.

    The lock is the kernel's: it ends with its process, however that ends.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    path = place.parent / f".{place.name}.lock"
    lock = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """Give an empty folder beside a place; it goes there at the end, unless something failed.

    Call it with the lock held. What stood at the place is replaced.

    Yields:
        The folder to fill.
    """
    _remove_leftovers(place)
    folder = place.parent / f".{place.name}.building-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        _move(folder, place)
    finally:
        _remove_leftovers(place)


def _take(path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            is_current = os.path.samestat(os.fstat(lock), path.stat())
        except FileNotFoundError:  # the holder before us removed it
            is_current = False
        if is_current:
            return lock
        os.close(lock)


def _move(folder: Path, place: Path) -> None:
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)
    if place.exists():
        place.rename(folder.with_name(f"{folder.name}-old"))
    folder.rename(place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    """Have the kernel write a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(place: Path) -> None:
    prefix = f".{place.name}.building-"
    for path in place.parent.iterdir():
        if path.name.startswith(prefix):
            shutil.rmtree(path)
