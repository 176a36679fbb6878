"""Contexts encoded once, then read as often as answers are scored or written.

Of a context the decoder reads keys and values, which depend on no answer: the gold answer, the
beams and the scoring of candidates share them.

Axes: R rows of contexts, M rows that are read, S context tokens, T answer tokens, V vocabulary,
D width of a state.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from ragsearch.training.contexts import Contexts
from ragsearch.training.model import TrialModel, shift_right

_ROWS_A_GROUP = 32


class _KeysValues(NamedTuple):
    keys: Float[Tensor, "R H S E"]
    values: Float[Tensor, "R H S E"]


class _SharedCache(EncoderDecoderCache):
    """What a decoder remembers, where all beams of a row read the same contexts."""

    def __init__(self, n_docs: int, *caches: Cache) -> None:
        super().__init__(*caches)
        self._n_docs = n_docs

    @override
    def reorder_cache(self, beam_idx: Any) -> None:  # Any: declared as what no tensor is
        # Transformers would copy every context to its own place at every step
        places = torch.arange(self._n_docs, device=beam_idx.device)
        rows = (beam_idx[:, None] * self._n_docs + places).flatten()
        self.self_attention_cache.reorder_cache(rows)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Contexts as the encoder reads them, and what the decoder makes of that."""

    model: TrialModel
    states: Float[Tensor, "R S D"]
    mask: Int64[Tensor, "R S"]
    layers: tuple[_KeysValues, ...]
    """Keys and values of each layer; none of a decoder that does not keep them apart."""

    @property
    def row_bytes(self) -> int:
        """What reading one row takes of memory, logits not counted."""
        tensors = [self.states, *(tensor for layer in self.layers for tensor in layer)]
        return sum(tensor[0].nbytes for tensor in tensors)

    def logits(
        self, labels: Int64[Tensor, "M T"], rows: Int64[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M T V"]:
        """Return the logits of labels, each on one context.

        Args:
            labels: Tokens to write, teacher-forced.
            rows: Which context each is read with; the one at its own place by default.
        """
        generator: Any = self.model.generator  # Any: hardly typed
        read = self if rows is None else self._rows(rows)
        logits: Tensor = generator(
            **read.kwargs(),
            decoder_input_ids=shift_right(self.model, labels),
            use_cache=bool(self.layers),
        ).logits
        return logits

    def kwargs(self, n_beams: int = 1) -> dict[str, Any]:  # Any: for untyped calls
        """Return what a generator is told, to read every context with so many beams.

        Args:
            n_beams: Rows that `generate` makes of each.
        """
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=self.states),
            "attention_mask": self.mask,
            "past_key_values": self.cache(n_beams),
        }

    def cache(self, n_beams: int = 1, n_docs: int = 1) -> EncoderDecoderCache | None:
        """Return what a decoder starts from; None where it has to find that out itself.

        Args:
            n_beams: Beams that read each context.
            n_docs: Contexts that a beam reads together.
        """
        if not self.layers:
            return None
        beams = [
            tuple(repeated(tensor, n_beams, n_docs) for tensor in layer)
            for layer in self.layers
        ]
        return _SharedCache(n_docs, DynamicCache(), DynamicCache(beams))

    def _rows(self, rows: Int64[Tensor, " M"]) -> "Encoded":
        """Return some of the contexts, no wider than the longest of them."""
        mask = self.mask[rows]
        width = int(mask.sum(dim=-1).max())
        return Encoded(
            self.model,
            self.states[rows, :width],
            mask[:, :width],
            tuple(
                _KeysValues(*(tensor[rows, :, :width] for tensor in layer))
                for layer in self.layers
            ),
        )


def repeated(tensor: Tensor, n_beams: int, n_docs: int) -> Tensor:
    """Return every `n_docs` rows as often as there are beams, in one run after another."""
    if n_beams == 1:
        return tensor
    runs = tensor.view(-1, n_docs, *tensor.shape[1:])
    return runs.repeat_interleave(n_beams, dim=0).flatten(0, 1)


def encode_contexts(model: TrialModel, contexts: Contexts) -> Encoded:
    """Return contexts encoded, to be read many times; the model is not training."""
    states, mask = encoder_states(model, contexts), contexts.attention_mask
    generator: Any = model.generator  # Any: hardly typed
    kept: Cache | None = generator(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        decoder_input_ids=shift_right(model, contexts.input_ids[:, :1]),  # the start token
        use_cache=True,
    ).past_key_values
    return Encoded(model, states, mask, _layers(kept, states))


def encoder_states(model: TrialModel, contexts: Contexts) -> Float[Tensor, "R S D"]:
    """Return what the encoder makes of contexts, those of like length read together.

    Padding is half of the tokens where contexts are read as they come. States of padding are 0.
    """
    encoder = model.in_step(model.generator.get_encoder())
    mask = contexts.attention_mask
    lengths = mask.sum(dim=-1)
    order, width, groups = lengths.argsort(), mask.shape[1], []
    for start in range(0, len(order), _ROWS_A_GROUP):
        rows = order[start : start + _ROWS_A_GROUP]
        longest = int(lengths[rows[-1]])
        states: Tensor = encoder(
            input_ids=contexts.input_ids[rows, :longest],
            attention_mask=mask[rows, :longest],
            return_dict=True,
        ).last_hidden_state
        groups.append(functional.pad(states, (0, 0, 0, width - longest)))
    return torch.cat(groups)[order.argsort()]


def _layers(kept: Cache | None, states: Float[Tensor, "R S D"]) -> tuple[_KeysValues, ...]:
    if not isinstance(kept, EncoderDecoderCache):
        return ()
    layers: Any = kept.cross_attention_cache.layers  # Any: of several kinds
    shape = states.shape[:2]
    if not all(
        layer.is_initialized and (layer.keys.shape[0], layer.keys.shape[2]) == shape
        for layer in layers
    ):
        return ()  # a decoder that mixes what it reads with what it wrote
    return tuple(_KeysValues(layer.keys, layer.values) for layer in layers)
