"""The marginal likelihood of an answer, for RAG-Sequence and RAG-Token.

Equations 1 and 2 of Lewis et al. 2020 (arXiv 2005.11401). Differs from Transformers'
`get_nll` on purpose: every label counts, so that an answer of one token still trains the
question encoder, and the caller divides by target tokens, so that the loss does not grow with
the batch.

Axes: B questions, K passages per question, T answer tokens, V vocabulary.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

RagType = Literal["rag_sequence", "rag_token"]


class MarginalLoss(NamedTuple):
    """Sums over the tokens of each answer, in nats."""

    nll: Float[Tensor, "B"]
    """-log p(answer | question)."""
    smoothed: Float[Tensor, "B"]
    """The same with label smoothing: what training minimises."""
    n_tokens: Int64[Tensor, "B"]
    """Label tokens of each answer, its end token included."""


def marginal_loss(
    kind: RagType,
    logits: Float[Tensor, "BK T V"],
    doc_scores: Float[Tensor, "B K"],
    labels: Int64[Tensor, "B T"],
    label_mask: Bool[Tensor, "B T"],
    label_smoothing: float = 0.0,
) -> MarginalLoss:
    """Marginalise over passages once an answer (rag_sequence) or at every token (rag_token).

    Args:
        kind: Which of the two models.
        logits: Generator's logits; row b * K + k is question b read with passage k.
        doc_scores: Inner products of question and passage; -inf where there is no passage.
        labels: Answer tokens; `logits[:, t]` predicts `labels[:, t]`.
        label_mask: True where a label counts.
        label_smoothing: Share of the target spread evenly over the vocabulary.
    """
    batch, n_docs = doc_scores.shape
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    log_probs = log_probs.view(batch, n_docs, *log_probs.shape[1:])
    doc_log_probs = torch.log_softmax(doc_scores.float(), dim=-1)
    marginal = _sequence_marginal if kind == "rag_sequence" else _token_marginal
    likelihood, smooth = marginal(log_probs, doc_log_probs, labels, label_mask)
    vocabulary = logits.shape[-1]
    smoothed = (1.0 - label_smoothing) * likelihood + label_smoothing / vocabulary * smooth
    return MarginalLoss(-likelihood, -smoothed, label_mask.sum(dim=-1))


def _sequence_marginal(
    log_probs: Float[Tensor, "B K T V"],
    doc_log_probs: Float[Tensor, "B K"],
    labels: Int64[Tensor, "B T"],
    label_mask: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    targets = labels[:, None, :, None].expand(-1, log_probs.shape[1], -1, 1)
    mask = label_mask[:, None]
    token = log_probs.gather(-1, targets).squeeze(-1).masked_fill(~mask, 0.0)
    smooth = log_probs.sum(dim=-1).masked_fill(~mask, 0.0)
    vocabulary = log_probs.shape[-1]
    return (
        torch.logsumexp(token.sum(dim=-1) + doc_log_probs, dim=-1),
        torch.logsumexp(smooth.sum(dim=-1) + vocabulary * doc_log_probs, dim=-1),
    )


def _token_marginal(
    log_probs: Float[Tensor, "B K T V"],
    doc_log_probs: Float[Tensor, "B K"],
    labels: Int64[Tensor, "B T"],
    label_mask: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    marginal = torch.logsumexp(log_probs + doc_log_probs[:, :, None, None], dim=1)
    token = marginal.gather(-1, labels[..., None]).squeeze(-1)
    smooth = marginal.sum(dim=-1)
    return (
        token.masked_fill(~label_mask, 0.0).sum(dim=-1),
        smooth.masked_fill(~label_mask, 0.0).sum(dim=-1),
    )
