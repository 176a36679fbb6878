"""Check with stock Transformers alone that an exported model answers as ragsearch says.

Imports only transformers, datasets and faiss (inside Transformers) and torch. In: a bundle and
the output of `ragsearch ask --json`. Out: how many answers are the same. With `--hf-retriever`
also: exact match of stock code end to end, over the index that `ragsearch export
--hf-retriever` wrote.

    ragsearch ask DIR "question 1" "question 2" --json > asked.jsonl
    python scripts/stock_check.py DIR asked.jsonl
    python scripts/stock_check.py DIR asked.jsonl --hf-retriever --data val.jsonl

RAG-Sequence needs mending first (`mend`), and end to end both ways are scored. In Transformers
5.23 the generator reads the contexts without their attention mask, so padding as if it were
text; and where the padding token has id 0, as in T5, beam search fills up shorter answers with
end tokens (`pad_token_id or eos_token_id`), which then count against them. Not mended: a
candidate without words is scored regardless of the document scores, which favours it; trained
models seldom have one.
"""

import argparse
import json
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    GenerationConfig,
    RagConfig,
    RagRetriever,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)


class Stock(NamedTuple):
    """What stock Transformers opens a bundle as."""

    model: RagSequenceForGeneration | RagTokenForGeneration
    tokenizer: RagTokenizer
    settings: GenerationConfig


def load(bundle: Path, retriever: RagRetriever | None = None) -> Stock:
    """Open a bundle, the model with the class it was saved from."""
    name = RagConfig.from_pretrained(bundle).architectures[0]
    sequence = name == RagSequenceForGeneration.__name__
    kind = RagSequenceForGeneration if sequence else RagTokenForGeneration
    model = kind.from_pretrained(bundle, use_safetensors=True).eval()
    if retriever is not None:
        model.set_retriever(retriever)  # `from_pretrained(retriever=)` fails for RAG-Token
    tokenizer = RagTokenizer.from_pretrained(bundle)
    return Stock(model, tokenizer, GenerationConfig.from_pretrained(bundle))


def mend(stock: Stock) -> None:
    """Have a RAG-Sequence model ignore padding, in contexts and in candidates."""
    plain, tokenizer = stock.model.generator.generate, stock.tokenizer.generator
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id

    def generate(input_ids: torch.Tensor, **settings: object) -> torch.Tensor:
        settings |= {"attention_mask": (input_ids != pad).long()}
        ids = plain(input_ids, **settings)
        ended = (ids[:, 1:] == end).cumsum(dim=1) > 0  # a decoder may start with the end token
        ids[:, 2:][ended[:, :-1]] = pad
        return ids

    stock.model.generator.generate = generate


def answer_from(stock: Stock, asked: dict) -> str:
    """Answer from the contexts and document scores that ragsearch reports."""
    stock.model.config.n_docs = len(asked["contexts"])  # RAG-Sequence reads it here only
    tokens = stock.tokenizer.generator(
        asked["contexts"],
        padding=True,
        truncation=True,
        max_length=stock.model.config.max_combined_length,
        return_tensors="pt",
    )
    return generate(
        stock,
        context_input_ids=tokens["input_ids"],
        context_attention_mask=tokens["attention_mask"],
        doc_scores=torch.tensor([asked["doc_scores"]]),
        n_docs=len(asked["contexts"]),
    )


def answer_alone(stock: Stock, question: str) -> str:
    """Answer with stock retrieval, one question at a time."""
    tokens = stock.tokenizer.question_encoder(question, return_tensors="pt")
    return generate(
        stock, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    )


def generate(stock: Stock, **inputs: object) -> str:
    """Generate by the bundle's settings; RAG-Sequence wants the beams by themselves."""
    config = stock.settings
    ids = stock.model.generate(**inputs, num_beams=config.num_beams, generation_config=config)
    return stock.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()


def normalise(text: str) -> str:
    """Normalise an answer as SQuAD's evaluation does."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def is_exact(prediction: str, answers: list[str]) -> bool:
    """Tell whether a prediction is one of the answers."""
    return normalise(prediction) in {normalise(answer) for answer in answers}


def read_json(path: Path) -> Iterator[dict]:
    """Read JSON documents, one after the other or in a list."""
    text, decoder = path.read_text(encoding="utf-8").strip(), json.JSONDecoder()
    while text:
        value, end = decoder.raw_decode(text)
        yield from value if isinstance(value, list) else [value]
        text = text[end:].lstrip()


def compare(bundle: Path, asked_file: Path) -> int:
    """Print how many answers are the same, and those that are not; count the latter."""
    stock = load(bundle)
    if isinstance(stock.model, RagSequenceForGeneration):
        mend(stock)
    n_asked = n_same = 0
    for asked in read_json(asked_file):
        said = answer_from(stock, asked)
        n_asked, n_same = n_asked + 1, n_same + (said == asked["answer"])
        if said != asked["answer"]:
            print(f"differs: {asked['question']!r}: {said!r}, not {asked['answer']!r}")
    print(f"same answers: {n_same} of {n_asked}")
    return n_asked - n_same


def end_to_end(bundle: Path, data: Path, limit: int | None) -> None:
    """Print exact match of stock code over the exported index, as it is and mended."""
    config = RagConfig.from_pretrained(bundle)
    retriever = RagRetriever.from_pretrained(
        bundle,
        index_name="custom",
        passages_path=str(bundle / config.passages_path),
        index_path=str(bundle / config.index_path),
    )
    stock, questions = load(bundle, retriever), list(read_json(data))[:limit]
    print(f"end to end, as it is: {score(stock, questions)}")
    if isinstance(stock.model, RagSequenceForGeneration):
        mend(stock)
        print(f"end to end, mended: {score(stock, questions)}")


def score(stock: Stock, questions: list[dict]) -> str:
    """Give exact match over questions, answered with stock retrieval."""
    said = ((answer_alone(stock, row["question"]), row["answers"]) for row in questions)
    n_exact = sum(is_exact(answer, answers) for answer, answers in said)
    return f"exact match {n_exact / len(questions):.4f} of {len(questions)} questions"


def main() -> None:
    """Run the checks; exit 1 if an answer differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="folder written by `ragsearch export`")
    parser.add_argument("asked", type=Path, help="output of `ragsearch ask --json`")
    parser.add_argument("--hf-retriever", action="store_true", help="also retrieve with it")
    parser.add_argument("--data", type=Path, help="questions for --hf-retriever, jsonl")
    parser.add_argument("--limit", type=int, help="use the first so many of them")
    arguments = parser.parse_args()
    if arguments.hf_retriever and not arguments.data:
        parser.error("--hf-retriever needs --data")
    with torch.no_grad():
        n_different = compare(arguments.bundle, arguments.asked)
        if arguments.hf_retriever:
            end_to_end(arguments.bundle, arguments.data, arguments.limit)
    sys.exit(min(n_different, 1))


if __name__ == "__main__":
    main()
