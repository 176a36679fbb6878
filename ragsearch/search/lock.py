"""Who may write into the folder of a search: one process, for as long as it lives.

The lock is the operating system's (`flock`): it is gone with the process that holds it, however
that ends, and nothing has to be cleaned up.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ragsearch.errors import BadInputError

LOCK_FILE = "lock"
_N_TRIES, _PAUSE_S = 5, 0.1  # `is_locked` of another process holds it for a moment


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a search folder while the block lasts.

    Raises:
        BadInputError: If another process does.
    """
    with (folder / LOCK_FILE).open("a+") as file:
        if not _taken(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            what = f"is being run by {holder}; wait until it has ended, or stop it"
            raise BadInputError.single(folder, what)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Tell whether a process is running the search of a folder."""
    try:
        with (folder / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _taken(file: IO[str]) -> bool:
    for attempt in range(_N_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < _N_TRIES - 1:
                time.sleep(_PAUSE_S)
        else:
            return True
    return False
