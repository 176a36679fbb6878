"""The quickstart's two tokenizers, learned from training countries only.

A lower-casing WordPiece for the DPR encoders and a byte-level BPE for the T5 generator. Both
see the real training text and the same re-told under invented names, so that names of countries
they never saw fall into pieces the models have learned to match and copy.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from quickstart_augment import Material, examples, read_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import BertNormalizer
from transformers import (
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoderTokenizerFast,
    PreTrainedTokenizerFast,
)

WORDPIECE_SIZE, BPE_SIZE = 4000, 4000
N_RETOLD = 6000
MIN_FREQUENCY = 8  # a piece seen less often would hardly be trained
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def text_of(data: Path, material: Material) -> list[str]:
    """Return the lines the tokenizers learn from."""
    real = [f"{p.title} / {p.text}" for passages in material.countries for p in passages]
    real += [row["question"] for row in read_rows(data / "train.jsonl")]
    return real * 2 + list(islice(_retold(material), N_RETOLD))


def train_wordpiece(lines: list[str]) -> DPRQuestionEncoderTokenizerFast:
    """Return an uncased WordPiece tokenizer for questions; it fits passages as well."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  # no password
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=WORDPIECE_SIZE,
        min_frequency=MIN_FREQUENCY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    vocabulary = tokenizer.get_vocab()
    for sign in [piece for piece in vocabulary if len(piece) == 1]:
        vocabulary.setdefault(f"##{sign}", len(vocabulary))  # no ASCII word becomes [UNK]
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    return DPRQuestionEncoderTokenizerFast(vocab=ordered, model_max_length=128)


def for_contexts(tokenizer: DPRQuestionEncoderTokenizerFast) -> DPRContextEncoderTokenizerFast:
    """Return the same vocabulary as a tokenizer for (title, text) pairs."""
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return DPRContextEncoderTokenizerFast(vocab=vocabulary, model_max_length=256)


def train_bpe(lines: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that ends every sequence with </s> (pad 0, eos 1)."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # encoding begins every text with a space; decoding takes it away again
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE,
        min_frequency=MIN_FREQUENCY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*lines, *(line.lower() for line in lines)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _retold(material: Material) -> Iterator[str]:
    for example in examples(material, seed=1):
        yield f"{example.gold.title} / {example.gold.text} // {example.question}"
