"""The keys of a space file: one frozen model a section, one sentence a key.

In: plain data from YAML. Out: frozen sections that validated themselves. Knows no files:
paths are resolved and line numbers attached in `load`. What a section cannot see of its
neighbours is checked in `rules`.
"""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ragsearch.spec.amounts import disk_bytes, wall_s
from ragsearch.spec.environment import expand
from ragsearch.spec.index_section import IndexSection
from ragsearch.spec.search_section import (
    ChooseSection,
    Measured,
    Metric,
    ObjectiveSection,
    SearchSection,
    distinct,
)
from ragsearch.spec.section import Count, Positive, Section, Text
from ragsearch.spec.trial import TrialSection

Sign = Literal[
    "val/unique_passage_ratio",
    "val/top1_concentration",
    "val/prior_entropy",
    "val/posterior_entropy",
    "val/hit_overlap",
    "train/question_encoder_grad_norm",
]
SIGNS: tuple[str, ...] = get_args(Sign)
"""Signs of retrieval collapse (`training.collapse` says what each is), which every validation
with retrieval reports; the last one only where the question encoder is trained."""


def _name_of_index(text: str) -> str:
    # without dots, which part the keys of `-o indexes.NAME.corpus=...`
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
        raise ValueError("a name has up to 64 letters, digits, _ and -, nothing else")
    return text


def _name_of_search(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        what = "must be up to 64 letters, digits and `_ . -`, a letter or digit first"
        raise ValueError(f"{what}, not {text!r}")
    return text


def _duration(text: str) -> str:
    wall_s(text)
    return text


def _size(text: str) -> str:
    disk_bytes(text)
    return text


def _cluster(text: str) -> str:
    if text not in {"local", "auto"} and not re.fullmatch(r"[^/\s:]+:\d{1,5}", text):
        raise ValueError(f"must be local, auto or host:port, not {text!r}")
    return text


def _uri(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+]*://.", expand(text)):
        raise ValueError(
            f"must be a URI such as sqlite:///mlflow.db or http://host:5000, not {text!r}"
        )
    return text


IndexName = Annotated[str, AfterValidator(_name_of_index)]


class DataSection(Section):
    """Questions with answers, in jsonl, csv or parquet files, or files of lines.

    Of the latter `X.source` has a question a line, and `X.target` beside it an answer a line.
    """

    train: Text
    """Questions to train on."""
    val: Text
    """Questions every trial is compared on."""
    test: Text | None = None
    """Questions for the very end; no trial reads them."""
    n_train: Count | None = None
    """Use only the first so many training questions; all by default."""
    n_val: Count | None = None
    """Use only the first so many validation questions; all by default."""
    n_test: Count | None = None
    """Use only the first so many test questions; all by default."""

    @model_validator(mode="after")
    def _test_is_there_to_cut(self) -> "DataSection":
        if self.n_test is not None and self.test is None:
            raise ValueError("has n_test and no test; give the file or drop n_test")
        return self


class PoolSection(Section):
    """The replicas that serve an index to every trial.

    Indexes that do not fit into memory together are served in turn, each to the trials that
    share it.
    """

    replicas: Count = 1
    """Retrieval actors an index, of each of its shards; spread over the nodes that have its
    folder."""
    per_node: Count | None = None
    """Retrieval actors an index on every node that has its folder, instead of `replicas`."""
    threads: Count = 1
    """Threads a replica searches with."""
    memory: Literal["mapped", "in_memory"] = "mapped"
    """`mapped`: the replicas of a node share one copy of the index, read as it is needed;
    `in_memory`: each has its own, and is refused where it does not fit."""
    lifetime: Literal["search", "detached"] = "search"
    """`search`: gone with the last search that uses it; `detached`: stays until
    `ragsearch pool stop`."""

    @model_validator(mode="after")
    def _replicas_are_counted_once(self) -> "PoolSection":
        if self.per_node is not None and "replicas" in self.model_fields_set:
            raise ValueError("has replicas and per_node; give the one or the other")
        return self

    @property
    def on_one_node(self) -> int:
        """Replicas of an index, of each of its shards, where there is one node only."""
        return self.per_node or self.replicas


class ConstraintSection(Section):
    """A bound on what validations find: a trial that breaks it is ended, as infeasible."""

    metric: Literal[Metric, Measured, Sign]
    """A metric as in `objectives`, or a sign of retrieval collapse; a trial that does not
    report it, as closed_book finds no passages, is not bound by it."""
    min: float | None = None
    """Least value that is feasible; no limit by default."""
    max: float | None = None
    """Largest value that is feasible; no limit by default."""

    @model_validator(mode="after")
    def _something_is_feasible(self) -> "ConstraintSection":
        if self.min is None and self.max is None:
            raise ValueError("has neither min nor max; give at least one")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"has min {self.min:g} above max {self.max:g}; exchange them")
        return self


def _kind_of_constraint(value: object) -> str:
    return "[expression]" if isinstance(value, str) else "[outcome]"


Constraint = Annotated[
    Annotated[ConstraintSection, Tag("[outcome]")] | Annotated[Text, Tag("[expression]")],
    Discriminator(_kind_of_constraint),
]


class BudgetSection(Section):
    """When a search ends: whichever limit comes first."""

    trials: Count
    """Trials, the baseline included."""
    wall: Annotated[str, AfterValidator(_duration)] | None = None
    """Wall time, such as `90s`, `30m`, `8h`; running trials are stopped when it is over."""
    gpu_hours: Positive | None = None
    """GPUs of a trial times the hours that it runs, summed over trials; running ones are
    stopped when it is over. No limit by default."""
    disk: Annotated[str, AfterValidator(_size)] | None = None
    """What the folder of the search may hold, such as `500MB`, `20GB`: models of ended trials
    are given up for it, the worst first, and the search ends where that is not enough. Neither
    the best model, nor the baseline's, nor those that `rescore` or `final` need are given up;
    of final runs that were scored, each trial's best seed is kept. No limit by default."""
    target: float | None = None
    """Value of the first objective at which a search has found what it is after; none by
    default."""
    patience: Count | None = None
    """Trials in a row that may end without being better than the best before them; no more
    are started then, and running ones go on to their end. No limit by default."""
    max_failed_trials: Count | None = None
    """Crashed trials at which a search is given up as failed; no limit by default."""

    @property
    def wall_s(self) -> float | None:
        """Wall time in seconds; None without a limit."""
        return None if self.wall is None else wall_s(self.wall)

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of the search's folder; None without a limit."""
        return None if self.disk is None else disk_bytes(self.disk)


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("has a seed twice; give each once")
    if not seeds:
        raise ValueError("is empty; give at least one seed, better three")
    return seeds


class FinalSection(Section):
    """The comparison after a search: the best trials and the baseline, trained anew.

    Each is trained with every seed and scored once on `data.test`, which nothing else reads.
    """

    top_k: Count = 3
    """Best configurations that are trained again, besides the baseline."""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
        Field(strict=False),
        AfterValidator(_distinct),
    ] = (1, 2, 3)
    """Seeds each of them is trained with; of a single one nothing can be said of chance in
    training."""


class PerTrialSection(Section):
    """What one trial occupies."""

    cpu: Positive = 1.0
    """CPU cores of a worker; also the threads torch uses, rounded down, at least one."""
    gpu: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """GPUs of a worker, fractions allowed: 0.5 lets two trials share one."""
    workers: Count = 1
    """Processes that train one model together, each on its share of every batch: the result is
    that of one worker, up to the order of sums and the draws of dropout."""

    @model_validator(mode="after")
    def _workers_have_whole_gpus(self) -> "PerTrialSection":
        if self.workers > 1 and 0 < self.gpu < 1:
            raise ValueError(
                f"{self.workers} workers cannot share GPUs ({self.gpu:g} each); set gpu to 1 "
                "or to 0, or leave one worker"
            )
        return self

    @property
    def all_cpu(self) -> float:
        """CPU cores of all workers."""
        return self.workers * self.cpu

    @property
    def all_gpu(self) -> float:
        """GPUs of all workers."""
        return self.workers * self.gpu


class ResourcesSection(Section):
    """Where trials run."""

    per_trial: PerTrialSection = PerTrialSection()
    max_concurrent: Count | None = None
    """Trials at a time; as many as fit by default. Where it is set on a cluster that is joined,
    that many workers start together, else each after the one before."""
    retries: Annotated[int, Field(ge=0)] = 1
    """Times that a trial is started again from its last epoch, if its process or node is lost
    or a pool, device or file system fails it; one that diverges, is infeasible or meets a bug
    is never started again. One that Ray kills each time because its node runs low on memory is
    infeasible in the end."""
    cluster: Annotated[str, AfterValidator(_cluster)] = "local"
    """`local` starts a private Ray; `auto` or `host:port` joins one."""


class TrackingSection(Section):
    """Where MLflow keeps the runs."""

    uri: Annotated[str, AfterValidator(_uri)] = "sqlite:///mlflow.db"
    """MLflow tracking URI; a relative SQLite path is relative to where the command runs.
    References to the environment stay as written in everything a search records."""

    @property
    def address(self) -> str:
        """The URI with its references to the environment replaced: never to be recorded."""
        return expand(self.uri)


class SpaceFile(Section):
    """A whole space file."""

    version: Literal[1]
    """Version of this format."""
    extends: Text | None = None
    """Space file to start from, none by default: what this one says is laid over it, mappings
    key by key, lists and domains as a whole; a domain of null varies no longer."""
    name: Annotated[str, AfterValidator(_name_of_search)]
    """Name of the search, and of its MLflow experiment: letters, digits, `_ . -`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the searcher and of every trial."""
    data: DataSection
    indexes: dict[IndexName, IndexSection] = Field(default_factory=dict)
    """Indexes by name, each built once and shared by every trial; at least one if any trial
    retrieves."""
    pool: PoolSection = PoolSection()
    trial: TrialSection
    space: dict[str, object] = Field(default_factory=dict)
    """What varies: dotted paths in `trial`, each with one domain; nothing by default."""
    rescore: dict[str, object] = Field(default_factory=dict)
    """What the best trained models are tried with, as it needs no training: dotted paths of
    `decode`, `retrieval.n_docs`, `ef_search` or `nprobe`, each with a domain of listed values;
    every combination is scored on the validation questions; nothing by default."""
    final: FinalSection | None = None
    """Whether and how the best trials are trained again and compared on `data.test`; by default
    they are not."""
    try_first: Annotated[tuple[dict[str, object], ...], Field(strict=False)] = ()
    """Points to try after the baseline: values by dotted path, the rest as in the baseline;
    none by default."""
    objectives: Annotated[
        tuple[ObjectiveSection, ...], Field(strict=False), AfterValidator(distinct)
    ] = (ObjectiveSection(metric="val/em"),)
    """What the search is after: one metric or several. The first drives the scheduler and says
    which epoch of a trial is its best; of several the result is a Pareto front."""
    choose: ChooseSection | None = None
    """Which trial of that front `export` takes; by default the best by the first objective."""
    constraints: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
    """What trials must fulfil; none by default. An expression over keys of the trial holds
    before a trial is launched, the baseline included. A bound on a metric holds after every
    validation; the baseline that breaks one is infeasible, too, but trained to its end."""
    search: SearchSection = SearchSection()
    budget: BudgetSection
    resources: ResourcesSection = ResourcesSection()
    tracking: TrackingSection = TrackingSection()

    @property
    def outcome_constraints(self) -> tuple[ConstraintSection, ...]:
        """Bounds on what validations find."""
        return tuple(one for one in self.constraints if isinstance(one, ConstraintSection))

    def measures(self, metric: str) -> bool:
        """Tell whether an objective or a constraint asks for a metric."""
        asked = {one.metric for one in self.objectives} | {
            one.metric for one in self.outcome_constraints
        }
        return metric in asked
