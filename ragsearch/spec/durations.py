"""How long things take, as people write it: `90s`, `30m`, `8h`, `1h30m`."""

import re

_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (86_400, 3_600, 60, 1)


def wall_s(text: str) -> float:
    """Read a duration.

    Args:
        text: Whole numbers with units d, h, m, s, the largest first.

    Returns:
        Seconds, above 0.

    Raises:
        ValueError: If the text is no duration, or one of nothing.
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError(f"must be a duration such as 90s, 30m or 8h, not {text!r}")
    counts = (int(count or 0) for count in found.groups())
    seconds = sum(count * unit for count, unit in zip(counts, _SECONDS, strict=True))
    if seconds == 0:
        raise ValueError(f"must be longer than nothing, not {text!r}")
    return float(seconds)
