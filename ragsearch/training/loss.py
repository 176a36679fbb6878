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
from torch.nn import functional

from ragsearch.errors import RagsearchError

ModelType = Literal["rag_sequence", "rag_token", "closed_book"]


class DivergedError(RagsearchError):
    """Loss or weights became NaN, infinite or absurd; such a trial is not worth repeating."""


class MarginalLoss(NamedTuple):
    """Sums over the tokens of each answer, in nats."""

    nll: Float[Tensor, " B"]
    """-log p(answer | question)."""
    smoothed: Float[Tensor, " B"]
    """The same with label smoothing: what training minimises."""
    n_tokens: Int64[Tensor, " B"]
    """Label tokens of each answer, its end token included."""
    joint: Float[Tensor, "B K"]
    """log p(passage, answer | question) of each passage; its softmax is p(passage | question,
    answer)."""


def marginal_loss(
    kind: ModelType,
    logits: Float[Tensor, "BK T V"],
    doc_scores: Float[Tensor, "B K"],
    labels: Int64[Tensor, "B T"],
    label_mask: Bool[Tensor, "B T"],
    label_smoothing: float = 0.0,
) -> MarginalLoss:
    """Marginalise over passages once an answer (rag_sequence) or at every token (rag_token).

    Args:
        kind: Which of the models; closed_book has one context a question, and so nothing to
            marginalise over.
        logits: Generator's logits; row b * K + k is question b read with passage k.
        doc_scores: Inner products of question and passage; -inf where there is no passage, but
            each question has at least one.
        labels: Answer tokens; `logits[:, t]` predicts `labels[:, t]`.
        label_mask: True where a label counts.
        label_smoothing: Share of the target spread evenly over the vocabulary.

    Returns:
        One figure a question, or a passage of it; nothing is averaged.
    """
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    doc_log_probs = torch.log_softmax(doc_scores.float(), dim=-1)
    n_tokens = label_mask.sum(dim=-1)
    token = _likelihoods(log_probs, doc_log_probs, labels)
    joint = _joint(token, doc_log_probs, label_mask)
    if kind == "rag_sequence":
        nll = -torch.logsumexp(joint, dim=-1)
    else:
        marginal = torch.logsumexp(token + doc_log_probs[:, :, None], dim=1)
        nll = -marginal.masked_fill(~label_mask, 0.0).sum(dim=-1)
    if not label_smoothing:
        return MarginalLoss(nll, nll, n_tokens, joint.detach())
    uniform = -_over_vocabulary(kind, log_probs, doc_log_probs, label_mask) / logits.shape[-1]
    smoothed = (1.0 - label_smoothing) * nll + label_smoothing * uniform
    return MarginalLoss(nll, smoothed, n_tokens, joint.detach())


def _likelihoods(
    log_probs: Float[Tensor, "BK T V"],
    doc_log_probs: Float[Tensor, "B K"],
    labels: Int64[Tensor, "B T"],
) -> Float[Tensor, "B K T"]:
    """Return log p(token | question, passage, tokens before) of the labels."""
    targets = labels.repeat_interleave(doc_log_probs.shape[1], dim=0)
    nll = functional.nll_loss(log_probs.flatten(0, 1), targets.flatten(), reduction="none")
    return -nll.view(*doc_log_probs.shape, -1)


def _over_vocabulary(
    kind: ModelType,
    log_probs: Float[Tensor, "BK T V"],
    doc_log_probs: Float[Tensor, "B K"],
    label_mask: Bool[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Return the sum over every token of the vocabulary, as Transformers' smoothing has it."""
    if kind == "rag_sequence":
        token = log_probs.sum(dim=-1).view(*doc_log_probs.shape, -1)
        joint = _joint(token, log_probs.shape[-1] * doc_log_probs, label_mask)
        return torch.logsumexp(joint, dim=-1)
    by_passage = log_probs.view(*doc_log_probs.shape, *log_probs.shape[1:])
    marginal = torch.logsumexp(by_passage + doc_log_probs[:, :, None, None], dim=1)
    return marginal.sum(dim=-1).masked_fill(~label_mask, 0.0).sum(dim=-1)


def _joint(
    token: Float[Tensor, "B K T"],
    doc_log_probs: Float[Tensor, "B K"],
    label_mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B K"]:
    return token.masked_fill(~label_mask[:, None], 0.0).sum(dim=-1) + doc_log_probs
