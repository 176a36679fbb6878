"""One process at a time runs a search, for as long as it lives."""

import os
import subprocess
import sys

import pytest

from ragsearch.errors import BadInputError
from ragsearch.search.lock import is_locked, locked
from tests.command import environment

HOLD = """
import sys, time
from pathlib import Path
from ragsearch.search.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_of_a_search_is_refused_and_told_by_whom(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(BadInputError, match=rf"being run by process {os.getpid()} on .*; wait"),
        locked(tmp_path),
    ):
        pass

    with locked(tmp_path):  # it is free again
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_folder_that_was_never_locked_is_free(tmp_path):
    assert not is_locked(tmp_path)


def test_a_lock_dies_with_its_process_however_that_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        held = is_locked(tmp_path)
        process.kill()

    assert held
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass
