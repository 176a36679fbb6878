"""The keys of a space file: one frozen model a section, one sentence a key.

In: plain data from YAML. Out: frozen sections that validated themselves. Knows no files:
paths are resolved and line numbers attached in `load`. What a section cannot see of its
neighbours is checked in `rules`.
"""

import re
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from ragsearch.spec.durations import wall_s

Metric = Literal[
    "val/em", "val/f1", "val/nll", "val/recall_at_1", "val/recall_at_5", "val/recall_at_10"
]
METRICS: tuple[str, ...] = get_args(Metric)
"""What every validation reports."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; give a value")
    return text


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


def _cluster(text: str) -> str:
    if text not in {"local", "auto"} and not re.fullmatch(r"[^/\s:]+:\d{1,5}", text):
        raise ValueError(f"must be local, auto or host:port, not {text!r}")
    return text


def _uri(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+]*://.", text):
        raise ValueError(
            f"must be a URI such as sqlite:///mlflow.db or http://host:5000, not {text!r}"
        )
    return text


def _as_text(value: object) -> object:
    """Let `precision: 32` stand for the text it means."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, AfterValidator(_not_blank)]
IndexName = Annotated[str, AfterValidator(_name_of_index)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the space file: frozen, unknown keys and kinds refused, each key documented."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # '5' is no number and 1 no boolean: what is written is what is meant
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class DataSection(Section):
    """Questions with answers: jsonl, csv or parquet files."""

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


class ChunkSection(Section):
    """How long texts become passages."""

    words: Count = 100
    """Words a passage."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Words that neighbouring passages of one text share."""

    @model_validator(mode="after")
    def _overlap_is_shorter(self) -> "ChunkSection":
        if self.overlap >= self.words:
            raise ValueError(
                f"overlap {self.overlap} must be smaller than words {self.words}; lower it"
            )
        return self


class IndexSection(Section):
    """One index: which corpus, cut how, embedded by what, searched by which FAISS index."""

    corpus: Text
    """Texts: jsonl, tsv, csv, parquet with id, title, text; or a folder of text files."""
    chunk: ChunkSection | None = None
    """Cut texts into passages of words; by default each text is one passage."""
    encoder: Text
    """Context encoder: a folder or a hub id."""
    pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    """How token vectors become one: DPR's pooler, the first token, the mean; `auto` takes
    `pooler` for a DPR encoder and `mean` for any other."""
    normalise: bool = False
    """Scale vectors to length 1, so that inner product is cosine."""
    faiss: Text = "Flat"
    """FAISS factory string; the metric is inner product."""
    shards: Count = 1
    """FAISS indexes to divide the passages among, each in its own file and with replicas of
    its own: for an index too large for one node."""
    max_length: Annotated[int, Field(ge=8, le=512)] = 256
    """Tokens of title and text the context encoder reads."""
    batch_size: Count = 64
    """Passages embedded at a time."""


class PoolSection(Section):
    """The replicas that serve an index to every trial."""

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


class ModelSection(Section):
    """Which RAG model a trial fine-tunes."""

    type: Literal["rag_sequence", "rag_token"] = "rag_sequence"
    """Marginalise over passages once an answer, or at every token (Lewis et al. 2020)."""
    question_encoder: Text
    """Question encoder, its vectors as wide as the index's: a folder or a hub id; of a whole
    RAG checkpoint its question encoder is taken."""
    generator: Text
    """Sequence-to-sequence generator: a folder or a hub id; of a whole RAG checkpoint its
    generator is taken."""
    pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    """Pooling of the question encoder, as in `indexes`."""
    normalise: bool = False
    """Scale question vectors to length 1."""
    freeze_question_encoder: bool = False
    """Train the generator alone."""


class RetrievalSection(Section):
    """What a trial asks of the retriever."""

    index: str = ""
    """Name of the index, one of `indexes`; may be left out where there is only one."""
    n_docs: Count = 5
    """Passages retrieved and marginalised over for a question."""
    ef_search: Count | None = None
    """Effort of a search in an HNSW graph: passages kept in sight, never fewer than are asked
    for; by default as the index was built, 64."""
    nprobe: Count | None = None
    """Effort of a search in an IVF index: cells looked into; by default as the index was
    built, the root of their number."""
    prefetch: Annotated[int, Field(ge=0, le=1)] = 0
    """Optimiser steps by which passages are found ahead: with 1, those of the next step are
    found while this one computes, by the question encoder as it was one step before; document
    scores are always of the encoder as it is. 0 finds them when they are needed."""
    backend: Literal["pool", "in_process", "torch_distributed"] = "pool"
    """Who searches: `pool`, replicas that all trials share; `in_process`, the trial itself;
    `torch_distributed`, one worker of a trial for all of them."""


class OptimSection(Section):
    """The optimiser (AdamW) and its learning-rate schedule."""

    learning_rate: Positive = 3.0e-5
    """Peak learning rate of the generator."""
    question_encoder_lr_ratio: Positive = 1.0
    """Learning rate of the question encoder as a multiple of `learning_rate`."""
    schedule: Literal["constant", "linear", "cosine", "polynomial"] = "polynomial"
    """Shape of the learning rate after warm-up, over all steps of `max_epochs`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.001
    """Weight decay; never on biases and layer norms."""
    adam_epsilon: Positive = 1.0e-8
    """Adam's epsilon."""
    max_grad_norm: Positive = 0.1
    """Gradients are clipped to this global norm."""
    effective_batch: Count = 16
    """Questions an optimiser step, in as many forward passes as `train.batch_size` makes."""


class RegularisationSection(Section):
    """What keeps the generator from learning by heart."""

    dropout: Fraction = 0.1
    """Dropout of the generator."""
    attention_dropout: Fraction | None = None
    """Dropout on attention weights; only for generators that have it (BART, not T5)."""
    label_smoothing: Fraction = 0.0
    """Share of probability spread over the vocabulary in the training loss."""


class TrainSection(Section):
    """Length and shape of one training run."""

    max_epochs: Count = 3
    """Passes over the training questions, one validation after each."""
    batch_size: Count = 16
    """Questions a forward pass holds at most; it changes memory and speed, not the result."""
    eval_batch_size: Count = 32
    """Questions a forward pass holds in validation."""
    precision: Annotated[Literal["32", "bf16-mixed", "16-mixed"], BeforeValidator(_as_text)] = (
        "32"
    )
    """Arithmetic: float32, or autocast to bfloat16 or (on a GPU only) float16."""
    max_source_length: Annotated[int, Field(ge=4, le=512)] = 128
    """Tokens of a question the question encoder reads."""
    max_target_length: Annotated[int, Field(ge=2)] = 25
    """Tokens of an answer, its end token included."""
    max_context_length: Annotated[int, Field(ge=16)] = 300
    """Tokens of title, passage and question together; the passage is cut, never the
    question."""


class DecodeSection(Section):
    """How answers are generated in validation, `eval` and `ask`."""

    num_beams: Count = 1
    """Beams a passage (rag_sequence) or an answer (rag_token); 1 is greedy."""
    max_length: Annotated[int, Field(ge=2)] = 25
    """Tokens an answer may have, its end token included."""


class TrialSection(Section):
    """A complete configuration: the baseline, and what `space` varies."""

    model: ModelSection
    retrieval: RetrievalSection = RetrievalSection()
    optim: OptimSection = OptimSection()
    regularisation: RegularisationSection = RegularisationSection()
    train: TrainSection = TrainSection()
    decode: DecodeSection = DecodeSection()


class SchedulerSection(Section):
    """Which trials are stopped early."""

    name: Literal["asha", "none"] = "asha"
    """`asha` compares trials at rungs and stops the worse ones (Li et al. 2020)."""
    min: Count = 1
    """Epochs before a trial may be stopped: the first rung."""
    eta: Annotated[int, Field(ge=2)] = 3
    """One in `eta` trials passes a rung; the next rung is `eta` times as long."""


class SearchSection(Section):
    """Who proposes configurations, and who stops them."""

    algorithm: Literal["tpe", "random"] = "tpe"
    """Searcher: Optuna's tree-structured Parzen estimator, or random."""
    startup_trials: Annotated[int, Field(ge=0)] = 10
    """Random trials before `tpe` starts to learn from results."""
    scheduler: SchedulerSection = SchedulerSection()


class ObjectiveSection(Section):
    """A metric to make as large or as small as possible."""

    metric: Metric
    """A metric every validation reports."""
    goal: Literal["max", "min"] = "max"
    """`max` or `min`."""


class BudgetSection(Section):
    """When a search ends: whichever limit comes first."""

    trials: Count
    """Trials, the baseline included."""
    wall: Annotated[str, AfterValidator(_duration)] | None = None
    """Wall time, such as `90s`, `30m`, `8h`; running trials are stopped when it is over."""

    @property
    def wall_s(self) -> float | None:
        """Wall time in seconds; None without a limit."""
        return None if self.wall is None else wall_s(self.wall)


class PerTrialSection(Section):
    """What one trial occupies."""

    cpu: Positive = 1.0
    """CPU cores; also the threads torch uses, rounded down, at least one."""
    gpu: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """GPUs, fractions allowed: 0.5 lets two trials share one; a trial uses at most one."""


class ResourcesSection(Section):
    """Where trials run."""

    per_trial: PerTrialSection = PerTrialSection()
    max_concurrent: Count | None = None
    """Trials at a time; as many as fit by default."""
    cluster: Annotated[str, AfterValidator(_cluster)] = "local"
    """`local` starts a private Ray; `auto` or `host:port` joins one."""


class TrackingSection(Section):
    """Where MLflow keeps the runs."""

    uri: Annotated[str, AfterValidator(_uri)] = "sqlite:///mlflow.db"
    """MLflow tracking URI; a relative SQLite path is relative to where the command runs."""


def _at_least_one(indexes: dict[str, IndexSection]) -> dict[str, IndexSection]:
    if not indexes:
        raise ValueError("is empty; name at least one index")
    return indexes


def _exactly_one(objectives: tuple[ObjectiveSection, ...]) -> tuple[ObjectiveSection, ...]:
    if len(objectives) != 1:
        raise ValueError(f"must hold exactly one objective, not {len(objectives)}")
    return objectives


class SpaceFile(Section):
    """A whole space file."""

    version: Literal[1]
    """Version of this format."""
    name: Annotated[str, AfterValidator(_name_of_search)]
    """Name of the search, and of its MLflow experiment: letters, digits, `_ . -`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the searcher and of every trial."""
    data: DataSection
    indexes: Annotated[dict[IndexName, IndexSection], AfterValidator(_at_least_one)]
    """Indexes by name, each built once and shared by every trial."""
    pool: PoolSection = PoolSection()
    trial: TrialSection
    space: dict[str, object] = Field(default_factory=dict)
    """What varies: dotted paths in `trial`, each with one domain."""
    objectives: Annotated[
        tuple[ObjectiveSection, ...], Field(strict=False), AfterValidator(_exactly_one)
    ] = (ObjectiveSection(metric="val/em"),)
    """What the search is after: one metric, which also drives the scheduler."""
    search: SearchSection = SearchSection()
    budget: BudgetSection
    resources: ResourcesSection = ResourcesSection()
    tracking: TrackingSection = TrackingSection()
