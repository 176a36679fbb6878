"""The quickstart's generator: a tiny T5 that looks facts up in one passage and copies them.

From ordinary random weights a T5 of this size does not learn to copy in minutes; three circuits
are therefore written into the first weights, each in a subspace of its own: attend to the
previous token, attend to equal tokens, and go on copying where the last written token stands
(induction, Olsson et al. 2022). Training on re-told countries then makes it a reader. It ends
with batches whose padding is not masked: stock RAG-Sequence generates from contexts padded to
300 tokens without the encoder's mask, and a reader that never met padding falls silent there.

Axes: B batch, S source tokens, T target tokens.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from quickstart_augment import Example, Material, context, examples
from torch import Tensor, nn
from transformers import (
    DPRQuestionEncoderTokenizerFast,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

Model = Any  # mypy takes attributes of a torch module for tensors
MAX_SOURCE, MAX_TARGET = 128, 20
LOWERED_SHARE = 0.5  # of the questions; stock RagRetriever feeds the uncased decode
BUCKET = 50  # batches sorted by length together
UNMASKED_LENGTHS = (0, 128, 200, 300)  # tokens at least; stock RagRetriever pads to 300


@dataclass(frozen=True)
class ReaderRecipe:
    """How the generator is built and trained."""

    d_model: int = 128
    n_layers: int = 2
    d_ff: int = 256
    n_examples: int = 250_000
    n_steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 2e-3
    wrong_share: float = 0.1  # of the inputs carry a passage that does not hold the answer
    n_padded_steps: int = 1500  # the last ones, some of whose batches have unmasked padding
    padded_batch_size: int = 64
    padded_learning_rate: float = 5e-4
    unmasked_share: float = 0.6  # of those batches
    seed: int = 1  # the better of 0 and 1 on val


def new_reader(recipe: ReaderRecipe, n_vocabulary: int) -> T5ForConditionalGeneration:
    """Return an untrained T5 with the copying circuits written in."""
    torch.manual_seed(recipe.seed)
    config = T5Config(  # type: ignore[call-arg]  # keywords of the base class
        vocab_size=n_vocabulary,
        d_model=recipe.d_model,
        d_kv=recipe.d_model // 4,
        num_heads=4,
        d_ff=recipe.d_ff,
        num_layers=recipe.n_layers,
        num_decoder_layers=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        bos_token_id=None,  # RagSequenceForGeneration reads it
        tie_word_embeddings=True,
    )
    model = T5ForConditionalGeneration(config)
    _write_circuits(model, recipe.seed)
    return model


def train_reader(
    model: Model,
    material: Material,
    tokenizers: tuple[PreTrainedTokenizerFast, DPRQuestionEncoderTokenizerFast],
    recipe: ReaderRecipe,
    device: torch.device,
) -> None:
    """Train in place on single passages; no marginalisation, that is left to fine-tuning."""
    shown = list(islice(examples(material, recipe.seed + 20), recipe.n_examples))
    rows = _tokenise(shown, *tokenizers, recipe)
    model.to(device).train()
    masked = _batches(*rows, recipe.batch_size, recipe.seed)
    _fit(model, ((*batch, batch[0] != 0) for batch in masked), recipe.n_steps, recipe)
    recipe = replace(recipe, learning_rate=recipe.padded_learning_rate)
    batches = _batches(*rows, recipe.padded_batch_size, recipe.seed + 1)
    _fit(model, _some_unmasked(batches, recipe), recipe.n_padded_steps, recipe)


def _fit(
    model: Model,
    batches: Iterator[tuple[Tensor, Tensor, Tensor]],
    n_steps: int,
    recipe: ReaderRecipe,
) -> None:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=max(n_steps, 1), pct_start=0.04
    )
    for step, batch in enumerate(islice(batches, n_steps)):
        ids, labels, mask = (part.to(model.device) for part in batch)
        labels = labels.masked_fill(labels == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"reader step {step} loss {loss.item():.3f}", flush=True)


def _some_unmasked(
    batches: Iterator[tuple[Tensor, Tensor]], recipe: ReaderRecipe
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Add masks, and let some batches carry padding that no mask hides."""
    dice = random.Random(recipe.seed)  # noqa: S311  # reproducible, nothing secret
    for ids, labels in batches:
        if dice.random() < recipe.unmasked_share:
            missing = max(dice.choice(UNMASKED_LENGTHS) - ids.shape[1], 0)
            padded = nn.functional.pad(ids, (0, missing))
            yield padded, labels, torch.ones_like(padded)
        else:
            yield ids, labels, ids != 0


@torch.no_grad()
def _write_circuits(model: Model, seed: int, strength: float = 3.0) -> None:
    d_model, d_kv = model.config.d_model, model.config.d_kv
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))[0]
    here, before, *equal = (rotation[i * d_kv : (i + 1) * d_kv] for i in range(4))
    _write_previous_token(model.encoder.block[0].layer[0].SelfAttention, here, before, strength)
    for block in model.encoder.block[1:]:
        _write_equal_tokens(block.layer[0].SelfAttention, equal)
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        attention.v.weight.copy_(torch.eye(d_model))
        attention.o.weight.copy_(torch.eye(d_model) * strength / len(model.decoder.block))
        attention.q.weight[:d_kv] = 0.5 * here  # look for the place whose previous token
        attention.k.weight[:d_kv] = 0.5 * before  # is the one just written


def _write_previous_token(
    attention: Model, here: Tensor, before: Tensor, strength: float
) -> None:
    """Head 0 copies the previous token's `here` coordinates into `before`."""
    bias = attention.relative_attention_bias.weight  # [bucket, head]; bucket 1: one token back
    bias.zero_()
    bias[1, 0] = 8.0
    bias[1:6, 1] = 3.0  # head 1: a window of five tokens back
    attention.v.weight[: len(here)] = here
    attention.o.weight[:, : len(here)] = strength * before.T


def _write_equal_tokens(attention: Model, subspaces: list[Tensor]) -> None:
    """Heads 2 and 3 attend from a token to its equals, such as label in question and text."""
    for head, subspace in enumerate(subspaces, start=2):
        rows = slice(head * len(subspace), (head + 1) * len(subspace))
        attention.q.weight[rows] = 0.35 * subspace
        attention.k.weight[rows] = 0.35 * subspace


def _tokenise(
    shown: list[Example],
    tokenizer: PreTrainedTokenizerFast,
    question_tokenizer: DPRQuestionEncoderTokenizerFast,
    recipe: ReaderRecipe,
) -> tuple[Tensor, Tensor]:
    dice = random.Random(recipe.seed)  # noqa: S311  # reproducible, nothing secret
    lowered = question_tokenizer.batch_decode(
        question_tokenizer([example.question for example in shown]).input_ids,
        skip_special_tokens=True,
    )
    sources = []
    for example, low in zip(shown, lowered, strict=True):
        question = low if dice.random() < LOWERED_SHARE else example.question
        wrong = dice.choice((example.same_country, example.same_topic))
        passage = wrong if dice.random() < recipe.wrong_share else example.gold
        sources.append(context(passage, question))
    targets = [example.answer for example in shown]
    return _encode(tokenizer, sources, MAX_SOURCE), _encode(tokenizer, targets, MAX_TARGET)


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int) -> Tensor:
    rows = tokenizer(texts, truncation=True, max_length=max_length).input_ids
    ids = torch.zeros(len(rows), max_length, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids


def _trimmed(ids: Tensor) -> Tensor:
    return ids[:, : int((ids != 0).sum(dim=1).max())]


def _batches(
    sources: Tensor, targets: Tensor, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield sources and targets of similar length, so that little is computed on padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (sources != 0).sum(dim=1)
    while True:
        rows = torch.randint(len(sources), (BUCKET * batch_size,), generator=generator)
        batches = rows[lengths[rows].argsort()].view(BUCKET, batch_size)
        for number in torch.randperm(BUCKET, generator=generator).tolist():
            chosen = batches[number]
            yield _trimmed(sources[chosen]), _trimmed(targets[chosen])
