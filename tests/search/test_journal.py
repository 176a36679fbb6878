"""Files that only grow: nothing but whole lines, whatever happens."""

import os
import resource
import signal

import pytest

from ragsearch.search.journal import append_line, append_row, drop_torn_line, read_rows


def test_rows_are_read_in_the_order_they_were_written(tmp_path):
    file = tmp_path / "events.jsonl"

    for number in range(3):
        append_row(file, {"trial": number, "why": "line\nbreak"})

    assert read_rows(file) == [{"trial": n, "why": "line\nbreak"} for n in range(3)]


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none") == []


def test_a_torn_line_is_passed_over_and_removed_by_the_next_writer(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"trial": 1}\n{"tri')

    seen = read_rows(file)
    drop_torn_line(file)
    append_row(file, {"trial": 2})

    assert seen == [{"trial": 1}]
    assert read_rows(file) == [{"trial": 1}, {"trial": 2}]


def test_a_whole_line_that_is_no_row_is_damage(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("{\n")

    with pytest.raises(ValueError, match="property name"):
        read_rows(file)


def test_there_is_nothing_to_drop_where_there_is_no_file(tmp_path):
    drop_torn_line(tmp_path / "none")

    assert not (tmp_path / "none").exists()


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path):
    file = tmp_path / "events.jsonl"
    append_line(file, "a" * 90)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(OSError, match=os.strerror(28)):
            append_line(file, "b" * 90)  # of which 9 bytes would fit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    assert file.read_text() == "a" * 90 + "\n"
