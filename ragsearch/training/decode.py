"""Answers from contexts: thorough decoding for RAG-Sequence, one beam search for the others.

Lewis et al. 2020, section 2.5. RAG-Token and closed-book are left to Transformers. RAG-Sequence
is ours: `RagSequenceForGeneration.generate` of Transformers 5.23 drops the contexts' attention
mask, so that the generator attends to padding, and scores with the configured number of
passages whatever it was given.

Axes: B questions, K passages per question, S context tokens, C candidates, T answer tokens.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ragsearch.training.contexts import Contexts
from ragsearch.training.loss import marginal_loss
from ragsearch.training.model import TrialModel, generation_config, shift_right


@torch.no_grad()
def generate_answers(
    model: TrialModel, contexts: Contexts, doc_scores: Float[Tensor, "B K"]
) -> list[str]:
    """Return the most likely answer to each question, by the trial's decoding settings."""
    if model.kind == "rag_sequence":
        return _texts(model, _decode_thoroughly(model, contexts, doc_scores))
    inputs = model.generation_inputs(contexts, doc_scores)
    tokens = model.network.generate(**inputs, generation_config=generation_config(model))
    return _texts(model, tokens)


def _texts(model: TrialModel, tokens: Iterable[Int64[Tensor, " T"]]) -> list[str]:
    rows = [row.tolist() for row in tokens]
    texts = model.generator_tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _decode_thoroughly(
    model: TrialModel, contexts: Contexts, doc_scores: Float[Tensor, "B K"]
) -> list[Tensor]:
    """Search each passage for candidates, then score every candidate with every passage.

    Returns:
        The labels of one answer a question, end token included, padded.
    """
    n_docs, n_beams = doc_scores.shape[1], model.trial.decode.num_beams
    mask = contexts.attention_mask
    generator: Any = model.generator  # Any: its parts are found by attribute
    states: Float[Tensor, "BK S D"] = generator.get_encoder()(
        input_ids=contexts.input_ids, attention_mask=mask, return_dict=True
    ).last_hidden_state
    settings = generation_config(model)
    settings.num_return_sequences = n_beams
    sequences: Tensor = generator.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        generation_config=settings,
    )
    labels = sequences[:, 1:]  # the decoder's start token is not part of an answer
    per_question = labels.view(-1, n_docs * n_beams, labels.shape[1])
    answers = []
    for number, candidates in enumerate(per_question):
        rows = slice(number * n_docs, (number + 1) * n_docs)
        width = int(mask[rows].sum(dim=-1).max())  # of these contexts, not of the batch
        encoded = _Encoded(states[rows, :width], mask[rows, :width], doc_scores[number])
        answers.append(encoded.best(model, candidates))
    return answers


class _Encoded:
    """The encoded contexts of one question, against which candidates are scored."""

    def __init__(
        self,
        states: Float[Tensor, "K S D"],
        mask: Int64[Tensor, "K S"],
        doc_scores: Float[Tensor, " K"],
    ) -> None:
        self.states, self.mask, self.doc_scores = states, mask, doc_scores

    def best(self, model: TrialModel, candidates: Int64[Tensor, "C T"]) -> Int64[Tensor, " T"]:
        """Return the candidate with the largest marginal likelihood, the first among equals."""
        found = self.doc_scores > -torch.inf
        of_passages = found.repeat_interleave(len(candidates) // len(found))
        distinct = {tuple(row.tolist()): row for row in candidates[of_passages]}
        unique = torch.stack(list(distinct.values()))
        if len(unique) == 1:
            return unique[0]
        return unique[self._nll(model, unique).argmin()]

    def _nll(self, model: TrialModel, labels: Int64[Tensor, "C T"]) -> Float[Tensor, " C"]:
        n_candidates, n_docs = len(labels), len(self.doc_scores)
        mask = _until_end(labels, model.generator.config.eos_token_id)
        length = int(mask.sum(dim=-1).max())
        labels, mask = labels[:, :length], mask[:, :length]
        logits = model.generator(
            encoder_outputs=BaseModelOutput(
                last_hidden_state=self.states.repeat(n_candidates, 1, 1)
            ),
            attention_mask=self.mask.repeat(n_candidates, 1),
            decoder_input_ids=shift_right(model, labels).repeat_interleave(n_docs, dim=0),
            use_cache=False,
        ).logits
        scores = self.doc_scores.expand(n_candidates, -1)
        return marginal_loss("rag_sequence", logits, scores, labels, mask).nll


def _until_end(labels: Int64[Tensor, "C T"], eos: int) -> Bool[Tensor, "C T"]:
    """Return which tokens count: those up to the first end token, that one included."""
    ended = (labels == eos).cumsum(dim=-1)
    return (ended == 0) | ((ended == 1) & (labels == eos))
