"""What sections of a space file must agree on, for the baseline and every value of `space`.

In: a `Draft`, right or wrong. Out: `Finding`s; a rule is silent about values that are wrong
by themselves, those are reported by the schema.
"""

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from ragsearch.spec.document import Finding
from ragsearch.spec.domains import BadDomainError, parse_domain
from ragsearch.spec.draft import Draft, is_count
from ragsearch.spec.folders import wrong_folders
from ragsearch.spec.keys import leaves, suggestion
from ragsearch.spec.knobs import useless_knobs
from ragsearch.spec.messages import findings_of, shown
from ragsearch.spec.models import bad_models, unheard_dropout
from ragsearch.spec.paths import missing_files
from ragsearch.spec.schema import TrialSection


def broken_rules(draft: Draft) -> Iterator[Finding]:
    """Find everything that single sections cannot see.

    Yields:
        Findings in no order.
    """
    yield from _bad_domains(draft)
    yield from _unusable_values(draft)
    yield from _unknown_indexes(draft)
    yield from useless_knobs(draft)
    yield from _late_rungs(draft)
    yield from _half_precision_without_gpu(draft)
    yield from unheard_dropout(draft)
    yield from bad_models(draft)
    yield from missing_files(draft)
    yield from wrong_folders(draft)


_FIXED = {
    "retrieval.backend": (
        "must be the same for all trials, as it changes no model; set trial.retrieval.backend"
    )
}
"""Keys of a trial that cannot vary, and why."""


def _bad_domains(draft: Draft) -> Iterator[Finding]:
    known = [path for path in leaves(TrialSection) if path not in _FIXED]
    space = draft.value("space")
    for path, raw in space.items() if isinstance(space, Mapping) else ():
        if path in _FIXED:
            yield Finding(("space", path), _FIXED[path])
        elif path not in known:
            what = f"is no key of trial that can vary; {suggestion(path, known)}"
            yield Finding(("space", path), what)
        try:
            parse_domain(raw)
        except BadDomainError as error:
            inner = (error.key,) if error.key else ()
            yield Finding(("space", path, *inner), str(error))


def _unusable_values(draft: Draft) -> Iterator[Finding]:
    """Try each value of each domain in the trial; tell of the first that it refuses.

    Yields:
        At most one finding a domain.
    """
    for path in draft.domains.keys() & set(leaves(TrialSection)):
        for _, value in draft.varied(path):
            why = _why_refused(draft, path, value)
            if why:
                what = f"holds {shown(value)}, but trial.{path} {why}"
                yield Finding(("space", path), what)
                break


def _why_refused(draft: Draft, path: str, value: object) -> str | None:
    trial = draft.value("trial")
    keys = tuple(path.split("."))
    try:
        TrialSection.model_validate(merged(trial, {path: value}))
    except ValidationError as error:
        for finding in findings_of(error, TrialSection):
            if finding.path == keys:
                return finding.what
    return None


def merged(trial: object, values: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of a trial's plain data with dotted paths set to other values."""
    result = dict(trial) if isinstance(trial, Mapping) else {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        result[head] = merged(result.get(head), {rest: value}) if rest else value
    return result


def _unknown_indexes(draft: Draft) -> Iterator[Finding]:
    names = draft.names("indexes")
    if not names:
        return
    for path, name in draft.options("retrieval.index"):
        if name == "" and path[0] == "trial" and len(names) > 1:
            yield Finding(path, f"must name one of the indexes: {', '.join(names)}")
        elif isinstance(name, str) and name not in names and (name or path[0] == "space"):
            yield Finding(path, f"no index '{name}'; {suggestion(name, names)}")


def _late_rungs(draft: Draft) -> Iterator[Finding]:
    scheduler = ("search", "scheduler")
    least = draft.value(*scheduler, "min")
    if draft.value(*scheduler, "name") != "asha" or not is_count(least):
        return
    for option in draft.options("train.max_epochs"):
        if is_count(option.value) and least > option.value:
            what = (
                f"{least} epochs must not exceed train.max_epochs, which may be {option.value}"
            )
            yield Finding((*scheduler, "min"), what)
            return


def _half_precision_without_gpu(draft: Draft) -> Iterator[Finding]:
    gpu = draft.value("resources", "per_trial", "gpu")
    for option in draft.options("train.precision"):
        if option.value == "16-mixed" and gpu == 0:
            what = "16-mixed needs a GPU; set resources.per_trial.gpu, or use 32 or bf16-mixed"
            yield Finding(option.path, what)
            return
