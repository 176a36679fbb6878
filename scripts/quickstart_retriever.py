"""The quickstart's DPR pair: a lexical matcher by construction, then trained by contrast.

Both encoders start with the same random word vectors and a first layer in which [CLS] averages
them, rare words weighing more: two texts that share a rare word point the same way, whether or
not the word was ever trained on. Contrast against in-batch passages and another passage of the
same country does the rest.

Axes: B batch, T tokens, D embedding size.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from quickstart_augment import Example, Material, examples
from torch import Tensor, nn
from transformers import (
    DPRConfig,
    DPRContextEncoder,
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoder,
    DPRQuestionEncoderTokenizerFast,
)

Model = Any  # mypy takes attributes of a torch module for tensors
FINAL_GAIN = 0.35  # gain² * D bounds an inner product: 16 at D = 128, a usable temperature


@dataclass(frozen=True)
class RetrieverRecipe:
    """How the pair is built and trained."""

    hidden_size: int = 128
    n_layers: int = 2
    n_examples: int = 100_000
    n_steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    natural_share: float = 0.0  # of the queries; the rest are "label country" keywords
    seed: int = 0


class Pair(NamedTuple):
    """Question and context encoder."""

    question: DPRQuestionEncoder
    context: DPRContextEncoder


class Tokens(NamedTuple):
    """Padded token ids and segment ids of one kind of text."""

    ids: Tensor  # [N, T]
    segments: Tensor  # [N, T]


def new_pair(recipe: RetrieverRecipe, weights: Tensor) -> Pair:
    """Return an untrained pair; `weights` holds how much each vocabulary entry should count."""
    torch.manual_seed(recipe.seed)
    config = DPRConfig(
        vocab_size=len(weights),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=4,
        intermediate_size=2 * recipe.hidden_size,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        projection_dim=0,
    )
    pair = Pair(DPRQuestionEncoder(config), DPRContextEncoder(config))
    pair.context.ctx_encoder.load_state_dict(pair.question.question_encoder.state_dict())
    for encoder in (pair.question.question_encoder, pair.context.ctx_encoder):
        _write_matcher(encoder.bert_model, weights, recipe.seed)
    return pair


def word_weights(lines: list[str], tokenizer: DPRQuestionEncoderTokenizerFast) -> Tensor:
    """Return log inverse document frequency of every vocabulary entry, scaled to [0, 1]."""
    counts: Counter[int] = Counter()
    for ids in tokenizer(lines, add_special_tokens=False).input_ids:
        counts.update(set(ids))
    scale = math.log(len(lines) + 1)
    rarity = [math.log((len(lines) + 1) / (counts[i] + 1)) for i in range(len(tokenizer))]
    rarity[: len(tokenizer.all_special_ids)] = [0.0] * len(tokenizer.all_special_ids)
    return torch.tensor(rarity) / scale


def train_pair(
    pair: Pair,
    material: Material,
    tokenizers: tuple[DPRQuestionEncoderTokenizerFast, DPRContextEncoderTokenizerFast],
    recipe: RetrieverRecipe,
    device: torch.device,
) -> None:
    """Train both encoders in place; raw inner products, so scores come out as logits."""
    shown = list(islice(examples(material, recipe.seed + 10), recipe.n_examples))
    queries, golds, hards = _tokenise(shown, *tokenizers, recipe)
    question_encoder: Model = pair.question.to(device)  # type: ignore[arg-type]
    passage_encoder: Model = pair.context.to(device)  # type: ignore[arg-type]
    parameters = [*pair.question.parameters(), *pair.context.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.n_steps, pct_start=0.05
    )
    for step, rows in enumerate(_batches(len(shown), recipe)):
        vectors = encode(question_encoder, queries, rows, device)
        passages = torch.cat([
            encode(passage_encoder, side, rows, device) for side in (golds, hards)
        ])
        loss: Any = nn.functional.cross_entropy(
            vectors @ passages.T, torch.arange(len(rows), device=device)
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            print(f"retriever step {step} loss {loss.item():.3f}", flush=True)


def encode(
    encoder: Model,
    texts: Tokens,
    rows: Tensor,
    device: torch.device,
) -> Tensor:
    """Return the vectors [B, D] of some rows."""
    ids = texts.ids[rows]
    length = int((ids != 0).sum(dim=1).max())
    ids = ids[:, :length].to(device)
    segments = texts.segments[rows, :length].to(device)
    output = encoder(ids, attention_mask=(ids != 0).long(), token_type_ids=segments)
    vectors: Tensor = output.pooler_output
    return vectors


@torch.no_grad()
def _write_matcher(bert: Model, weights: Tensor, seed: int) -> None:
    """Write the averaging circuit into a fresh BertModel."""
    generator = torch.Generator().manual_seed(seed)
    size = bert.config.hidden_size
    words = torch.randn(len(weights), size, generator=generator)
    words[:, 0] = 4.0 * weights  # the first coordinate says how much a word counts
    bert.embeddings.word_embeddings.weight.copy_(words)
    for table in (bert.embeddings.position_embeddings, bert.embeddings.token_type_embeddings):
        table.weight.mul_(0.5)
    attention = bert.encoder.layer[0].attention
    inner = attention.self
    inner.key.weight.zero_()
    heads = inner.num_attention_heads
    inner.key.weight[:: size // heads, 0] = 1.0  # each head's first coordinate reads the weight
    inner.query.weight.mul_(0.1)
    inner.query.bias.zero_()
    inner.query.bias[:: size // heads] = 1.5 * math.sqrt(size / heads)
    inner.value.weight.copy_(torch.eye(size))
    attention.output.dense.weight.copy_(6.0 * torch.eye(size))
    bert.encoder.layer[-1].output.LayerNorm.weight.fill_(FINAL_GAIN)


def _tokenise(
    shown: list[Example],
    question_tokenizer: DPRQuestionEncoderTokenizerFast,
    context_tokenizer: DPRContextEncoderTokenizerFast,
    recipe: RetrieverRecipe,
) -> tuple[Tokens, Tokens, Tokens]:
    n_natural = round(recipe.natural_share * len(shown))
    asked = [e.question if i < n_natural else e.keywords for i, e in enumerate(shown)]
    queries = _padded(question_tokenizer(asked))
    sides = ([example.gold for example in shown], [example.same_country for example in shown])
    golds, hards = (
        _padded(context_tokenizer([p.title for p in side], [p.text for p in side]))
        for side in sides
    )
    return queries, golds, hards


def _padded(encoding: dict[str, list[list[int]]]) -> Tokens:
    ids, segments = encoding["input_ids"], encoding.get("token_type_ids")
    segments = segments or [[0] * len(row) for row in ids]
    return Tokens(*(_rectangle(rows) for rows in (ids, segments)))


def _rectangle(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def _batches(n_rows: int, recipe: RetrieverRecipe) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.n_steps):
        yield torch.randint(n_rows, (recipe.batch_size,), generator=generator)
