"""Which searchers, schedulers, objectives and domains go together.

In: a `Draft`, right or wrong. Out: `Finding`s that say what can be combined instead; as in
`rules`, values that are wrong by themselves are left to the schema.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from ragsearch.spec.document import Finding
from ragsearch.spec.domains import Choice, Domain
from ragsearch.spec.draft import Draft, default_of, is_count
from ragsearch.spec.messages import shown
from ragsearch.spec.search_section import LATENCY, Algorithm, Scheduler

POPULATION_BASED = ("pbt", "pb2")
"""Schedulers that start all trials and have the worst go on from the best."""

MAX_GRID = 100_000  # points: more are never run, and take minutes to list

MUTABLE = (
    "optim.learning_rate",
    "optim.question_encoder_lr_ratio",
    "optim.weight_decay",
    "optim.adam_epsilon",
    "optim.max_grad_norm",
    "regularisation.dropout",
    "regularisation.attention_dropout",
    "regularisation.encoder_layerdrop",
    "regularisation.decoder_layerdrop",
    "regularisation.label_smoothing",
    "model.lora.dropout",
)
"""What may change while a trial runs: a model that was trained with one value can be trained
on with another, and all else about it stays comparable."""

_SCHEDULER = ("search", "scheduler")
_ALGORITHM = ("search", "algorithm")

_USED_BY: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("search", "startup_trials"): ("auto", "tpe", "gp", "cma_es", "bohb"),
    ("search", "population"): ("auto", "nsga2", "nsga3", "cma_es"),
    (*_SCHEDULER, "min"): ("auto", "asha", "median"),
    (*_SCHEDULER, "eta"): ("auto", "asha", "hyperband"),
    (*_SCHEDULER, "brackets"): ("asha",),
    (*_SCHEDULER, "rung_examples"): ("auto", "asha", "hyperband", "median"),
    (*_SCHEDULER, "interval"): POPULATION_BASED,
    (*_SCHEDULER, "mutable"): POPULATION_BASED,
}
"""By key, the searchers or schedulers that have a use for it."""

_NAMES = (*get_args(Algorithm), *get_args(Scheduler))


def unfit_searches(draft: Draft) -> Iterator[Finding]:
    """Find what cannot be combined, and keys the named searcher or scheduler has no use for.

    Yields:
        Findings in no order.
    """
    yield from _useless_settings(draft)
    yield from _searchers_with_population(draft)
    yield from _searchers_with_several_objectives(draft)
    yield from _bohb_without_rungs(draft)
    yield from _endless_grids(draft)
    yield from _too_few_numbers(draft)
    yield from _late_rungs(draft)
    yield from _too_many_brackets(draft)
    yield from _immutable(draft)
    yield from _choices_of_nothing(draft)
    yield from _times_of_several_workers(draft)


def _useless_settings(draft: Draft) -> Iterator[Finding]:
    for key, users in _USED_BY.items():
        owner = (*_SCHEDULER, "name") if key[:2] == _SCHEDULER else _ALGORITHM
        name, value = draft.value(*owner), draft.value(*key)
        is_set = value not in (default_of(key), [])
        if is_set and name in _NAMES and name not in users:
            what = f"has no use, as {'.'.join(owner)} is {name}; leave it out"
            yield Finding(key, what, cause=owner, unset=json.dumps(default_of(key)))


def _searchers_with_population(draft: Draft) -> Iterator[Finding]:
    scheduler, algorithm = draft.value(*_SCHEDULER, "name"), draft.value(*_ALGORITHM)
    if scheduler in POPULATION_BASED and algorithm not in {"auto", "random", "qmc"}:
        what = (
            f"{algorithm} cannot be combined with {scheduler}, which draws all trials before "
            "any has a result; use random, qmc or auto, or search.scheduler.name asha"
        )
        yield Finding(_ALGORITHM, what)


def n_objectives(draft: Draft) -> int:
    """Return how many objectives a file has, 1 where it names none."""
    objectives = draft.data.get("objectives")
    return len(objectives) if isinstance(objectives, list) else 1


def _searchers_with_several_objectives(draft: Draft) -> Iterator[Finding]:
    algorithm, n = draft.value(*_ALGORITHM), n_objectives(draft)
    if algorithm in {"cma_es", "bohb"} and n > 1:
        what = (
            f"{algorithm} takes one objective, not {n}; use tpe, gp, nsga2, nsga3, random, "
            "qmc, grid or auto"
        )
        yield Finding(_ALGORITHM, what)


def _bohb_without_rungs(draft: Draft) -> Iterator[Finding]:
    scheduler = draft.value(*_SCHEDULER, "name")
    is_known = scheduler in {"none", "median"}  # population-based ones are told of above
    if draft.value(*_ALGORITHM) == "bohb" and is_known:
        what = f"bohb learns from rungs, which {scheduler} has not; use hyperband, asha or auto"
        yield Finding(_ALGORITHM, what)


def _endless_grids(draft: Draft) -> Iterator[Finding]:
    if draft.value(*_ALGORITHM) != "grid":
        return
    for path, domain in draft.domains.items():
        if domain.values() is None:
            what = (
                "has endlessly many values, of which grid cannot try each; list some with "
                "ordinal, give uniform a step, or use another search.algorithm"
            )
            yield Finding(("space", path), what)
    size = n_points(draft.domains)
    if size is not None and size > MAX_GRID:
        what = f"grid would have {size} points; list fewer values, or use random, qmc or tpe"
        yield Finding(_ALGORITHM, what)


def n_points(domains: Mapping[str, Domain]) -> int | None:
    """Return how many combinations of values there are, None for endlessly many.

    Conditions and constraints may leave fewer.
    """
    lists = [domain.values() for domain in domains.values()]
    if None in lists:
        return None
    return math.prod(map(_n_values, filter(None, lists)))


def _n_values(values: Sequence[object] | range) -> int:
    if isinstance(values, range):  # not len(): it fails beyond 2**63
        return (values.stop - values.start - 1) // values.step + 1
    return len(values)


def _too_few_numbers(draft: Draft) -> Iterator[Finding]:
    if draft.value(*_ALGORITHM) != "cma_es":
        return
    n = sum(not isinstance(domain, Choice) for domain in draft.domains.values())
    if n < 2:  # noqa: PLR2004 - the dimensions a covariance needs
        what = f"cma_es needs at least 2 numbers that vary, not {n}; use tpe or auto"
        yield Finding(_ALGORITHM, what)


def _late_rungs(draft: Draft) -> Iterator[Finding]:
    least = draft.value(*_SCHEDULER, "min")
    if draft.value(*_SCHEDULER, "name") not in {"auto", "asha", "median"}:
        return
    fewest = 0 if draft.value(*_SCHEDULER, "name") == "auto" else -1
    for option in draft.options("train.max_epochs"):
        if not (is_count(least) and isinstance(option.value, int)):
            continue
        if fewest < option.value < least:
            what = (
                f"{least} epochs must not exceed train.max_epochs, which may be {option.value}"
            )
            yield Finding((*_SCHEDULER, "min"), what)
            return


def _too_many_brackets(draft: Draft) -> Iterator[Finding]:
    least, eta, brackets, last = (
        draft.value(*_SCHEDULER, "min"),
        draft.value(*_SCHEDULER, "eta"),
        draft.value(*_SCHEDULER, "brackets"),
        draft.value("trial", "train", "max_epochs"),
    )
    if not (is_count(least) and is_count(eta) and is_count(brackets) and is_count(last)):
        return
    n_rungs = len(rung_epochs(least, eta, last))
    if draft.value(*_SCHEDULER, "name") == "asha" and brackets > 1 + n_rungs:
        what = (
            f"{brackets} brackets are more than {n_rungs} rungs before epoch {last} can make; "
            f"give at most {1 + n_rungs}"
        )
        yield Finding((*_SCHEDULER, "brackets"), what)


def rung_epochs(least: int, eta: int, last: int) -> list[int]:
    """Return the epochs of ASHA's rungs, all before the last epoch."""
    epochs = []
    while least < last and eta > 1:
        epochs.append(least)
        least *= eta
    return epochs


def _immutable(draft: Draft) -> Iterator[Finding]:
    name, paths = draft.value(*_SCHEDULER, "name"), draft.value(*_SCHEDULER, "mutable")
    if name not in POPULATION_BASED or not isinstance(paths, list | tuple):
        return
    if not paths:
        what = f"names nothing that {name} may change while trials run; give paths of space"
        yield Finding((*_SCHEDULER, "mutable"), what)
    for place, path in enumerate(paths):
        key = (*_SCHEDULER, "mutable", place)
        if path not in MUTABLE:
            known = ", ".join(path for path in draft.domains if path in MUTABLE) or "none"
            what = f"{path} cannot change while a trial runs; of what varies here can: {known}"
            yield Finding(key, what)
        elif path not in draft.domains:
            yield Finding(key, f"{path} does not vary; give it a domain under space")
        elif others := _dependents(draft, path):
            what = (
                f"{path} cannot change while a trial runs, as {others} depends on it; leave "
                "out one of the two"
            )
            yield Finding(key, what)
        elif name == "pb2" and draft.domains[path].values() is not None:
            what = (
                f"pb2 needs a number without steps; give {path} as log or uniform, or use pbt"
            )
            yield Finding(key, what)


def _dependents(draft: Draft, path: str) -> str:
    """Return what is computed from a key, or limits it; empty where nothing is."""
    entries = [entry.name for entry in draft.space.entries if path in entry.needs]
    limits = [f"'{limit.text}'" for limit in draft.space.constraints if path in limit.paths]
    return ", ".join([*entries, *limits])


def _choices_of_nothing(draft: Draft) -> Iterator[Finding]:
    choose = draft.data.get("choose")
    if not isinstance(choose, Mapping):  # null, as a resolved file has it
        return
    objectives = draft.data.get("objectives")
    metrics = [
        objective.get("metric")
        for objective in (objectives if isinstance(objectives, list) else ())
        if isinstance(objective, Mapping)
    ]
    if n_objectives(draft) == 1:
        yield Finding(("choose",), "is for several objectives, and there is one; leave it out")
    elif (then := choose.get("then")) is not None and then not in metrics[1:]:
        others = ", ".join(map(str, metrics[1:]))
        what = f"must be an objective after the first ({others}), not {shown(then)}"
        yield Finding(("choose", "then"), what)


def _times_of_several_workers(draft: Draft) -> Iterator[Finding]:
    workers = draft.value("resources", "per_trial", "workers")
    for section in ("objectives", "constraints"):
        rows = draft.data.get(section)
        for place, row in enumerate(rows if isinstance(rows, list) else ()):
            is_latency = isinstance(row, Mapping) and row.get("metric") == LATENCY
            if is_latency and is_count(workers) and workers > 1:
                what = f"{LATENCY} is measured by one worker, and a trial has {workers}; set 1"
                yield Finding((section, place, "metric"), what)
