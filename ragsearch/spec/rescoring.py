"""What `rescore` may sweep: keys of a trial that a trained model can be asked under anew.

In: a `Draft`. Out: its domains, the combinations of their values, and what is wrong with them.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod

from ragsearch.spec.document import Finding
from ragsearch.spec.domain_parser import parse_domain
from ragsearch.spec.domains import BadDomainError, Bundle, Domain
from ragsearch.spec.draft import Draft
from ragsearch.spec.keys import leaves, suggestion
from ragsearch.spec.knobs import KNOBS
from ragsearch.spec.messages import shown
from ragsearch.spec.space_rules import merged, refusals
from ragsearch.spec.trial import DecodeSection, TrialSection
from ragsearch.spec.uses import reads_passages

RESCORABLE = (
    *leaves(DecodeSection, "decode."),
    "retrieval.n_docs",
    *(f"retrieval.{knob}" for knob in KNOBS),
)
"""Keys of a trial that decide how a trained model is asked, and nothing about its training."""

MAX_SETTINGS = 200
"""Combinations beyond which a sweep is surely not meant: each is a whole validation."""


def rescore_domains(draft: Draft) -> dict[str, Domain]:
    """Return the domains under `rescore` that can be swept, by dotted path."""
    found = {}
    for path, raw in _section(draft).items():
        try:
            domain = parse_domain(raw)
        except BadDomainError:
            continue
        if path in RESCORABLE and _is_listed(domain):
            found[path] = domain
    return found


def settings_of(domains: Mapping[str, Domain]) -> list[dict[str, object]]:
    """Return every combination of the values of listed domains; none without a domain."""
    if not domains:
        return []
    listed = [domain.values() or () for domain in domains.values()]
    return [dict(zip(domains, values, strict=True)) for values in product(*listed)]


def bad_sweeps(draft: Draft) -> Iterator[Finding]:
    """Find what cannot be swept, and sweeps that are too long."""
    for path, raw in _section(draft).items():
        if why := _why_not(path, reads=reads_passages(draft)):
            yield Finding(("rescore", path), why)
        try:
            domain = parse_domain(raw)
        except BadDomainError as error:
            inner = (error.key,) if error.key else ()
            yield Finding(("rescore", path, *inner), str(error))
            continue
        if not _is_listed(domain):
            what = "needs listed values: choice, ordinal, int, or uniform with a step"
            yield Finding(("rescore", path), what)
    n = prod(len(domain.values() or ()) for domain in rescore_domains(draft).values())
    if n > MAX_SETTINGS:
        what = f"has {n} combinations, each a whole validation; leave at most {MAX_SETTINGS}"
        yield Finding(("rescore",), what)


def unusable_sweeps(draft: Draft) -> Iterator[Finding]:
    """Try each value of each domain in the trial; tell of the first refused."""
    trial = draft.value("trial")
    before = refusals(trial)
    for path, domain in rescore_domains(draft).items():
        for value in domain.probes():
            after = refusals(merged(trial, {path: value}))
            new = [key for key in after if key == path or key not in before]
            if new:
                what = f"holds {shown(value)}, but trial.{new[0]} {after[new[0]]}"
                yield Finding(("rescore", path), what)
                break


def _section(draft: Draft) -> dict[str, object]:
    section = draft.value("rescore")
    return dict(section) if isinstance(section, Mapping) else {}


def _why_not(path: str, *, reads: bool) -> str:
    known = list(leaves(TrialSection))
    if path in RESCORABLE:
        needs_passages = path.startswith("retrieval.") or path.endswith("document_temperature")
        useless = needs_passages and not reads
        return "has no use, as model.type is 'closed_book'; leave it out" if useless else ""
    if path in known:
        return (
            "needs training again, so no trained model can be tried with another value; put "
            f"it under space; what can be swept: {', '.join(RESCORABLE)}"
        )
    return f"is no key of trial that can be swept; {suggestion(path, RESCORABLE)}"


def _is_listed(domain: Domain) -> bool:
    return domain.values() is not None and not isinstance(domain, Bundle)
