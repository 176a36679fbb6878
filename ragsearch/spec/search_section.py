"""The keys of a space file that say what a search is after, who proposes and who stops."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from ragsearch.spec.section import Count, Section, Text

Metric = Literal[
    "val/em",
    "val/f1",
    "val/rouge_l",
    "val/nll",
    "val/recall_at_1",
    "val/recall_at_5",
    "val/recall_at_10",
    "val/mrr_at_10",
]
METRICS: tuple[str, ...] = get_args(Metric)
"""What every validation reports; without retrieval there is no recall."""

LATENCY = "val/latency_ms_p95"
"""Measured only where an objective or a constraint asks for it, as it takes time."""

Measured = Literal["val/latency_ms_p95"]


class ObjectiveSection(Section):
    """A metric to make as large or as small as possible."""

    metric: Literal[Metric, Measured]
    """A metric every validation reports; or `val/latency_ms_p95`: milliseconds within which 95
    in 100 validation questions are answered, asked one at a time."""
    goal: Literal["max", "min"] = "max"
    """`max` or `min`."""


class ChooseSection(Section):
    """Which trial of the Pareto front `export` takes, where there are several objectives."""

    within: Annotated[float, Field(ge=0.0)] = 0.0
    """How much worse than the best the first objective may be, in its own unit; 0 by default,
    which chooses the best by the first objective."""
    then: Literal[Metric, Measured] | None = None
    """The objective by which the best of those is taken; the second one by default."""


Algorithm = Literal[
    "auto", "random", "grid", "qmc", "tpe", "gp", "cma_es", "nsga2", "nsga3", "bohb"
]
Scheduler = Literal["auto", "none", "asha", "hyperband", "median", "pbt", "pb2"]


class SchedulerSection(Section):
    """Which trials are stopped early, or go on from others."""

    name: Scheduler = "auto"
    """`asha` compares trials at rungs as they come and stops the worse ones (Li et al. 2020);
    `hyperband` pauses them until a bracket has come that far (Li et al. 2018); `median` stops
    those below the median of the others (Golovin et al. 2017); `pbt` and `pb2` have the worst
    trials go on from the best ones, with changed values (Jaderberg et al. 2017, Parker-Holder
    et al. 2020); `none` stops nobody; `auto`, the default, is `asha` where rungs can save
    something, else `none`. A search that goes on compares as before; with `pbt` or `pb2` its
    open trials form a population without the trials that have ended, compared when each has
    reported again."""
    min: Count = 1
    """Epochs before `asha` or `median` may stop a trial; for `asha` the first rung."""
    eta: Annotated[int, Field(ge=2)] = 3
    """One in `eta` trials passes a rung of `asha` or `hyperband`; the next rung is `eta` times
    as long."""
    brackets: Count = 1
    """Brackets of `asha`, each with a first rung `eta` times as late as the one before; a
    trial is put into one at random, more often into an early one."""
    interval: Count = 1
    """Epochs after which `pbt` and `pb2` compare trials again."""
    mutable: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Paths under `space` that `pbt` and `pb2` may change while a trial runs: learning rates,
    weight decay, dropout and the like, never what makes another model; none by default."""
    rung_examples: Count | None = None
    """Validation questions of every epoch before `train.max_epochs`, drawn once for all trials
    in the proportions of their kinds; the last epoch is validated on all, as every epoch is by
    default."""


class SearchSection(Section):
    """Who proposes configurations, and who stops them."""

    algorithm: Algorithm = "auto"
    """Searcher: `random`; `grid`, every combination of finite domains once; `qmc`, spread
    evenly (Sobol); `tpe`, tree-structured Parzen estimators (Bergstra et al. 2011), 15 % of
    its trials at random; `gp`, a Gaussian process; `cma_es`, for numbers, with choices at
    random (Hansen 2016); `nsga2` and `nsga3`, evolution for several objectives (Deb et al.
    2002, Deb and Jain 2014); `bohb`, a TPE of the largest budget that has results enough
    (Falkner et al. 2018); `auto`, the default, decides by space, budget and parallelism, and
    says why."""
    startup_trials: Annotated[int, Field(ge=0)] | None = None
    """Random trials before `tpe`, `gp`, `cma_es` or `bohb` starts to learn from results; by
    default a quarter of `budget.trials`, at least 2 and at most 10."""
    population: Annotated[int, Field(ge=2)] | None = None
    """Trials a generation of `nsga2`, `nsga3` or `cma_es`; by default a fifth of
    `budget.trials`, at least 4 and at most 50."""
    scheduler: SchedulerSection = SchedulerSection()
    rescore_top_k: Count = 3
    """Best trials whose settings under `rescore` are swept, besides the baseline's."""


def distinct(objectives: tuple[ObjectiveSection, ...]) -> tuple[ObjectiveSection, ...]:
    """Return the objectives, at least one, none of them twice."""
    if not objectives:
        raise ValueError("must hold at least one objective")
    metrics = [objective.metric for objective in objectives]
    if twice := next((one for one in metrics if metrics.count(one) > 1), None):
        raise ValueError(f"names {twice} twice; keep one")
    return objectives
