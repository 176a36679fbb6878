"""What sections of a space file must agree on, for the baseline and every value of `space`.

In: a `Draft`, right or wrong. Out: `Finding`s; a rule is silent about values that are wrong
by themselves, those are reported by the schema.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from pydantic import ValidationError

from ragsearch.spec.document import Finding
from ragsearch.spec.domains import BadDomainError, parse_domain
from ragsearch.spec.draft import Draft, Option, is_count
from ragsearch.spec.folders import wrong_folders
from ragsearch.spec.keys import leaves, suggestion
from ragsearch.spec.knobs import useless_knob_sweeps, useless_knobs
from ragsearch.spec.messages import findings_of, shown
from ragsearch.spec.models import bad_models, lacking_keys
from ragsearch.spec.paths import missing_files
from ragsearch.spec.rescoring import bad_sweeps, rescore_domains
from ragsearch.spec.schema import SIGNS
from ragsearch.spec.trial import TrialSection
from ragsearch.spec.uses import reads_passages, useless_keys


def broken_rules(draft: Draft) -> Iterator[Finding]:
    """Find everything that single sections cannot see.

    Yields:
        Findings in no order.
    """
    yield from _bad_domains(draft)
    yield from _unusable_values(draft)
    yield from _unusable_pairs(draft)
    yield from useless_keys(draft)
    yield from _missing_indexes(draft)
    yield from _recall_without_passages(draft)
    yield from _constraints_on_nothing(draft)
    yield from _unknown_indexes(draft)
    yield from useless_knobs(draft)
    yield from _late_rungs(draft)
    yield from _rungs_without_examples(draft)
    yield from bad_sweeps(draft)
    yield from _unusable_sweeps(draft)
    yield from useless_knob_sweeps(draft, rescore_domains(draft))
    yield from _final_without_test(draft)
    yield from _half_precision_without_gpu(draft)
    yield from lacking_keys(draft)
    yield from bad_models(draft)
    yield from missing_files(draft)
    yield from wrong_folders(draft)


_FIXED = {
    path: f"must be the same for all trials, as it changes no model; set trial.{path}"
    for path in ("retrieval.backend", "train.profile")
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
    trial = draft.value("trial")
    before = _refusals(trial)
    for path in draft.domains.keys() & set(leaves(TrialSection)):
        for option in draft.varied(path):
            after = _refusals(merged(trial, {path: option.value}))
            new = {key: why for key, why in after.items() if key == path or key not in before}
            if new:
                yield _refused([option], new)
                break


# What two keys may be by themselves and not together.
_PAIRS = (
    ("model.freeze_question_encoder", "model.freeze_generator"),
    ("model.freeze_generator", "model.type"),
    ("optim.warmup_steps", "optim.warmup_share"),
)


def _unusable_pairs(draft: Draft) -> Iterator[Finding]:
    """Try two keys that both vary together, where each value alone may be right.

    Yields:
        At most one finding a pair.
    """
    trial = draft.value("trial")
    for pair in _PAIRS:
        if not draft.domains.keys() >= set(pair):
            continue
        said = _refusals(trial).keys() | {
            key
            for path in pair
            for option in draft.varied(path)
            for key in _refusals(merged(trial, {path: option.value}))
        }
        for options in draft.combinations(*pair):
            values = {path: option.value for path, option in zip(pair, options, strict=True)}
            found = _refusals(merged(trial, values))
            if new := {key: why for key, why in found.items() if key not in said}:
                yield _refused(options, new)
                break


def _refused(options: Sequence[Option], refusals: Mapping[str, str]) -> Finding:
    held = " and ".join(shown(option.value) for option in options)
    key, why = next(iter(refusals.items()))
    return Finding(options[0].path, f"holds {held}, but trial.{key} {why}")


def _refusals(trial: object) -> dict[str, str]:
    """Return why a trial's plain data is refused, by dotted path in it."""
    try:
        TrialSection.model_validate(trial)
    except ValidationError as error:
        return {
            ".".join(map(str, path)): what for path, what, _ in findings_of(error, TrialSection)
        }
    return {}


def merged(trial: object, values: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of a trial's plain data with dotted paths set to other values."""
    result = dict(trial) if isinstance(trial, Mapping) else {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        result[head] = merged(result.get(head), {rest: value}) if rest else value
    return result


def _missing_indexes(draft: Draft) -> Iterator[Finding]:
    if draft.data.get("indexes", {}) == {} and reads_passages(draft):
        yield Finding(("indexes",), "names no index to find passages in; name at least one")


_OF_PASSAGES = ("val/recall_at_", "val/mrr_at_")


def _recall_without_passages(draft: Draft) -> Iterator[Finding]:
    if all(option.value != "closed_book" for option in draft.options("model.type")):
        return
    objectives = draft.data.get("objectives")
    for place, objective in enumerate(objectives if isinstance(objectives, list) else ()):
        metric = objective.get("metric") if isinstance(objective, Mapping) else None
        if isinstance(metric, str) and metric.startswith(_OF_PASSAGES):
            what = (
                f"a closed_book trial has no {metric}; take another, or model.type without it"
            )
            yield Finding(("objectives", place, "metric"), what)


_OF_A_TRAINED_ENCODER = "train/question_encoder_grad_norm"


def _constraints_on_nothing(draft: Draft) -> Iterator[Finding]:
    """Find constraints on what no trial reports.

    Yields:
        At most one finding a constraint.
    """
    constraints = draft.data.get("constraints")
    reads = reads_passages(draft)
    trains = any(
        option.value is False for option in draft.options("model.freeze_question_encoder")
    )
    for place, constraint in enumerate(constraints if isinstance(constraints, list) else ()):
        metric = constraint.get("metric") if isinstance(constraint, Mapping) else None
        is_of_passages = metric in SIGNS or str(metric).startswith(_OF_PASSAGES)
        if is_of_passages and not reads:
            what = f"no trial reports {metric}: all are closed_book; drop the constraint"
            yield Finding(("constraints", place, "metric"), what)
        elif metric == _OF_A_TRAINED_ENCODER and not trains:
            what = f"no trial reports {metric}: all have it frozen; drop the constraint"
            yield Finding(("constraints", place, "metric"), what)


def _unknown_indexes(draft: Draft) -> Iterator[Finding]:
    names = draft.names("indexes")
    if not names or not reads_passages(draft):
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
        is_number = is_count(option.value) or option.value == 0
        if is_number and least > cast("int", option.value):
            what = (
                f"{least} epochs must not exceed train.max_epochs, which may be {option.value}"
            )
            yield Finding((*scheduler, "min"), what)
            return


def _rungs_without_examples(draft: Draft) -> Iterator[Finding]:
    """Find a subset of validation questions that nothing would be compared on."""
    path = ("search", "scheduler", "rung_examples")
    if draft.value(*path) is None:
        return
    if draft.value("search", "scheduler", "name") == "none":
        yield Finding(path, "has no use, as search.scheduler.name is 'none'; leave it out")
    elif "train.max_epochs" in draft.domains:
        what = (
            "needs the same last epoch in all trials, as only that one is validated on all "
            "questions; take train.max_epochs out of space, or drop it"
        )
        yield Finding(path, what)


def _unusable_sweeps(draft: Draft) -> Iterator[Finding]:
    """Try each value of each domain of `rescore` in the trial; tell of the first refused."""
    trial = draft.value("trial")
    before = _refusals(trial)
    for path, domain in rescore_domains(draft).items():
        for value in domain.probes():
            after = _refusals(merged(trial, {path: value}))
            new = {key: why for key, why in after.items() if key == path or key not in before}
            if new:
                yield _refused([Option(("rescore", path), value)], new)
                break


def _final_without_test(draft: Draft) -> Iterator[Finding]:
    if draft.value("final") is not None and draft.value("data", "test") is None:
        what = "compares trials on test questions; give data.test, or drop it"
        yield Finding(("final",), what)


def _half_precision_without_gpu(draft: Draft) -> Iterator[Finding]:
    gpu = draft.value("resources", "per_trial", "gpu")
    for option in draft.options("train.precision"):
        if option.value == "16-mixed" and gpu == 0:
            what = "16-mixed needs a GPU; set resources.per_trial.gpu, or use 32 or bf16-mixed"
            yield Finding(option.path, what)
            return
