"""What is trained in the bench: models with random weights, and questions of invented words.

Folders that Transformers opens: a DPR question encoder and a BART generator. The large ones
have the shape of BERT-base and BART-base, vocabularies included. The tokenizers know the words
of the made passages; the generator's makes about 140 tokens of a passage of 100 words, as
BART's own does of 100 English words.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRQuestionEncoder,
    DPRQuestionEncoderTokenizerFast,
    PreTrainedTokenizerFast,
)

from ragsearch.bench.indexes import WORDS
from ragsearch.bench.train_plan import Size
from ragsearch.data.questions import Question
from ragsearch.training.parts import no_progress_bar

_KNOWN_SHARE = 0.72  # of the words, those that are one token
_QUESTION_WORDS = 10
_MOST_ANSWER_WORDS = 4
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, slots=True)
class _Shape:
    width: int
    encoder_layers: int
    """Of the question encoder."""
    layers: int
    """Of the generator's encoder, and as many of its decoder."""
    heads: int
    encoder_vocabulary: int
    vocabulary: int
    spread: float
    """Of the question encoder's weights: less, and all questions find the same passages."""


_SHAPES = {
    Size.TINY: _Shape(128, 2, 2, 2, 1000, 1000, 0.2),
    Size.BASE: _Shape(768, 12, 6, 12, 30_522, 50_265, 0.05),
}


@dataclass(frozen=True, slots=True)
class BenchModels:
    """Folders of the two parts."""

    question_encoder: Path
    generator: Path
    dimension: int
    """Width of a question's vector."""


def make_models(size: Size, folder: Path) -> BenchModels:
    """Return a question encoder and a generator, written below a folder."""
    shape = _SHAPES[size]
    made = BenchModels(folder / "question_encoder", folder / "generator", shape.width)
    with _seeded(), no_progress_bar():
        DPRQuestionEncoder(DPRConfig(**_bert(shape))).save_pretrained(made.question_encoder)
        BartForConditionalGeneration(BartConfig(**_bart(shape))).save_pretrained(made.generator)
    _wordpiece().save_pretrained(made.question_encoder)
    _bpe().save_pretrained(made.generator)
    return made


def make_questions(number: int) -> list[Question]:
    """Return questions in the words of the passages, with answers of a few words."""
    chance = random.Random(0)  # noqa: S311 (no secret)
    return [
        Question(
            id=str(row),
            question=" ".join(chance.choices(WORDS, k=_QUESTION_WORDS)),
            answers=(" ".join(chance.choices(WORDS, k=chance.randint(1, _MOST_ANSWER_WORDS))),),
            passage_ids=(),
        )
        for row in range(number)
    ]


def _bert(shape: _Shape) -> Mapping[str, Any]:  # Any: Transformers' own contract
    return {
        "vocab_size": shape.encoder_vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.encoder_layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "max_position_embeddings": 512,
        "initializer_range": shape.spread,
    }


def _bart(shape: _Shape) -> Mapping[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "d_model": shape.width,
        "encoder_layers": shape.layers,
        "decoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": 4 * shape.width,
        "decoder_ffn_dim": 4 * shape.width,
        "max_position_embeddings": 1024,
        "forced_eos_token_id": None,
    }


def _wordpiece() -> DPRQuestionEncoderTokenizerFast:
    """Return a tokenizer to which every word is one token."""
    vocabulary = {piece: number for number, piece in enumerate((*_SPECIAL, *WORDS))}
    return DPRQuestionEncoderTokenizerFast(vocab=vocabulary, model_max_length=512)


def _bpe() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer as BART's, with the special tokens at BART's places."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # encoding begins every text with a space; decoding takes it away again
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    chance = random.Random(0)  # noqa: S311 (no secret)
    known = chance.sample(WORDS, int(_KNOWN_SHARE * len(WORDS)))
    tokenizer.train_from_iterator([*known, "Topic"] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        cls_token="<s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw weights from a seed and leave torch's own random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
