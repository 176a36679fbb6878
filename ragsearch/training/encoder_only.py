"""A saved RAG model opened for retrieval: its question encoder whole, its generator a shell.

Of the weights only the question encoder's are read. The generator has shapes and no numbers
(torch's meta device), so it takes neither memory nor time, and running it fails.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModel, AutoModelForSeq2SeqLM, RagConfig

from ragsearch.training.parts import check_complete

_PREFIX = "rag.question_encoder."
_ENCODERS: Any = AutoModel  # Any: their makers are not typed
_GENERATORS: Any = AutoModelForSeq2SeqLM


def open_encoder_only(folder: Path, rag_class: Any) -> Any:  # noqa: ANN401 - hardly typed
    """Return the stock model of a folder, able to encode questions and nothing else.

    Args:
        folder: What `save_pretrained` of a RAG model wrote, in safetensors.
        rag_class: `RagSequenceForGeneration` or `RagTokenForGeneration`.

    Raises:
        ValueError: If weights of the question encoder are missing.
    """
    config: RagConfig = RagConfig.from_pretrained(folder)
    # made with numbers: the buffers that no file keeps, such as position ids, are among them
    encoder = _ENCODERS.from_config(config.question_encoder, dtype=torch.float32)
    state = _encoder_weights(folder)
    check_complete(encoder.state_dict().keys() - state.keys())
    encoder.load_state_dict(state)
    with torch.device("meta"):
        generator = _GENERATORS.from_config(config.generator)
    return rag_class(config, question_encoder=encoder, generator=generator)


def _encoder_weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names = [name for name in weights.keys() if name.startswith(_PREFIX)]  # noqa: SIM118 - no mapping
            state |= {name.removeprefix(_PREFIX): weights.get_tensor(name) for name in names}
    return state
