"""Real models and data, as small as they go, built on the spot: folders Transformers opens.

Every function writes into a folder (made if need be), is deterministic by `seed` and takes
less than a second. Tokenizers know every ASCII character (WordPiece) or every byte (BPE), so
any text tokenises. Models have random weights: shapes and gradients are real, answers are
nonsense.
"""

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DPRConfig,
    DPRContextEncoder,
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoder,
    DPRQuestionEncoderTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SYLLABLES = ("ba", "bex", "do", "fin", "ga", "ke", "lan", "mo", "nir", "os", "tu", "vel")
PAIRS = {"geography": ("capital", "coastline"), "people": ("largest city", "median age")}
ASKED = {
    "capital": "What is the capital of {}?",
    "coastline": "How long is the coastline of {}?",
    "largest city": "Which city is the largest in {}?",
    "median age": "What is the median age in {}?",
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GENERATOR_VOCABULARY = 400


class Fact(NamedTuple):
    """One value of one invented country, and the passage that states it."""

    passage: str
    country: str
    key: str
    value: str


@dataclass(frozen=True)
class Tiny:
    """Folders and files of one set of tiny things, as the `tiny` fixture gives them."""

    root: Path
    question_encoder: Path
    """DPR question encoder, 32 wide."""
    context_encoder: Path
    """DPR context encoder with the question encoder's weights."""
    bert: Path
    """BERT, 32 wide, to be mean-pooled."""
    t5: Path
    bart: Path
    corpus: Path
    """40 passages."""
    train: Path
    """24 questions."""
    val: Path
    """8 questions about other passages than `train`."""


def tiny_everything(root: Path, seed: int = 0) -> Tiny:
    """Return one of each, built below `root`."""
    train, val = tiny_questions(root / "data", seed=seed)
    return Tiny(
        root=root,
        question_encoder=tiny_dpr(root / "question_encoder", "question", seed=seed),
        context_encoder=tiny_dpr(root / "context_encoder", "context", seed=seed),
        bert=tiny_bert(root / "bert", seed=seed),
        t5=tiny_t5(root / "t5", seed=seed),
        bart=tiny_bart(root / "bart", seed=seed),
        corpus=tiny_corpus(root / "data", seed=seed),
        train=train,
        val=val,
    )


def tiny_dpr(
    folder: Path,
    kind: Literal["question", "context"] = "question",
    dim: int = 32,
    seed: int = 0,
) -> Path:
    """Return the folder, now a DPR encoder; equal seeds give both kinds equal weights."""
    question = kind == "question"
    encoder = DPRQuestionEncoder if question else DPRContextEncoder
    tokenizer = DPRQuestionEncoderTokenizerFast if question else DPRContextEncoderTokenizerFast
    with _seeded(seed):
        model = encoder(DPRConfig(**_bert_shape(dim)))
    _save(folder, model, tokenizer(vocab=_wordpieces(), model_max_length=256))
    return folder


def tiny_bert(folder: Path, dim: int = 32, seed: int = 0) -> Path:
    """Return the folder, now a plain BERT encoder to be mean-pooled."""
    with _seeded(seed):
        model = BertModel(BertConfig(**_bert_shape(dim)), add_pooling_layer=False)
    _save(folder, model, BertTokenizerFast(vocab=_wordpieces(), model_max_length=256))
    return folder


def tiny_t5(folder: Path, seed: int = 0) -> Path:
    """Return the folder, now a T5 generator: pad 0, eos 1, decoder start 0."""
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2}
    config = T5Config(
        vocab_size=GENERATOR_VOCABULARY,
        num_layers=2,
        num_decoder_layers=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        **shape,
    )
    with _seeded(seed):
        model = T5ForConditionalGeneration(config)
    _save(folder, model, _bpe(("<pad>", "</s>", "<unk>"), "$A </s>"))
    return folder


def tiny_bart(folder: Path, seed: int = 0) -> Path:
    """Return the folder, now a BART generator: bos 0, pad 1, eos 2, decoder start 2."""
    config = BartConfig(
        vocab_size=GENERATOR_VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=512,
        forced_eos_token_id=None,
    )
    with _seeded(seed):
        model = BartForConditionalGeneration(config)
    _save(folder, model, _bpe(("<s>", "<pad>", "</s>", "<unk>"), "<s> $A </s>"))
    return folder


def tiny_corpus(folder: Path, n: int = 40, seed: int = 0) -> Path:
    """Return `corpus.jsonl`, now `n` passages about invented countries."""
    rows: dict[str, dict[str, str]] = {}
    for fact in _facts(n, seed):
        topic = fact.passage.partition("-")[2]
        title = f"{fact.country} - {topic.capitalize()}"
        row = rows.setdefault(fact.passage, {"id": fact.passage, "title": title, "text": ""})
        row["text"] = f"{row['text']} {fact.key.capitalize()}: {fact.value}.".strip()
    return _write(folder / "corpus.jsonl", rows.values())


def tiny_questions(
    folder: Path, n_train: int = 24, n_val: int = 8, n: int = 40, seed: int = 0
) -> tuple[Path, Path]:
    """Return `train.jsonl` and `val.jsonl`: questions on the corpus of equal `n` and `seed`."""
    facts = list(_facts(n, seed))
    assert n_train + n_val <= len(facts), f"{n} passages state only {len(facts)} facts"
    train = [_question(fact) for fact in facts[:n_train]]
    val = [_question(fact) for fact in facts[len(facts) - n_val :]]
    return _write(folder / "train.jsonl", train), _write(folder / "val.jsonl", val)


def _question(fact: Fact) -> dict[str, object]:
    return {
        "id": f"{fact.passage}-{fact.key.replace(' ', '-')}",
        "question": ASKED[fact.key].format(fact.country),
        "answers": [fact.value],
        "passage_ids": [fact.passage],
    }


def _facts(n: int, seed: int) -> Iterator[Fact]:
    """Yield two facts a passage, passages two a country, the same for equal arguments."""
    chance = random.Random(seed)
    names = [f"{first}{last}".capitalize() for first in SYLLABLES for last in SYLLABLES]
    chance.shuffle(names)
    for number in range(n):
        country = names[number // 2 % len(names)]
        topic = list(PAIRS)[number % 2]
        for key in PAIRS[topic]:
            yield Fact(f"c{number // 2}-{topic}", country, key, _value(key, names, chance))


def _value(key: str, names: list[str], chance: random.Random) -> str:
    if key == "coastline":
        return f"{chance.randrange(1, 999)} km"
    if key == "median age":
        return f"{chance.randrange(15, 55)} years"
    return chance.choice(names)


def _bert_shape(dim: int) -> dict[str, float]:
    return {
        "vocab_size": len(_wordpieces()),
        "hidden_size": dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * dim,
        "max_position_embeddings": 256,
        "initializer_range": 0.5,  # at the usual 0.02 all texts get nearly the same vector
    }


def _wordpieces() -> dict[str, int]:
    """Return a lower-case vocabulary: special tokens, words of the corpus, all of ASCII."""
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({
        word for text in (*PAIRS, *ASKED, *ASKED.values()) for word in _words(text)
    })
    pieces = [*SPECIAL, *signs, *words, *SYLLABLES]
    pieces += [f"##{piece}" for piece in (*signs, *SYLLABLES)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _words(text: str) -> list[str]:
    return [word for word in text.lower().strip("?").split() if word.isalpha()]


def _bpe(special: tuple[str, ...], template: str) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer whose special tokens have the ids of their places."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # encoding begins every text with a space; decoding takes it away again
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=GENERATOR_VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    facts = list(_facts(400, seed=0))
    tokenizer.train_from_iterator([f"{fact.country} {fact.key}" for fact in facts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[
            (word, special.index(word)) for word in template.split() if word != "$A"
        ],
    )
    bos = {"bos_token": "<s>", "cls_token": "<s>"} if "<s>" in special else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **bos,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw weights from a seed and leave torch's own random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
