"""Answers from contexts: thorough decoding for RAG-Sequence, one beam search for the others.

Lewis et al. 2020, section 2.5. The beam search is Transformers' own. RAG-Sequence is ours:
`RagSequenceForGeneration.generate` of Transformers 5.23 drops the contexts' attention mask, so
that the generator attends to padding, and scores with the configured number of passages
whatever it was given. So is a step of RAG-Token (`training.marginal`).

Axes: B questions, K passages per question, S context tokens, C candidates, T answer tokens.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ragsearch.training.contexts import Contexts
from ragsearch.training.encoded import Encoded, encode_contexts
from ragsearch.training.loss import marginal_loss
from ragsearch.training.marginal import decode_marginally
from ragsearch.training.model import TrialModel, generation_config

_MOST_BYTES = 64 << 20
_COPIES_OF_LOGITS = 3  # logits, their softmax, and what the loss picks of it


@torch.no_grad()
def generate_answers(
    model: TrialModel,
    contexts: Contexts,
    doc_scores: Float[Tensor, "B K"],
    encoded: Encoded | None = None,
) -> list[str]:
    """Return the most likely answer to each question, by the trial's decoding settings.

    Args:
        model: In evaluation mode.
        contexts: What the generator reads.
        doc_scores: -inf where there is no passage.
        encoded: The contexts encoded, by whom that was done already.
    """
    encoded = encoded or encode_contexts(model, contexts)
    if model.kind == "rag_sequence":
        return _texts(model, _decode_thoroughly(encoded, doc_scores))
    # without a passage there is one context a question, which weighs 1
    return _texts(model, decode_marginally(encoded, doc_scores))


def _texts(model: TrialModel, tokens: Iterable[Int64[Tensor, " T"]]) -> list[str]:
    rows = [row.tolist() for row in tokens]
    texts = model.generator_tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _decode_thoroughly(encoded: Encoded, doc_scores: Float[Tensor, "B K"]) -> list[Tensor]:
    """Search each passage for candidates, then score every candidate with every passage.

    Returns:
        The labels of one answer a question, end token included, padded.
    """
    model, n_docs = encoded.model, doc_scores.shape[1]
    n_beams = model.trial.decode.num_beams
    settings = generation_config(model)
    settings.num_return_sequences = n_beams
    generator: Any = model.generator  # Any: hardly typed
    sequences: Tensor = generator.generate(
        **encoded.kwargs(n_beams), generation_config=settings
    )
    labels = sequences[:, 1:]  # the decoder's start token is not part of an answer
    found = (doc_scores > -torch.inf).repeat_interleave(n_beams, dim=1)
    candidates = [
        _distinct(rows[of_passages])
        for rows, of_passages in zip(
            labels.view(-1, n_docs * n_beams, labels.shape[1]), found, strict=True
        )
    ]
    return _best(encoded, doc_scores, candidates)


def _distinct(candidates: Int64[Tensor, "C T"]) -> list[Int64[Tensor, " T"]]:
    return list({tuple(row.tolist()): row for row in candidates}.values())


def _best(
    encoded: Encoded, doc_scores: Float[Tensor, "B K"], candidates: list[list[Tensor]]
) -> list[Tensor]:
    """Return the candidate of each question with the largest marginal likelihood.

    Of equals the first; where there is but one, nothing is computed.
    """
    rivals = [
        (number, labels)
        for number, of_question in enumerate(candidates)
        if len(of_question) > 1
        for labels in of_question
    ]
    nll = iter(_nll(encoded, doc_scores, rivals).tolist() if rivals else ())
    answers = []
    for of_question in candidates:
        scores = [next(nll) for _ in of_question] if len(of_question) > 1 else [0.0]
        answers.append(of_question[scores.index(min(scores))])
    return answers


def _nll(
    encoded: Encoded, doc_scores: Float[Tensor, "B K"], rivals: list[tuple[int, Tensor]]
) -> Float[Tensor, " C"]:
    """Return -log p(candidate | question), those of all questions together, by length."""
    n_docs, device = doc_scores.shape[1], doc_scores.device
    numbers = torch.tensor([number for number, _ in rivals], device=device)
    labels = torch.stack([tokens for _, tokens in rivals])
    mask = _until_end(labels, encoded.model.generator.config.eos_token_id)
    lengths, order = mask.sum(dim=-1).sort(stable=True)
    nll = torch.empty(len(rivals), device=device)
    for some in _passes(encoded, n_docs, lengths.tolist()):
        rivals_now, length = order[some], int(lengths[some.stop - 1])
        tokens, counts = labels[rivals_now, :length], mask[rivals_now, :length]
        asked = numbers[rivals_now]
        rows = (asked[:, None] * n_docs + torch.arange(n_docs, device=device)).flatten()
        logits = encoded.logits(tokens.repeat_interleave(n_docs, dim=0), rows)
        loss = marginal_loss("rag_sequence", logits, doc_scores[asked], tokens, counts)
        nll[rivals_now] = loss.nll
    return nll


def _passes(encoded: Encoded, n_docs: int, lengths: list[int]) -> Iterator[slice]:
    """Divide candidates, the short ones first, into forward passes that fit in memory.

    Yields:
        Runs of candidates, at least one in each.
    """
    vocabulary = encoded.model.generator.config.vocab_size
    start = 0
    for stop in range(1, len(lengths) + 1):
        is_last = stop == len(lengths)
        length = lengths[stop - 1] if is_last else lengths[stop]
        row_bytes = encoded.row_bytes + 4 * _COPIES_OF_LOGITS * length * vocabulary
        if is_last or (stop + 1 - start) * n_docs * row_bytes > _MOST_BYTES:
            yield slice(start, stop)
            start = stop


def _until_end(labels: Int64[Tensor, "C T"], eos: int) -> Bool[Tensor, "C T"]:
    """Return which tokens count: those up to the first end token, that one included."""
    ended = (labels == eos).cumsum(dim=-1)
    return (ended == 0) | ((ended == 1) & (labels == eos))
