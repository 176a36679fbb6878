"""The keys of `trial`: a complete configuration, of which `space` varies some."""

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ragsearch.spec.section import Count, Fraction, Positive, Section, Text

RAG_TYPES = ("rag_sequence", "rag_token")
"""The values of `trial.model.type` that read passages."""


def _as_text(value: object) -> object:
    """Let `precision: 32` stand for the text it means."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2021): trained instead of weights, merged when saved."""

    rank: Count | None = None
    """Rank of the adapters of question encoder and generator; null, the default, trains all
    weights."""
    alpha: Count | None = None
    """What adapters add is scaled by `alpha / rank`; as `rank` by default."""
    dropout: Fraction = 0.0
    """Dropout on what adapters read."""
    targets: Literal["query_value", "linear"] = "query_value"
    """Layers with adapters: query and value of every attention, or every linear layer but the
    one over the vocabulary."""


class ModelSection(Section):
    """Which model a trial fine-tunes."""

    type: Literal["rag_sequence", "rag_token", "closed_book"] = "rag_sequence"
    """Marginalise over passages once an answer, or at every token (Lewis et al. 2020); or
    `closed_book`, the generator alone, without passages: what retrieval is measured against."""
    question_encoder: Annotated[Text | None, Field(validate_default=True)] = None
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
    """Train the generator alone; the question encoder's dropout is off."""
    freeze_generator: bool = False
    """Train the question encoder alone; the generator's dropout is off."""
    lora: LoraSection = LoraSection()
    prefix: str = ""
    """Text before everything the generator reads, as T5 knows its tasks by; none by default."""
    title_separator: str = " / "
    """Text between title and text of a passage, as the generator reads it."""
    doc_separator: str = " // "
    """Text between passage and question, as the generator reads it."""

    @model_validator(mode="after")
    def _something_is_trained(self) -> "ModelSection":
        if not self.freeze_generator:
            return self
        if self.type not in RAG_TYPES:
            raise ValueError(
                f"has freeze_generator and type {self.type}, which leaves nothing to train; "
                "drop one"
            )
        if self.freeze_question_encoder:
            raise ValueError(
                "has freeze_question_encoder and freeze_generator, which leaves nothing to "
                "train; drop one"
            )
        return self

    @field_validator("question_encoder")
    @classmethod
    def _who_retrieves_encodes_questions(
        cls, name: str | None, others: ValidationInfo
    ) -> str | None:
        if name is None and others.data.get("type") in RAG_TYPES:
            raise ValueError(
                "is missing; it gives: a folder or a hub id of the encoder whose vectors "
                "passages are searched with"
            )
        return name


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
    """The optimiser and its learning-rate schedule."""

    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adamw`, or `adafactor`, which keeps less in memory (Shazeer and Stern 2018)."""
    learning_rate: Positive = 3.0e-5
    """Peak learning rate of the generator."""
    question_encoder_lr_ratio: Positive = 1.0
    """Learning rate of the question encoder as a multiple of `learning_rate`."""
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = (
        "polynomial"
    )
    """Shape of the learning rate after warm-up, over all steps of `max_epochs`."""
    n_cycles: Count | None = None
    """Times that `cosine_with_restarts` falls from the peak to 0; 1, without a restart, by
    default."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps of linear warm-up."""
    warmup_share: Fraction = 0.0
    """Share of all optimiser steps of `max_epochs` that are warm-up, rounded up; instead of
    `warmup_steps`."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.001
    """Weight decay; never on biases and layer norms."""
    adam_epsilon: Positive | None = None
    """Epsilon of `adamw`; 1e-8 by default."""
    max_grad_norm: Positive | None = 0.1
    """Gradients are clipped to this global norm; null leaves them as they are."""
    effective_batch: Count = 16
    """Questions an optimiser step, in as many forward passes as `train.batch_size` makes."""

    @model_validator(mode="after")
    def _warmup_is_said_once(self) -> "OptimSection":
        if self.warmup_steps and self.warmup_share:
            raise ValueError("has warmup_steps and warmup_share; give the one or the other")
        return self


class RegularisationSection(Section):
    """What keeps the generator from learning by heart."""

    dropout: Fraction = 0.1
    """Dropout of the generator."""
    attention_dropout: Fraction | None = None
    """Dropout on attention weights; only for generators that have it (BART, not T5), and as the
    generator was saved by default."""
    encoder_layerdrop: Fraction | None = None
    """Probability of leaving out a layer of the generator's encoder (Fan et al. 2020); only for
    generators that have it (BART, not T5), and as the generator was saved by default."""
    decoder_layerdrop: Fraction | None = None
    """The same of the generator's decoder."""
    label_smoothing: Fraction = 0.0
    """Share of probability spread over the vocabulary in the training loss."""


class TrainSection(Section):
    """Length and shape of one training run."""

    max_epochs: Annotated[int, Field(ge=0)] = 3
    """Passes over the training questions, one validation after each; 0 trains nothing and
    validates the model as it is."""
    early_stopping_patience: Count | None = None
    """Validations without a better objective after which a trial is finished; by default it
    goes on for `max_epochs`."""
    batch_size: Count = 16
    """Questions a forward pass holds at most; it changes memory and speed, not the result."""
    eval_batch_size: Count = 32
    """Questions a forward pass holds in validation."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory,
    slower, the same result."""
    compile: bool = False
    """Have torch compile the modules of a training step: the same result up to rounding and the
    draws of dropout. The first step of a process takes a minute more, a third of that where the
    code is on disk already, and nothing for the next trial of the same process that has the
    same models and dropout. For long trials on a GPU; on a CPU no gain was measured. Needs a
    compiler (g++) and the headers of Python."""
    profile: bool = False
    """Keep a profiler's trace of optimiser steps 2 to 5 of every trial: `trace.json.gz` in its
    folder and an artifact of its MLflow run, to be opened with Perfetto."""
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
    document_temperature: Positive = 1.0
    """Document scores are divided by it before their softmax, p(passage | question): below 1
    the best passages weigh more, above 1 all weigh more alike. Training is without it."""


class TrialSection(Section):
    """A complete configuration: the baseline, and what `space` varies."""

    model: ModelSection
    retrieval: RetrievalSection = RetrievalSection()
    optim: OptimSection = OptimSection()
    regularisation: RegularisationSection = RegularisationSection()
    train: TrainSection = TrainSection()
    decode: DecodeSection = DecodeSection()
