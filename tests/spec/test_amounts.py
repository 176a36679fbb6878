import pytest

from ragsearch.spec.amounts import disk_bytes, wall_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("8h", 28_800), ("1h30m", 5400), ("2d", 172_800)],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float):
    assert wall_s(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "8 hours", "30m1h", "-1h", "1.5h"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="must be a duration such as 90s, 30m or 8h"):
        wall_s(text)


def test_a_duration_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must be longer than nothing, not '0m0s'"):
        wall_s("0m0s")


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("500MB", 500_000_000), ("20 GB", 20 * 10**9), ("1.5TB", 15 * 10**11)]
)
def test_disk_space_is_read_as_bytes(text: str, n_bytes: int):
    assert disk_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "20", "GB", "20 gigabytes", "-1GB", "20GiB"])
def test_what_is_no_disk_space_is_refused(text: str):
    with pytest.raises(ValueError, match="must be disk space such as 500MB or 20GB"):
        disk_bytes(text)


def test_disk_space_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must be more than nothing, not '0MB'"):
        disk_bytes("0MB")
