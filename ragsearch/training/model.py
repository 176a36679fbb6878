"""The RAG model of a trial: assembled from two pretrained parts, saved, and loaded again.

In: the `trial` section of a space file, or a folder written by `RagModel.save`. Out: stock
`RagSequenceForGeneration` or `RagTokenForGeneration` with both tokenizers. A saved folder
opens in plain Transformers; `trial.json` beside it keeps what Transformers has no place for.

Axes: B questions, L question tokens, D embedding size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
)

from ragsearch.errors import BadInputError
from ragsearch.index.encoder import Pooling, pool
from ragsearch.spec import TrialSection
from ragsearch.training.contexts import DOC_SEPARATOR, TITLE_SEPARATOR
from ragsearch.training.encoder_only import open_encoder_only
from ragsearch.training.loss import RagType
from ragsearch.training.parts import (
    check_complete,
    first_line,
    no_progress_bar,
    open_generator,
    open_question_encoder,
)

TRIAL_FILE = "trial.json"
_QUESTION_TOKENIZER, _GENERATOR_TOKENIZER = "question_encoder_tokenizer", "generator_tokenizer"
RagNetwork = RagSequenceForGeneration | RagTokenForGeneration
_CLASSES: dict[RagType, Any] = {  # Any: their constructors and loaders are hardly typed
    "rag_sequence": RagSequenceForGeneration,
    "rag_token": RagTokenForGeneration,
}


@dataclass(frozen=True)
class RagModel:
    """A stock Transformers RAG model, its two tokenizers, and how questions are pooled."""

    network: RagNetwork
    question_tokenizer: PreTrainedTokenizerBase
    generator_tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    trial: TrialSection

    def __post_init__(self) -> None:
        # `generate` fills what a call leaves open from here: no model's own habits slip in.
        self.network.generation_config = generation_config(self)
        self.generator.generation_config = generation_config(self)

    @property
    def kind(self) -> RagType:
        """When the model marginalises: once an answer or at every token."""
        return self.trial.model.type

    @property
    def question_encoder(self) -> nn.Module:
        """The part that turns questions into vectors."""
        return self.network.rag.question_encoder

    @property
    def generator(self) -> PreTrainedModel:
        """The sequence-to-sequence part."""
        return self.network.rag.generator

    def encode_questions(self, questions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Return the vectors passages are searched with, gradients kept."""
        tokens = self.question_tokenizer(
            list(questions),
            padding=True,
            truncation=True,
            max_length=self.trial.train.max_source_length,
            return_tensors="pt",
        ).to(self.network.device)
        output = self.question_encoder(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return pool(
            output, tokens["attention_mask"], self.pooling, normalise=self.trial.model.normalise
        )

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizers, decoding settings and `trial.json`."""
        self.network.save_pretrained(folder)
        # the two folders `RagTokenizer` reads
        self.question_tokenizer.save_pretrained(folder / _QUESTION_TOKENIZER)
        self.generator_tokenizer.save_pretrained(folder / _GENERATOR_TOKENIZER)
        generation_config(self).save_pretrained(folder)
        settings = {"trial": self.trial.model_dump(mode="json"), "pooling": self.pooling}
        (folder / TRIAL_FILE).write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )


def assemble(trial: TrialSection) -> RagModel:
    """Join a question encoder and a generator into one RAG model, ready to train.

    Returns:
        A model in float32 with the weights of its two parts.

    Raises:
        BadInputError: If a part cannot be loaded or lacks a setting the trial asks for.
    """
    settings = trial.model
    encoder, question_tokenizer, pooling = open_question_encoder(settings)
    generator, generator_tokenizer = open_generator(trial)
    _check_lengths(trial, encoder.config, generator.config)
    config = _rag_config(trial, encoder.config, generator.config)
    network: RagNetwork = _CLASSES[settings.type](
        config, question_encoder=encoder, generator=generator
    )
    if settings.freeze_question_encoder:
        for parameter in encoder.parameters():
            parameter.requires_grad = False
    return RagModel(network, question_tokenizer, generator_tokenizer, pooling, trial)


def load(folder: Path, *, encoder_only: bool = False) -> RagModel:
    """Open a folder written by `RagModel.save`, ready to answer.

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
        open_network = open_encoder_only if encoder_only else _open_whole
        network: RagNetwork = open_network(folder, _CLASSES[trial.model.type])
        network.train(mode=False)
        return RagModel(
            network,
            AutoTokenizer.from_pretrained(folder / _QUESTION_TOKENIZER),
            AutoTokenizer.from_pretrained(folder / _GENERATOR_TOKENIZER),
            settings["pooling"],
            trial,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadInputError.single(
            folder, f"cannot be read: {first_line(error)}; export the model again"
        ) from error


def _open_whole(folder: Path, rag_class: Any) -> Any:  # noqa: ANN401 - hardly typed
    with no_progress_bar():
        network, loading = rag_class.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    check_complete(loading["missing_keys"])
    return network


def generation_config(model: RagModel) -> GenerationConfig:
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


def shift_right(model: RagModel, labels: Int64[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
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
        title_sep=TITLE_SEPARATOR,
        doc_sep=DOC_SEPARATOR,
        # DPR may project its vectors, BERT never does
        retrieval_vector_size=getattr(encoder, "projection_dim", 0) or encoder.hidden_size,
        index_name="custom",
        do_deduplication=True,
        label_smoothing=float(trial.regularisation.label_smoothing),
    )
    # T5 has no such key, and stock RagSequence asks for it: AttributeError in 5.23.
    if not hasattr(config.generator, "bos_token_id"):
        cast("PreTrainedConfig", config.generator).bos_token_id = None
    return config


def _check_lengths(
    trial: TrialSection, encoder: PreTrainedConfig, generator: PreTrainedConfig
) -> None:
    for key, config in (("max_source_length", encoder), ("max_context_length", generator)):
        asked = getattr(trial.train, key)
        most = getattr(config, "max_position_embeddings", None)
        if most is not None and asked > most:
            raise BadInputError.single(
                config.name_or_path,
                f"reads at most {most} tokens, not {asked}; lower the key",
                key=f"trial.train.{key}",
            )
