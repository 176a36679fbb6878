"""Tokenizers as BART and T5 have them, with vocabularies learnt from texts."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BartTokenizer, PreTrainedTokenizerBase, T5Tokenizer

import ragsearch.quickstart
from ragsearch.index.store import Passage

_DATA = Path(ragsearch.quickstart.__file__).parent / "data"
_SIZE = 2000


def quickstart_passages(n: int) -> list[Passage]:
    """Return passages of the quickstart, spread over all of them."""
    rows = (_DATA / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    read = map(json.loads, rows[:: len(rows) // n])
    return [Passage(row["id"], row["id"], row["title"], row["text"]) for row in islice(read, n)]


def quickstart_questions(n: int) -> list[str]:
    """Return questions of the quickstart."""
    with (_DATA / "val.jsonl").open(encoding="utf-8") as file:
        return [json.loads(row)["question"] for row in islice(file, n)]


def bart_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return byte-level BPE: a space belongs to the word behind it."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learnt.train_from_iterator(texts, trainer)
    model = json.loads(learnt.to_str())["model"]
    return BartTokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]])


def t5_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a unigram model over words: spaces are where words begin, and nowhere else."""
    learnt = Tokenizer(models.Unigram())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=_SIZE,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    learnt.train_from_iterator(texts, trainer)
    vocabulary = json.loads(learnt.to_str())["model"]["vocab"]
    return T5Tokenizer([tuple(piece) for piece in vocabulary], extra_ids=0)


def across_spaces_tokenizer() -> PreTrainedTokenizerBase:
    """Return BPE that joins a full stop and the space after it, so heeds no spaces."""
    learnt = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False
    )
    learnt.train_from_iterator(["a. b. c. d. e. f."], trainer)
    model = json.loads(learnt.to_str())["model"]
    tokenizer = BartTokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]])
    tokenizer.backend_tokenizer.pre_tokenizer = None
    return tokenizer
