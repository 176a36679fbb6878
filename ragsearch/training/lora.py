"""Low-rank adapters in the parts of a model (LoRA, Hu et al. 2021, arXiv 2106.09685).

Only adapters are trained then. To answer they are merged into the weights, so that validation
scores the very weights that are saved, and stock code needs no `peft` to open them. Knows peft,
which is imported where it is needed: it takes seconds.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from ragsearch.errors import BadInputError
from ragsearch.spec.trial import LoraSection

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

# Query and value of attention: BART's names, T5's, BERT's (and so DPR's).
_QUERY_VALUE = ({"q_proj", "v_proj"}, {"q", "v"}, {"query", "value"})
_HEAD = "lm_head"  # as wide as the vocabulary, and tied to the embeddings
_BASE, _ADAPTER = ".base_layer.", ".lora_"  # what peft puts into names of weights
_KEPT = "weight_alone"  # a layer's weight while it is merged; in no state_dict


def add_adapters(part: nn.Module, settings: LoraSection) -> None:
    """Put adapters that change nothing yet into a part; its own weights are frozen.

    Raises:
        BadInputError: If the part has no layers of the kind asked for.
    """
    from peft import LoraConfig, inject_adapter_in_model

    assert settings.rank is not None, "adapters have a rank"
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(_targets(part, settings)),
    )
    inject_adapter_in_model(config, part)


def _targets(part: nn.Module, settings: LoraSection) -> set[str]:
    linear = {
        name.rpartition(".")[2]
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear)
    } - {_HEAD}
    if settings.targets == "linear":
        return linear
    for names in _QUERY_VALUE:
        if names <= linear:
            return names
    what = (
        f"a {type(part).__name__} has no query and value layers that are known; set "
        "targets to linear"
    )
    raise BadInputError.single("", what, key="trial.model.lora")


def merge(network: nn.Module) -> None:
    """Have weights include their adapters, as they are to be saved."""
    for layer in _layers(network):
        if not layer.merged:
            alone = _weight(layer).detach().clone()
            cast("nn.Module", layer).register_buffer(_KEPT, alone, persistent=False)
            layer.merge()


def unmerge(network: nn.Module) -> None:
    """Take adapters out of the weights again, to be trained.

    The weights are those from before to the bit: taking away what was added would round.
    """
    for layer in _layers(network):
        if layer.merged:
            layer.unmerge()
            _weight(layer).data.copy_(getattr(layer, _KEPT))
            delattr(layer, _KEPT)


def _layers(network: nn.Module) -> Iterator["LoraLayer"]:
    from peft.tuners.lora import LoraLayer

    return (module for module in network.modules() if isinstance(module, LoraLayer))


def _weight(layer: "LoraLayer") -> Tensor:
    return cast("Tensor", layer.get_base_layer().weight)


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a merged network under the names they have without adapters."""
    weights = network.state_dict()
    return {
        name.replace(_BASE, "."): weight
        for name, weight in weights.items()
        if _ADAPTER not in name
    }
