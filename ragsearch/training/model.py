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

from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from ragsearch.errors import BadInputError
from ragsearch.index.encoder import Pooling, load_text_model, load_tokenizer, pool
from ragsearch.spec import TrialSection
from ragsearch.training.contexts import DOC_SEPARATOR, TITLE_SEPARATOR
from ragsearch.training.loss import RagType

TRIAL_FILE = "trial.json"
_CLASSES = {
    "rag_sequence": RagSequenceForGeneration,
    "rag_token": RagTokenForGeneration,
}
_DROPOUT_KEYS = ("dropout", "dropout_rate")  # BART's word, T5's word


@dataclass(frozen=True)
class RagModel:
    """A stock Transformers RAG model, its two tokenizers, and how questions are pooled."""

    network: RagSequenceForGeneration | RagTokenForGeneration
    question_tokenizer: PreTrainedTokenizerBase
    generator_tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    trial: TrialSection

    @property
    def kind(self) -> RagType:
        """Tell when the model marginalises: once an answer or at every token."""
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
        """Turn questions into the vectors passages are searched with, gradients kept."""
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
        RagTokenizer(self.question_tokenizer, self.generator_tokenizer).save_pretrained(folder)
        generation_config(self).save_pretrained(folder)
        settings = {"trial": self.trial.model_dump(mode="json"), "pooling": self.pooling}
        (folder / TRIAL_FILE).write_text(json.dumps(settings, indent=2) + "\n")


def assemble(trial: TrialSection) -> RagModel:
    """Join a question encoder and a generator into one RAG model, ready to train.

    Raises:
        BadInputError: If a part cannot be loaded or lacks a setting the trial asks for.
    """
    settings = trial.model
    encoder, pooling = load_text_model(settings.question_encoder, pooling=settings.pooling)
    generator = _load_generator(trial)
    generator_tokenizer = load_tokenizer(settings.generator)
    _check_answers_end(generator_tokenizer, settings.generator)
    config = RagConfig.from_question_encoder_generator_configs(
        encoder.config,
        generator.config,
        n_docs=trial.retrieval.n_docs,
        max_combined_length=trial.train.max_context_length,
        title_sep=TITLE_SEPARATOR,
        doc_sep=DOC_SEPARATOR,
        retrieval_vector_size=encoder.config.hidden_size,
        index_name="custom",
        do_deduplication=True,
        label_smoothing=float(trial.regularisation.label_smoothing),
    )
    # T5 has no such key, and stock RagSequence asks for it: AttributeError in 5.23.
    if not hasattr(config.generator, "bos_token_id"):
        config.generator.bos_token_id = None
    network = _CLASSES[settings.type](config, question_encoder=encoder, generator=generator)
    if settings.freeze_question_encoder:
        network.rag.question_encoder.requires_grad_(requires_grad=False)
    return RagModel(
        network, load_tokenizer(settings.question_encoder), generator_tokenizer, pooling, trial
    )


def load(folder: Path) -> RagModel:
    """Open a folder written by `RagModel.save`, ready to answer.

    Raises:
        BadInputError: If the folder is not such a folder.
    """
    settings_file = folder / TRIAL_FILE
    if not settings_file.is_file():
        raise BadInputError.single(
            folder, f"no {TRIAL_FILE} here; give a folder written by `ragsearch export`"
        )
    settings = json.loads(settings_file.read_text())
    trial = TrialSection.model_validate(settings["trial"])
    network = _CLASSES[trial.model.type].from_pretrained(folder, use_safetensors=True)
    network.eval()
    return RagModel(
        network,
        AutoTokenizer.from_pretrained(folder / "question_encoder_tokenizer"),
        AutoTokenizer.from_pretrained(folder / "generator_tokenizer"),
        settings["pooling"],
        trial,
    )


def generation_config(model: RagModel) -> GenerationConfig:
    """Give every decoding setting explicitly, so that no model's own default slips in."""
    generator, decode = model.generator.config, model.trial.decode
    return GenerationConfig(
        max_length=decode.max_length,
        num_beams=decode.num_beams,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        decoder_start_token_id=_decoder_start(generator),
        bos_token_id=generator.bos_token_id,
        eos_token_id=generator.eos_token_id,
        pad_token_id=generator.pad_token_id,
    )


def shift_right(model: RagModel, labels: Tensor) -> Tensor:
    """Give the decoder's input for these labels: the start token first, the last one off."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = _decoder_start(model.generator.config)
    return shifted


def _decoder_start(config: PreTrainedConfig) -> int:
    start = config.decoder_start_token_id
    return int(config.bos_token_id if start is None else start)


def _load_generator(trial: TrialSection) -> PreTrainedModel:
    name = trial.model.generator
    try:
        config = AutoConfig.from_pretrained(name)
        _set_dropout(config, trial)
        return AutoModelForSeq2SeqLM.from_pretrained(name, config=config)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError.single(
            name, f"cannot be loaded as a generator: {reason}", key="trial.model.generator"
        ) from error


def _set_dropout(config: PreTrainedConfig, trial: TrialSection) -> None:
    settings = trial.regularisation
    key = next((key for key in _DROPOUT_KEYS if hasattr(config, key)), None)
    if key is None:
        what = f"a {config.model_type} generator has no dropout to set"
        raise BadInputError.single(trial.model.generator, what, key="regularisation.dropout")
    setattr(config, key, float(settings.dropout))
    if settings.attention_dropout is None:
        return
    if not hasattr(config, "attention_dropout"):
        what = f"a {config.model_type} generator has no attention dropout; leave the key out"
        raise BadInputError.single(
            trial.model.generator, what, key="regularisation.attention_dropout"
        )
    config.attention_dropout = float(settings.attention_dropout)


def _check_answers_end(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if tokenizer("an answer")["input_ids"][-1] != tokenizer.eos_token_id:
        raise BadInputError.single(
            name,
            "the tokenizer does not end a text with its end token, so answers would never end; "
            "give it a post-processor that does",
            key="trial.model.generator",
        )
