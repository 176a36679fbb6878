"""What sections of a space file must agree on, for the baseline and every value of `space`.

In: a `Draft`, right or wrong. Out: `Finding`s; a rule is silent about values that are wrong
by themselves, those are reported by the schema.
"""

from collections.abc import Iterator, Mapping

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft
from ragsearch.spec.folders import wrong_folders
from ragsearch.spec.keys import suggestion
from ragsearch.spec.knobs import useless_knob_sweeps, useless_knobs
from ragsearch.spec.models import bad_models, lacking_keys
from ragsearch.spec.paths import missing_files
from ragsearch.spec.rescoring import bad_sweeps, rescore_domains, unusable_sweeps
from ragsearch.spec.schema import SIGNS
from ragsearch.spec.search_rules import POPULATION_BASED, n_objectives, unfit_searches
from ragsearch.spec.search_section import LATENCY
from ragsearch.spec.space_rules import bad_points, broken_expressions, unusable_values
from ragsearch.spec.uses import reads_passages, useless_keys


def broken_rules(draft: Draft) -> Iterator[Finding]:
    """Find everything that single sections cannot see.

    Yields:
        Findings in no order.
    """
    if draft.data.get("extends") is not None:  # from the file it is taken as it is read
        yield Finding(("extends",), "must stand in the space file, not in an option")
    yield from draft.findings
    yield from unusable_values(draft)
    yield from broken_expressions(draft)
    yield from bad_points(draft)
    yield from useless_keys(draft)
    yield from _missing_indexes(draft)
    yield from _recall_without_passages(draft)
    yield from _constraints_on_nothing(draft)
    yield from _unknown_indexes(draft)
    yield from useless_knobs(draft)
    yield from unfit_searches(draft)
    yield from _rungs_without_examples(draft)
    yield from bad_sweeps(draft)
    yield from unusable_sweeps(draft)
    yield from useless_knob_sweeps(draft, rescore_domains(draft))
    yield from _final_without_test(draft)
    yield from _of_several_scores(draft)
    yield from _final_of_populations(draft)
    yield from _half_precision_without_gpu(draft)
    yield from lacking_keys(draft)
    yield from bad_models(draft)
    yield from missing_files(draft)
    yield from wrong_folders(draft)


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


def _rungs_without_examples(draft: Draft) -> Iterator[Finding]:
    """Find a subset of validation questions that trials are not compared on."""
    path = ("search", "scheduler", "rung_examples")
    if draft.value(*path) is not None and draft.entry("train.max_epochs") is not None:
        what = (
            "needs the same last epoch in all trials, as only that one is validated on all "
            "questions; take train.max_epochs out of space, or drop it"
        )
        yield Finding(path, what)


def _final_without_test(draft: Draft) -> Iterator[Finding]:
    if draft.value("final") is not None and draft.value("data", "test") is None:
        what = "compares trials on test questions; give data.test, or drop it"
        yield Finding(("final",), what)


def _of_several_scores(draft: Draft) -> Iterator[Finding]:
    """Find what follows the trials, and goes by one score of answers, where there is none."""
    objectives = draft.data.get("objectives")
    first = objectives[0] if isinstance(objectives, list) and objectives else None
    is_latency = isinstance(first, Mapping) and first.get("metric") == LATENCY
    if n_objectives(draft) == 1 and not is_latency:
        return
    asked = {"rescore": bool(draft.value("rescore")), "final": draft.value("final") is not None}
    for section in (name for name, is_there in asked.items() if is_there):
        what = f"goes by one objective, which is not {LATENCY}; leave it out"
        yield Finding((section,), what)


def _final_of_populations(draft: Draft) -> Iterator[Finding]:
    name = draft.value("search", "scheduler", "name")
    if name in POPULATION_BASED and draft.value("final") is not None:
        what = (
            f"trains configurations again, and trials of {name} have none, as their values "
            "change while they run; leave it out"
        )
        yield Finding(("final",), what)


def _half_precision_without_gpu(draft: Draft) -> Iterator[Finding]:
    gpu = draft.value("resources", "per_trial", "gpu")
    for option in draft.options("train.precision"):
        if option.value == "16-mixed" and gpu == 0:
            what = "16-mixed needs a GPU; set resources.per_trial.gpu, or use 32 or bf16-mixed"
            yield Finding(option.path, what)
            return
