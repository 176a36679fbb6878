"""Contexts encoded once, then read as often as answers are scored or written.

Of a context the decoder reads keys and values, which depend on no answer: the gold answer, the
beams and the scoring of candidates share them.

Axes: R rows of contexts, M rows that are read, S context tokens, T answer tokens, V vocabulary,
D width of a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor
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
    """What a decoder remembers, where all beams of a row read the same context."""

    @override
    def reorder_cache(self, beam_idx: Any) -> None:  # Any: declared as what no tensor is
        # Transformers would copy every context to its own place at every step
        self.self_attention_cache.reorder_cache(beam_idx)


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
        told: dict[str, Any] = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=self.states),
            "attention_mask": self.mask,
        }
        if self.layers:
            beams = [
                tuple(tensor.repeat_interleave(n_beams, dim=0) for tensor in layer)
                if n_beams > 1
                else layer
                for layer in self.layers
            ]
            told["past_key_values"] = _SharedCache(DynamicCache(), DynamicCache(beams))
        return told

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


def encode_contexts(model: TrialModel, contexts: Contexts) -> Encoded:
    """Return contexts encoded, those of like length together; the model is not training."""
    lengths = contexts.attention_mask.sum(dim=-1)
    order = lengths.argsort()
    groups = []
    for start in range(0, len(order), _ROWS_A_GROUP):
        rows = order[start : start + _ROWS_A_GROUP]
        groups.append((rows, _encode(model, contexts, rows, int(lengths[rows].max()))))
    width = int(lengths.max())
    n_layers = min(len(layers) for _, (_, layers) in groups)
    return Encoded(
        model,
        _joined([(rows, states) for rows, (states, _) in groups], dim=1),
        contexts.attention_mask[:, :width],
        tuple(
            _KeysValues(
                *(
                    _joined(
                        [(rows, layers[number][part]) for rows, (_, layers) in groups], dim=2
                    )
                    for part in (0, 1)
                )
            )
            for number in range(n_layers)
        ),
    )


def _encode(
    model: TrialModel, contexts: Contexts, rows: Int64[Tensor, " M"], width: int
) -> tuple[Float[Tensor, "M W D"], tuple[_KeysValues, ...]]:
    """Return the encoder's states of some contexts, and the decoder's keys and values."""
    generator: Any = model.generator  # Any: hardly typed
    input_ids = contexts.input_ids[rows, :width]
    output = generator(
        input_ids=input_ids,
        attention_mask=contexts.attention_mask[rows, :width],
        decoder_input_ids=shift_right(model, input_ids[:, :1]),  # the start token only
        use_cache=True,
    )
    states: Tensor = output.encoder_last_hidden_state
    return states, _layers(output.past_key_values, states)


def _joined(groups: Sequence[tuple[Tensor, Tensor]], dim: int) -> Tensor:
    """Return the rows of all groups in their order, padded with zeros along one dimension."""
    widest = groups[-1][1]
    shape = list(widest.shape)
    shape[0] = sum(len(rows) for rows, _ in groups)
    joined = widest.new_zeros(shape)
    for rows, tensor in groups:
        joined.narrow(dim, 0, tensor.shape[dim])[rows] = tensor
    return joined


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
