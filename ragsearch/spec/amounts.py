"""Amounts as people write them: time (`90s`, `1h30m`) and disk space (`500MB`, `20GB`)."""

import re

_TIME = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (86_400, 3_600, 60, 1)
_SPACE = re.compile(r"(\d+(?:\.\d+)?) ?(MB|GB|TB)")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


def wall_s(text: str) -> float:
    """Read a duration.

    Args:
        text: Whole numbers with units d, h, m, s, the largest first.

    Returns:
        Seconds, above 0.

    Raises:
        ValueError: If the text is no duration, or one of nothing.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError(f"must be a duration such as 90s, 30m or 8h, not {text!r}")
    counts = (int(count or 0) for count in found.groups())
    seconds = sum(count * unit for count, unit in zip(counts, _SECONDS, strict=True))
    if seconds == 0:
        raise ValueError(f"must be longer than nothing, not {text!r}")
    return float(seconds)


def disk_bytes(text: str) -> int:
    """Read an amount of disk space.

    Args:
        text: A number with MB, GB or TB, powers of 1000.

    Returns:
        Bytes, above 0.

    Raises:
        ValueError: If the text is no such amount, or nothing.
    """
    found = _SPACE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be disk space such as 500MB or 20GB, not {text!r}")
    n_bytes = round(float(found[1]) * _BYTES[found[2]])
    if n_bytes == 0:
        raise ValueError(f"must be more than nothing, not {text!r}")
    return n_bytes
