"""Measure the quickstart models: retrieval, reading, end to end, before and after fine-tuning.

Self-contained and small (exact search, greedy candidates, RAG-Sequence marginalisation), so
that it can judge the shipped weights without the package. Seconds on a GPU, minutes on a CPU.

    python scripts/quickstart_probe.py --learning-rates 3e-5 1e-3 --n-docs 5 --seeds 0 1 2

Axes: Q questions, K passages per question, C candidates per question, T tokens, D embedding
size, N passages.
"""

import argparse
import json
import random
import re
import string
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from quickstart_augment import DOC_SEPARATOR, TITLE_SEPARATOR, Row, country_code, read_rows
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    T5ForConditionalGeneration,
)

Tokenizer = Any  # AutoTokenizer promises a union of two backends, neither of which checks
Model = Any  # Transformers wraps `to` and `generate` in ways mypy cannot follow

QUICKSTART = Path(__file__).parents[1] / "ragsearch" / "quickstart"
WARMUP_STEPS = 10
CHUNK = 1024  # contexts generated from at once
MAX_NEW_TOKENS = 24


@dataclass
class System:
    """Everything that answers a question; the passage vectors are frozen."""

    question_tokenizer: Tokenizer
    tokenizer: Tokenizer
    question_encoder: Model  # DPRQuestionEncoder
    generator: Model  # T5ForConditionalGeneration
    passages: list[Row]
    vectors: Tensor  # [N, D]

    @property
    def device(self) -> torch.device:
        """Where the computing is done."""
        return self.vectors.device


@dataclass(frozen=True)
class FineTuning:
    """One short joint fine-tuning under the marginal loss."""

    learning_rate: float
    n_docs: int = 5
    n_train: int = 800
    n_epochs: int = 2
    batch_size: int = 16
    seed: int = 0


def main() -> None:
    """Print one JSON object a measurement."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    data = arguments.data
    train, rows = (read_rows(data / f"{split}.jsonl") for split in ("train", arguments.split))
    rows = rows[: arguments.n_eval]
    system = load_system(arguments.models, data, torch.device(arguments.device))
    print(json.dumps({"recipe": None} | measure(system, rows, arguments.eval_docs)), flush=True)
    for recipe in _recipes(arguments):
        system = load_system(arguments.models, data, torch.device(arguments.device))
        seconds = fine_tune(system, train, recipe)
        after = measure(system, rows, [recipe.n_docs]) | {"seconds_per_step": seconds}
        print(json.dumps({"recipe": vars(recipe)} | after), flush=True)


def measure(system: System, rows: list[Row], n_docs: list[int]) -> dict[str, Any]:
    """Return retrieval and reading figures and end-to-end exact match by number of passages."""
    ends = {f"em_at_{k}": answer_em(system, rows, k) for k in n_docs}
    return {"recall": recall(system, rows), "reading": reading(system, rows)} | ends


def load_system(models: Path, data: Path, device: torch.device) -> System:
    """Return the shipped models with the corpus encoded."""
    passages = read_rows(data / "passages.jsonl")
    context_tokenizer = AutoTokenizer.from_pretrained(models / "context_encoder")
    context_encoder: Model = DPRContextEncoder.from_pretrained(models / "context_encoder")
    question_encoder: Model = DPRQuestionEncoder.from_pretrained(models / "question_encoder")
    generator: Model = T5ForConditionalGeneration.from_pretrained(models / "generator")
    vectors = embed_passages(context_encoder.to(device), context_tokenizer, passages)
    return System(
        AutoTokenizer.from_pretrained(models / "question_encoder"),
        AutoTokenizer.from_pretrained(models / "generator"),
        question_encoder.to(device),
        generator.to(device),
        passages,
        vectors,
    )


@torch.no_grad()
def embed_passages(encoder: Model, tokenizer: Tokenizer, passages: list[Row]) -> Tensor:
    """Return the passage vectors [N, D]."""
    vectors = []
    for start in range(0, len(passages), 256):
        part = passages[start : start + 256]
        titles, texts = [row["title"] for row in part], [row["text"] for row in part]
        tokens = tokenizer(titles, texts, padding=True, truncation=True, return_tensors="pt")
        vectors.append(encoder(**tokens.to(encoder.device)).pooler_output)
    return torch.cat(vectors)


def embed_questions(system: System, questions: list[str]) -> Tensor:
    """Return the question vectors [Q, D]; gradients flow."""
    tokens = system.question_tokenizer(questions, padding=True, return_tensors="pt")
    vectors: Tensor = system.question_encoder(**tokens.to(system.device)).pooler_output
    return vectors


@torch.no_grad()
def recall(system: System, rows: list[Row]) -> dict[str, float]:
    """Return how often a gold passage is among the first 1, 2, 5 and 10, and the top weight."""
    scores = embed_questions(system, [row["question"] for row in rows]) @ system.vectors.T
    best = scores.topk(10)
    lines = [[system.passages[i]["id"] for i in line] for line in best.indices.tolist()]
    pairs = list(zip(rows, lines, strict=True))
    found = {
        f"at_{k}": _mean(
            not set(line[:k]).isdisjoint(row["passage_ids"]) for row, line in pairs
        )
        for k in (1, 2, 5, 10)
    }
    country = _mean(country_code(row["id"]) == country_code(line[0]) for row, line in pairs)
    weight = best.values[:, :5].softmax(dim=1)[:, 0].mean().item()
    return found | {"country_at_1": country, "top_weight_of_5": round(weight, 4)}


@torch.no_grad()
def reading(system: System, rows: list[Row]) -> dict[str, float]:
    """Return exact match from the gold passage, as written and lower-cased, and without one."""
    by_id = {row["id"]: place for place, row in enumerate(system.passages)}
    golds = [by_id[row["passage_ids"][0]] for row in rows]
    raw = [row["question"] for row in rows]
    tokens = system.question_tokenizer(raw).input_ids
    low = system.question_tokenizer.batch_decode(tokens, skip_special_tokens=True)
    contexts = {
        "gold_em": [_context(system, g, q) for g, q in zip(golds, raw, strict=True)],
        "gold_lowered_em": [_context(system, g, q) for g, q in zip(golds, low, strict=True)],
        "closed_book_em": [TITLE_SEPARATOR + DOC_SEPARATOR + q for q in raw],
    }
    return {name: _em(_generate(system, texts), rows) for name, texts in contexts.items()}


@torch.no_grad()
def answer_em(system: System, rows: list[Row], n_docs: int) -> float:
    """Return end-to-end exact match: one candidate a passage, scored under all."""
    answers: list[str] = []
    for start in range(0, len(rows), 64):
        questions = [row["question"] for row in rows[start : start + 64]]
        answers += _answer(system, questions, n_docs)
    return _em(answers, rows)


def fine_tune(system: System, rows: list[Row], recipe: FineTuning) -> float:
    """Train question encoder and generator in place.

    Returns:
        Seconds per step.
    """
    batches = list(_batches(rows[: recipe.n_train], recipe))
    parameters = [*system.question_encoder.parameters(), *system.generator.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP_STEPS, 1.0 - step / len(batches))
    )
    started = time.perf_counter()
    for batch in batches:
        loss: Any = marginal_loss(system, batch, recipe.n_docs)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    return round((time.perf_counter() - started) / len(batches), 4)


def _batches(rows: list[Row], recipe: FineTuning) -> Iterator[list[Row]]:
    dice = random.Random(recipe.seed)  # noqa: S311  # reproducible, nothing secret
    for _ in range(recipe.n_epochs):
        shuffled = dice.sample(rows, len(rows))
        for start in range(0, len(rows), recipe.batch_size):
            yield shuffled[start : start + recipe.batch_size]


def marginal_loss(system: System, rows: list[Row], n_docs: int) -> Tensor:
    """Return the RAG-Sequence negative log-likelihood per target token (Lewis et al. 2020)."""
    questions = [row["question"] for row in rows]
    doc_scores, contexts = _retrieve(system, questions, n_docs)
    labels = _tokens(system, [row["answers"][0] for row in rows])[0]  # [Q, T]
    ids, mask = _tokens(system, contexts)
    states = system.generator.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    repeated = labels.repeat_interleave(n_docs, dim=0)
    sequence = _log_likelihood(system, states, mask, repeated).view(len(rows), n_docs)
    nll = -(doc_scores.log_softmax(dim=1) + sequence).logsumexp(dim=1)
    return nll.sum() / (labels != 0).sum()


def _answer(system: System, questions: list[str], n_docs: int) -> list[str]:
    doc_scores, contexts = _retrieve(system, questions, n_docs)
    candidates = _generate(system, contexts)  # C = K, question by question
    ids, mask = _tokens(system, contexts)
    states: Any = system.generator.encoder(ids, attention_mask=mask).last_hidden_state
    labels = _tokens(system, candidates)[0].view(len(questions), n_docs, -1)
    paired = labels.repeat_interleave(n_docs, dim=0).flatten(0, 1)  # [Q K C, T]: each
    likelihoods = [  # question's candidates under each of its contexts
        _log_likelihood(system, *rows)
        for rows in zip(
            torch.split(states.repeat_interleave(n_docs, dim=0), CHUNK),
            torch.split(mask.repeat_interleave(n_docs, dim=0), CHUNK),
            torch.split(paired, CHUNK),
            strict=True,
        )
    ]
    by_context = torch.cat(likelihoods).view(len(questions), n_docs, n_docs)  # [Q, K, C]
    marginal = (doc_scores.log_softmax(dim=1)[:, :, None] + by_context).logsumexp(dim=1)
    best = marginal.argmax(dim=1).tolist()
    return [candidates[n_docs * place + c] for place, c in enumerate(best)]


def _retrieve(system: System, questions: list[str], n_docs: int) -> tuple[Tensor, list[str]]:
    queries = embed_questions(system, questions)
    places = (queries.detach() @ system.vectors.T).topk(n_docs).indices  # [Q, K]
    doc_scores = (queries[:, None] * system.vectors[places]).sum(dim=2)
    contexts = [
        _context(system, place, question)
        for question, line in zip(questions, places.tolist(), strict=True)
        for place in line
    ]
    return doc_scores, contexts


def _context(system: System, place: int, question: str) -> str:
    title, text = (str(system.passages[place][key]) for key in ("title", "text"))
    return title + TITLE_SEPARATOR + text + DOC_SEPARATOR + question


def _tokens(system: System, texts: list[str]) -> tuple[Tensor, Tensor]:
    tokens = system.tokenizer(texts, padding=True, return_tensors="pt").to(system.device)
    return tokens.input_ids, tokens.attention_mask


def _log_likelihood(system: System, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    output = system.generator(
        encoder_outputs=(states,),
        attention_mask=mask,
        labels=labels.masked_fill(labels == 0, -100),
    )
    tokens = output.logits.log_softmax(dim=2).gather(2, labels[:, :, None])[:, :, 0]
    likelihood: Tensor = (tokens * (labels != 0)).sum(dim=1)
    return likelihood


def _generate(system: System, contexts: list[str]) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(contexts), CHUNK):
        ids, mask = _tokens(system, contexts[start : start + CHUNK])
        output = system.generator.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, num_beams=1
        )
        answers += system.tokenizer.batch_decode(output, skip_special_tokens=True)
    return answers


def _em(answers: list[str], rows: list[Row]) -> float:
    return _mean(
        _normalised(answer) in {_normalised(gold) for gold in row["answers"]}
        for answer, row in zip(answers, rows, strict=True)
    )


def _normalised(text: str) -> str:
    """Return the text as SQuAD compares it."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _mean(values: Iterable[bool]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4)


def _recipes(arguments: argparse.Namespace) -> Iterator[FineTuning]:
    for seed, n_docs in product(arguments.seeds, arguments.n_docs):
        for rate in arguments.learning_rates:
            size = (arguments.n_train, arguments.n_epochs, arguments.batch)
            yield FineTuning(rate, n_docs, *size, seed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=QUICKSTART / "models")
    parser.add_argument("--data", type=Path, default=QUICKSTART / "data")
    parser.add_argument("--split", default="val", help="look at test once, at the end")
    parser.add_argument("--n-eval", type=int, default=None, help="questions; default all")
    parser.add_argument("--eval-docs", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--learning-rates", type=float, nargs="*", default=[])
    parser.add_argument("--n-docs", type=int, nargs="*", default=[5])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--n-train", type=int, default=800)
    parser.add_argument("--n-epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
