"""What `auto` stands for: a searcher and a scheduler by space, budget and parallelism.

Only what the space file says is looked at, not the machine, so that a search that is resumed
elsewhere goes on as it began. Imports neither Optuna nor Ray.
"""

from operator import attrgetter
from typing import NamedTuple, cast

from typing_extensions import override

from ragsearch.spec import Choice, Spec
from ragsearch.spec.search_rules import MAX_GRID, POPULATION_BASED, n_points

_FOR_EVOLUTION = 500  # trials: ten generations of fifty, NSGA's usual population
_FEW_OBJECTIVES = 3  # up to which NSGA-II's crowding still tells trials apart


class Chosen(NamedTuple):
    """A searcher or scheduler, and why it was taken."""

    name: str
    reason: str
    """Empty where the space file names it."""

    @override
    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.name}, as {self.reason}" if self.reason else self.name


def searcher_of(spec: Spec) -> Chosen:
    """Return who proposes the trials of a search, never `auto`."""
    if (named := spec.file.search.algorithm) != "auto":
        return Chosen(named, "")
    scheduler = scheduler_of(spec).name
    if scheduler in POPULATION_BASED:
        return Chosen("random", f"{scheduler} draws all trials before any has a result")
    n_trials = spec.file.budget.trials
    size = n_points(spec.domains)
    if size == 1:
        return Chosen("grid", "nothing varies")
    if size is not None and size <= min(n_trials, MAX_GRID):
        return Chosen("grid", f"all {size} points of the space fit into the budget")
    at_once = spec.file.resources.max_concurrent or 1
    if at_once >= n_trials:
        return Chosen("qmc", "all trials start before any has a result: they are spread evenly")
    return _learning(spec, n_trials)


def scheduler_of(spec: Spec) -> Chosen:
    """Return who stops the trials of a search, never `auto`."""
    file = spec.file
    settings, n_epochs = file.search.scheduler, file.trial.train.max_epochs
    if settings.name != "auto":
        return Chosen(settings.name, "")
    if file.search.algorithm == "bohb":
        return Chosen("hyperband", "bohb is made of it")
    if len(file.objectives) > 1:
        return Chosen("none", "rungs by the first objective would cut the others' best trials")
    if n_epochs <= settings.min:
        return Chosen("none", f"no rung lies before the end of {_counted(n_epochs, 'epoch')}")
    if file.budget.trials <= settings.eta:
        n = _counted(file.budget.trials, "trial")
        return Chosen("none", f"{n} are too few to let one in {settings.eta} go on")
    return Chosen("asha", "the worse trials are known before their end")


def is_population(spec: Spec) -> bool:
    """Tell whether trials go on from others, with values changed."""
    return scheduler_of(spec).name in POPULATION_BASED


def pauses(spec: Spec) -> bool:
    """Tell whether trials pause and go on, as in brackets and populations."""
    return is_population(spec) or scheduler_of(spec).name == "hyperband"


def most_trials(spec: Spec) -> int:
    """Return how many trials a search has: its budget, or fewer where a grid is used up."""
    n_trials, size = spec.file.budget.trials, n_points(spec.domains)
    if size is None or searcher_of(spec).name != "grid":
        return n_trials
    is_on_grid = all(
        domain.contains(attrgetter(path)(spec.file.trial))
        for path, domain in spec.domains.items()
    )
    return min(n_trials, size + (not is_on_grid))


def longest(spec: Spec) -> int:
    """Return the most epochs that a trial may have."""
    domain, baseline = spec.domains.get("train.max_epochs"), spec.file.trial.train.max_epochs
    options = domain.probes() if domain else ()
    return max([baseline, *(cast("int", option) for option in options)])


def startup_trials(spec: Spec) -> int:
    """Return how many trials are drawn at random before results are learnt from."""
    asked, quarter = spec.file.search.startup_trials, spec.file.budget.trials // 4
    return min(10, max(2, quarter)) if asked is None else asked


def population(spec: Spec) -> int:
    """Return how many trials a generation has, for searchers that evolve."""
    fifth = spec.file.budget.trials // 5
    return spec.file.search.population or min(50, max(4, fifth))


def _learning(spec: Spec, n_trials: int) -> Chosen:
    """Return a searcher that learns from results, for a space too large to be tried whole."""
    n, enough = len(spec.file.objectives), n_trials >= _FOR_EVOLUTION
    if n > 1 and enough:
        name = "nsga2" if n <= _FEW_OBJECTIVES else "nsga3"
        return Chosen(name, f"{n_trials} trials are generations enough for {n} objectives")
    if n > 1:
        return Chosen("tpe", f"{n_trials} trials are too few generations for nsga2")
    choices = [path for path, one in spec.domains.items() if isinstance(one, Choice)]
    if enough and not choices and len(spec.domains) > 1:
        return Chosen("cma_es", f"only numbers vary, over {n_trials} trials")
    if choices:
        return Chosen("tpe", f"{choices[0]} is a choice, and not all combinations fit")
    return Chosen("tpe", f"{n_trials} trials are to learn from each other")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
