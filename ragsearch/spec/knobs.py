"""Which search knobs an index has a use for, told by its FAISS factory string.

A knob moves a search between fast and thorough, call by call, and nothing is loaded again.
Reads the string alone: the front door loads no FAISS.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product

from ragsearch.spec.document import Finding
from ragsearch.spec.domains import Domain
from ragsearch.spec.draft import Draft, is_count

_KINDS = {"ef_search": "HNSW", "nprobe": "IVF"}
KNOBS = tuple(_KINDS)
"""Keys of `trial.retrieval` that are knobs."""


def why_useless(factory: str, knob: str, value: int) -> str | None:
    """Return why an index has no use for a knob's value, after its name; None where it has.

    Args:
        factory: FAISS factory string of the index.
        knob: `ef_search`, for graphs (HNSW), also those that choose the cells of an IVF; or
            `nprobe`, for cells (IVF).
        value: What the knob is to be set to.
    """
    kind = _KINDS[knob]
    if kind not in factory:
        return f"is {factory}, which has no use for it; leave it out, or build an {kind} index"
    cells = re.search(r"IVF(\d+)", factory)
    if knob == "nprobe" and cells and value > int(cells[1]):
        return f"is {factory}, which has no {value} cells; lower it"
    return None


def useless_knobs(draft: Draft) -> list[Finding]:
    """Find knobs set for an index that has no use for them, each at its first such value."""
    names = draft.names("indexes")
    findings = []
    for knob in KNOBS:
        for index, option in draft.combinations("retrieval.index", f"retrieval.{knob}"):
            if index.value not in names or not is_count(option.value):
                continue
            factory = draft.value("indexes", str(index.value), "faiss")
            why = why_useless(str(factory), knob, option.value)
            if why:
                findings.append(Finding(option.path, f"index '{index.value}' {why}"))
                break
    return findings


def useless_knob_sweeps(draft: Draft, domains: Mapping[str, Domain]) -> Iterator[Finding]:
    """Find knobs among swept keys that no index, or not every one, has a use for.

    Args:
        draft: The space file.
        domains: What is swept, by dotted path in the trial.

    Yields:
        At most one finding a knob.
    """
    names = draft.names("indexes")
    for knob in KNOBS:
        path = f"retrieval.{knob}"
        values = [v for v in (domains[path].probes() if path in domains else ()) if is_count(v)]
        used = [index.value for index in draft.options("retrieval.index")]
        for index, value in product([name for name in names if name in used], values):
            factory = str(draft.value("indexes", index, "faiss"))
            if why := why_useless(factory, knob, value):
                yield Finding(("rescore", path), f"index '{index}' {why}")
                break
