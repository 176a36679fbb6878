"""RAG-Token as a model of the next token, read off all passages of a question at once.

Equation 2 of Lewis et al. 2020. The beam search stays Transformers' own; only what it asks at
every step is ours, as `RagTokenForGeneration.generate` of Transformers 5.23 takes no encoder
outputs: it encodes contexts again, and copies what the decoder reads of them at every step.

Axes: B questions, K passages per question, N beams, S context tokens, D width of a state,
T answer tokens.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from typing_extensions import override

from ragsearch.training.encoded import Encoded, repeated
from ragsearch.training.model import generation_config


def decode_marginally(
    encoded: Encoded, doc_scores: Float[Tensor, "B K"]
) -> Int64[Tensor, "B T"]:
    """Return the answers of the largest p(token | question, tokens before), step by step.

    Args:
        encoded: Contexts, K a question.
        doc_scores: -inf where there is no passage.
    """
    settings = generation_config(encoded.model)
    settings.use_cache = bool(encoded.layers)  # a cache of its own would not know of passages
    states, n_docs, n_beams = encoded.states, doc_scores.shape[1], settings.num_beams
    cache = {"past_key_values": encoded.cache(n_beams, n_docs)} if encoded.layers else {}
    weights = torch.log_softmax(doc_scores.float(), dim=-1).repeat_interleave(n_beams, dim=0)
    network: Any = _NextToken(encoded, weights, repeated(encoded.mask, n_beams, n_docs))
    answers: Tensor = network.generate(
        # of each question one row, which is what a beam search makes beams of
        encoder_outputs=BaseModelOutput(states.view(-1, n_docs, *states.shape[1:])),
        generation_config=settings,
        **cache,
    )
    return answers


class _NextToken(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call] # Transformers leaves it so
    """A generator that `generate` takes for one with a single context a question."""

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # the generator's affair

    def __init__(
        self,
        encoded: Encoded,
        weights: Float[Tensor, "BN K"],
        mask: Int64[Tensor, "BNK S"],
    ) -> None:
        super().__init__(encoded.model.generator.config)
        self.generation_config = generation_config(encoded.model)  # not what its folder says
        self.generator: Any = encoded.model.generator  # Any: hardly typed
        self._weights, self._mask = weights, mask

    @override
    def forward(
        self,
        decoder_input_ids: Int64[Tensor, "BN T"],
        encoder_outputs: Any,  # Any: declared as holding no states, perhaps
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **_: object,
    ) -> Seq2SeqLMOutput:
        n_docs = self._weights.shape[1]
        output: Any = self.generator(  # Any: declared as without logits, perhaps
            encoder_outputs=BaseModelOutput(encoder_outputs.last_hidden_state.flatten(0, 1)),
            attention_mask=self._mask,
            decoder_input_ids=decoder_input_ids.repeat_interleave(n_docs, dim=0),
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        log_probs: Tensor = torch.log_softmax(output.logits.float(), dim=-1)
        by_passage = log_probs.view(-1, n_docs, *log_probs.shape[1:])
        return Seq2SeqLMOutput(
            logits=torch.logsumexp(by_passage + self._weights[:, :, None, None], dim=1),
            past_key_values=output.past_key_values,
        )
