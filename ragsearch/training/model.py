"""The model of a trial: assembled from pretrained parts, saved, and loaded again.

In: the `trial` section of a space file, or a folder written by `TrialModel.save`. Out: stock
`RagSequenceForGeneration` or `RagTokenForGeneration` with both tokenizers, or a generator
alone. A saved folder opens in plain Transformers; `trial.json` beside it keeps what
Transformers has no place for.

Axes: B questions, L question tokens, D embedding size.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
)
from typing_extensions import override

from ragsearch.errors import BadInputError
from ragsearch.index.encoder import Pooling, pool
from ragsearch.spec import TrialSection
from ragsearch.training.contexts import ContextBuilder
from ragsearch.training.encoder_only import open_encoder_only
from ragsearch.training.lora import add_adapters, merge, plain_weights, unmerge
from ragsearch.training.loss import ModelType
from ragsearch.training.parts import (
    check_compiler,
    check_length,
    check_vocabulary,
    compiled,
    first_line,
    keep_no_activations,
    open_generator,
    open_question_encoder,
    open_whole,
)

TRIAL_FILE = "trial.json"
_QUESTION_TOKENIZER, _GENERATOR_TOKENIZER = "question_encoder_tokenizer", "generator_tokenizer"
_CLASSES: dict[ModelType, Any] = {  # Any: their constructors and loaders are hardly typed
    "rag_sequence": RagSequenceForGeneration,
    "rag_token": RagTokenForGeneration,
    "closed_book": AutoModelForSeq2SeqLM,
}


@dataclass(frozen=True)
class TrialModel(ABC):
    """What a trial trains: a stock Transformers network and the tokenizer of its answers."""

    network: Any  # Any: Transformers' classes are hardly typed
    generator_tokenizer: PreTrainedTokenizerBase
    trial: TrialSection
    _compiled: dict[nn.Module, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # `generate` fills what a call leaves open from here: no model's own habits slip in.
        self.network.generation_config = generation_config(self)
        self.generator.generation_config = generation_config(self)

    @property
    def kind(self) -> ModelType:
        """When the model marginalises over passages, if it reads any."""
        return self.trial.model.type

    @property
    @abstractmethod
    def generator(self) -> PreTrainedModel:
        """The sequence-to-sequence part."""

    @property
    @abstractmethod
    def parts(self) -> list[nn.Module]:
        """What the network is made of, each with weights of its own."""

    @property
    def frozen(self) -> list[nn.Module]:
        """The parts that are not trained."""
        return []

    @abstractmethod
    def context_builder(self) -> ContextBuilder:
        """Return what joins questions and passages as the generator is to read them."""

    def in_step(self, part: nn.Module) -> Any:  # noqa: ANN401 - hardly typed
        """Return a part as a step calls it: compiled where gradients are kept, if so asked.

        To validate and to answer it runs as it is: a cache that grows by a token at a time
        would be compiled for again and again.
        """
        if not (self.trial.train.compile and torch.is_grad_enabled()):
            return part
        if part not in self._compiled:
            self._compiled[part] = compiled(part)
        return self._compiled[part]

    def start_training(self) -> None:
        """Switch dropout on where weights are trained.

        Models from `from_pretrained` are in evaluation mode, and Lightning leaves them so.
        """
        self.network.train()
        for part in self.frozen:
            part.eval()
        if self._is_adapted:
            unmerge(self.network)

    def stop_training(self) -> None:
        """Switch dropout off, and have the weights be those that `save` writes."""
        self.network.eval()
        if self._is_adapted:
            merge(self.network)

    @property
    def _is_adapted(self) -> bool:
        return self.trial.model.lora.rank is not None

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizers, decoding settings and `trial.json`."""
        self.stop_training()
        weights = plain_weights(self.network) if self._is_adapted else None
        self.network.save_pretrained(folder, state_dict=weights)
        self._save_tokenizers(folder)
        generation_config(self).save_pretrained(folder)
        (folder / TRIAL_FILE).write_text(
            json.dumps(self._settings(), indent=2) + "\n", encoding="utf-8"
        )

    @abstractmethod
    def _save_tokenizers(self, folder: Path) -> None: ...

    def _settings(self) -> dict[str, object]:
        return {"trial": self.trial.model_dump(mode="json")}


@dataclass(frozen=True)
class RagModel(TrialModel):
    """Question encoder and generator as one RAG model, and how questions are pooled."""

    network: RagSequenceForGeneration | RagTokenForGeneration
    question_tokenizer: PreTrainedTokenizerBase
    pooling: Pooling

    @property
    def question_encoder(self) -> nn.Module:
        """The part that turns questions into vectors."""
        return self.network.rag.question_encoder

    @property
    @override
    def generator(self) -> PreTrainedModel:
        return self.network.rag.generator

    @property
    @override
    def parts(self) -> list[nn.Module]:
        return [self.question_encoder, self.generator]

    @property
    @override
    def frozen(self) -> list[nn.Module]:
        settings = self.trial.model
        parts = {
            self.question_encoder: settings.freeze_question_encoder,
            self.generator: settings.freeze_generator,
        }
        return [part for part, is_frozen in parts.items() if is_frozen]

    def encode_questions(self, questions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Return the vectors passages are searched with, gradients kept."""
        tokens = self.question_tokenizer(
            list(questions),
            padding=True,
            truncation=True,
            max_length=self.trial.train.max_source_length,
            return_tensors="pt",
        ).to(self.network.device)
        output = self.in_step(self.question_encoder)(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return pool(
            output, tokens["attention_mask"], self.pooling, normalise=self.trial.model.normalise
        )

    @override
    def context_builder(self) -> ContextBuilder:
        return ContextBuilder.of_trial(self.generator_tokenizer, self.trial)

    @override
    def _save_tokenizers(self, folder: Path) -> None:
        # the two folders `RagTokenizer` reads
        self.question_tokenizer.save_pretrained(folder / _QUESTION_TOKENIZER)
        self.generator_tokenizer.save_pretrained(folder / _GENERATOR_TOKENIZER)

    @override
    def _settings(self) -> dict[str, object]:
        return super()._settings() | {"pooling": self.pooling}


@dataclass(frozen=True)
class ClosedBookModel(TrialModel):
    """A generator that answers from its weights alone: what retrieval is measured against."""

    @property
    @override
    def generator(self) -> PreTrainedModel:
        generator: PreTrainedModel = self.network
        return generator

    @property
    @override
    def parts(self) -> list[nn.Module]:
        return [self.network]

    @override
    def context_builder(self) -> ContextBuilder:
        return ContextBuilder(
            self.generator_tokenizer,
            self.trial.train.max_context_length,
            self.trial.model.prefix,
            doc_separator="",
        )

    @override
    def _save_tokenizers(self, folder: Path) -> None:
        self.generator_tokenizer.save_pretrained(folder)


def assemble(trial: TrialSection) -> TrialModel:
    """Open the parts of a trial's model and join them, ready to train.

    Returns:
        A model in float32 with the weights of its parts.

    Raises:
        BadInputError: If a part cannot be loaded or lacks a setting the trial asks for, or a
            compiler is missing.
    """
    check_compiler(trial)
    is_closed = trial.model.type == "closed_book"
    model = _assemble_closed_book(trial) if is_closed else _assemble_rag(trial)
    for part in model.parts:
        if part in model.frozen:
            part.requires_grad_(requires_grad=False)
        else:
            _prepare(part, trial)
    return model


def _prepare(part: nn.Module, trial: TrialSection) -> None:
    """Have a part be trained as the trial wants it."""
    if trial.model.lora.rank is not None:
        add_adapters(part, trial.model.lora)
    if trial.train.gradient_checkpointing:
        keep_no_activations(part, trial)


def _assemble_rag(trial: TrialSection) -> RagModel:
    encoder, question_tokenizer, pooling = open_question_encoder(trial.model)
    generator, tokenizer = open_generator(trial)
    check_length(trial, "max_source_length", encoder.config)
    check_length(trial, "max_context_length", generator.config)
    config = _rag_config(trial, encoder.config, generator.config)
    network = _CLASSES[trial.model.type](config, question_encoder=encoder, generator=generator)
    return RagModel(network, tokenizer, trial, question_tokenizer, pooling)


def _assemble_closed_book(trial: TrialSection) -> ClosedBookModel:
    generator, tokenizer = open_generator(trial)
    check_length(trial, "max_context_length", generator.config)
    return ClosedBookModel(generator, tokenizer, trial)


def load(folder: Path, *, encoder_only: bool = False) -> TrialModel:
    """Open a folder written by `TrialModel.save`, ready to answer.

    Args:
        folder: The folder.
        encoder_only: Leave the generator's weights unread: the model can encode questions,
            and nothing else.

    Returns:
        The model as it was saved, on the CPU, in evaluation mode.

    Raises:
        BadInputError: If the folder is not such a folder.
    """
    for name in (TRIAL_FILE, "config.json"):  # without the latter Transformers invents one
        if not (folder / name).is_file():
            raise BadInputError.single(
                folder, f"no {name} here; give a folder written by `ragsearch export`"
            )
    try:
        settings = json.loads((folder / TRIAL_FILE).read_text(encoding="utf-8"))
        trial = TrialSection.model_validate(settings["trial"])
        open_network = open_encoder_only if encoder_only else open_whole
        network = open_network(folder, _CLASSES[trial.model.type])
        network.train(mode=False)
        if trial.model.type == "closed_book":
            return ClosedBookModel(network, _tokenizer(folder), trial)
        return RagModel(
            network,
            _tokenizer(folder / _GENERATOR_TOKENIZER),
            trial,
            _tokenizer(folder / _QUESTION_TOKENIZER),
            settings["pooling"],
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadInputError.single(
            folder, f"cannot be read: {first_line(error)}; export the model again"
        ) from error


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    check_vocabulary(tokenizer, folder.name)
    return tokenizer


def generation_config(model: TrialModel) -> GenerationConfig:
    """Return the trial's decoding settings and the generator's special tokens, nothing else."""
    generator, decode = model.generator.config, model.trial.decode
    return GenerationConfig(  # type: ignore[no-untyped-call] # Transformers leaves it so
        max_length=decode.max_length + 1,  # Transformers counts the start token too
        num_beams=decode.num_beams,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        decoder_start_token_id=_decoder_start(generator),
        bos_token_id=getattr(generator, "bos_token_id", None),  # T5 has no such key
        eos_token_id=generator.eos_token_id,
        pad_token_id=generator.pad_token_id,
    )


def shift_right(model: TrialModel, labels: Int64[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Return the decoder's input for labels: the start token first, the last one off."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = _decoder_start(model.generator.config)
    return shifted


def _decoder_start(config: PreTrainedConfig) -> int:
    start = getattr(config, "decoder_start_token_id", None)
    return int(config.bos_token_id if start is None else start)


def _rag_config(
    trial: TrialSection, encoder: PreTrainedConfig, generator: PreTrainedConfig
) -> RagConfig:
    config: RagConfig = RagConfig.from_question_encoder_generator_configs(  # type: ignore[assignment] # declared too widely
        encoder,
        generator,
        n_docs=trial.retrieval.n_docs,
        max_combined_length=trial.train.max_context_length,
        title_sep=trial.model.title_separator,
        doc_sep=trial.model.doc_separator,
        # DPR may project its vectors, BERT never does
        retrieval_vector_size=getattr(encoder, "projection_dim", 0) or encoder.hidden_size,
        index_name="custom",
        do_deduplication=True,
        label_smoothing=float(trial.regularisation.label_smoothing),
    )
    # Stock code asks for keys that Transformers 5.23 does not give: AttributeError.
    asked: Any = config.generator  # Any: these keys are declared nowhere
    asked.prefix = trial.model.prefix  # RagRetriever
    if not hasattr(asked, "bos_token_id"):  # RagSequence, of T5
        asked.bos_token_id = None
    return config
