"""Whether the indexes of a search fit into memory together, and what to say where they do not.

Reads no index and knows no Ray: a plan looks at this machine's memory, a search asks its nodes
(`retrieval.turns`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ragsearch.retrieval.memory import available_bytes, first_fit, readable
from ragsearch.search.automatic import pauses, scheduler_of
from ragsearch.spec import Spec

ADVICE = "ask for fewer replicas or smaller indexes, or add memory"


class Expected(NamedTuple):
    """What this machine would do with the indexes of a search."""

    turns: tuple[tuple[str, ...], ...]
    """Names of those that are served at the same time."""
    why: str = ""
    """In which turns, and why; empty where all are served together."""
    warning: str = ""
    """Why they are to be served in turn and cannot; empty where all is well."""


def expected_turns(spec: Spec, pool_bytes: Mapping[str, int | None]) -> Expected:
    """Return in which turns this machine would serve indexes; of a cluster nothing is known.

    Args:
        spec: The search.
        pool_bytes: What the pools of its indexes take, by name; None where it is not known.
    """
    together, free = Expected((tuple(pool_bytes),)), available_bytes()
    sizes = {name: size for name, size in pool_bytes.items() if size is not None}
    is_here = spec.file.resources.cluster == "local"
    is_served = is_here and spec.file.trial.retrieval.backend == "pool"
    if not is_served or len(sizes) < len(pool_bytes):
        return together
    turns = first_fit(sizes, lambda names: sum(sizes[name] for name in names) <= free)
    if len(turns) < 2:  # noqa: PLR2004
        return together
    why = in_words(turns, sizes, free)
    if (hindered := hindrance(spec)) is None:
        return Expected(turns, why)
    key, reason = hindered
    return together._replace(warning=str(spec.mistake(key, f"{reason}: {why}; {ADVICE}")))


def in_words(turns: Sequence[Sequence[str]], pool_bytes: Mapping[str, int], free: int) -> str:
    """Say in which turns indexes are served, and why."""
    named = [
        " and ".join(f"{name} ({readable(pool_bytes[name])})" for name in turn)
        for turn in turns
    ]
    why = f"they do not fit together into {readable(free)} of free memory"
    return f"{', then '.join(named)}, as {why}"


def hindrance(spec: Spec) -> tuple[str, str] | None:
    """Return by which key, and why, indexes cannot be served in turn; None if they can."""
    if spec.file.pool.lifetime == "detached":
        return "pool.lifetime", "a detached pool makes no room for another"
    if pauses(spec):
        name = scheduler_of(spec).name
        return "search.scheduler", f"trials that {name} pauses cannot wait for their turn"
    return None
