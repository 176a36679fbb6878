"""Token vectors become one vector a text: DPR's pooler, the first token, or the mean.

Axes: B texts, L tokens, D embedding size.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from ragsearch.index.weights import AskedPooling, Pooling, choose_pooling


def resolve_pooling(
    model_or_config: PreTrainedModel | PreTrainedConfig, asked: AskedPooling
) -> Pooling:
    """Return how this encoder is pooled: `auto` is the pooler for DPR, else the mean.

    Raises:
        BadInputError: If a DPR encoder shall be pooled otherwise.
    """
    is_model = isinstance(model_or_config, PreTrainedModel)
    config = model_or_config.config if is_model else model_or_config
    return choose_pooling({"model_type": config.model_type}, asked, str(config.name_or_path))


def pool(
    output: ModelOutput,
    attention_mask: Int[Tensor, "B L"],
    pooling: Pooling,
    *,
    normalise: bool = False,
) -> Float[Tensor, "B D"]:
    """Return one vector a text, gradients kept.

    Args:
        output: What the encoder returned.
        attention_mask: 1 at tokens, 0 at padding.
        pooling: As `resolve_pooling` returned it.
        normalise: Scale vectors to length 1.
    """
    vectors = _pooled(output, attention_mask, pooling)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors


def _pooled(output: ModelOutput, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "pooler":
        pooled: Tensor = output["pooler_output"]
        return pooled
    tokens: Tensor = output["last_hidden_state"]
    if pooling == "cls":
        return tokens[:, 0]
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
