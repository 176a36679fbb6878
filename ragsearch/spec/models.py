"""Whether local model folders hold what a model needs; hub ids are left to the hub.

Reads `config.json` and file names, never weights.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ragsearch.spec.document import Finding
from ragsearch.spec.draft import Draft
from ragsearch.spec.paths import MODEL_KEYS
from ragsearch.spec.space import Option

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
CHECKPOINT_TOKENIZERS = ("question_encoder_tokenizer", "generator_tokenizer")
"""Folders of a whole RAG checkpoint beside its weights."""
OPTIONAL_KEYS = ("attention_dropout", "encoder_layerdrop", "decoder_layerdrop")
"""Keys of `trial.regularisation` that not every family of generators has."""
_LAYERDROPS = OPTIONAL_KEYS[1:]
# By `model_type`: what the families of Transformers 5.23 lack. One that is not listed is asked
# when its trial opens it.
_LACKING = dict.fromkeys(
    ("t5", "mt5", "umt5", "longt5", "switch_transformers"), OPTIONAL_KEYS
) | dict.fromkeys(("prophetnet", "t5gemma", "t5gemma2"), _LAYERDROPS)


def bad_models(draft: Draft) -> Iterator[Finding]:
    """Find model folders that are missing or lack a part.

    Yields:
        A finding for each part and each key that names the folder.
    """
    options = [option for path in MODEL_KEYS for option in draft.options(path)]
    for name in draft.names("indexes"):
        if draft.value("indexes", name, "folder") is None:  # else nothing is embedded
            encoder = draft.value("indexes", name, "encoder")
            options.append(Option(("indexes", name, "encoder"), encoder))
    for path, model in options:
        if isinstance(model, str) and Path(model).is_absolute():
            yield from (Finding(path, what) for what in _lacks(model))


def _lacks(folder: str) -> Iterator[str]:
    path = Path(folder)
    if not path.is_dir():
        yield f"no such model folder: {folder}"
        return
    if model_config(folder) is None:
        yield f"{folder} has no readable config.json; give a folder `save_pretrained` wrote"
    is_checkpoint = model_type(folder) == "rag"
    for place in CHECKPOINT_TOKENIZERS if is_checkpoint else (".",):
        if not any((path / place / name).is_file() for name in _TOKENIZERS):
            where = (path / place).as_posix()
            yield f"{where} has no tokenizer ({', '.join(_TOKENIZERS)}); save the model's there"
    if not any((path / name).is_file() for name in _WEIGHTS):
        pickled = " (pickled weights are not read)" if any(path.glob("*.bin")) else ""
        yield f"{folder} has no model.safetensors{pickled}; save the weights as such"


def lacking_keys(draft: Draft) -> Iterator[Finding]:
    """Find regularisation asked of a generator whose family has none, at its first value.

    Yields:
        At most one finding a key.
    """
    for key in OPTIONAL_KEYS:
        pairs = draft.combinations(f"regularisation.{key}", "model.generator")
        yield from islice(_lacking(key, pairs), 1)


def _lacking(key: str, pairs: Iterable[tuple[Option, ...]]) -> Iterator[Finding]:
    for asked, generator in pairs:
        kind = generator_type(generator.value) or ""
        if asked.value is not None and key in _LACKING.get(kind, ()):
            what = f"generator {generator.value} is a {kind}, which has none; leave it out"
            yield Finding(asked.path, what)


def generator_type(model: object) -> str | None:
    """Return the `model_type` of a local generator, also of one in a RAG checkpoint."""
    if model_type(model) != "rag":
        return model_type(model)
    config = model_config(str(model)) or {}
    generator = config.get("generator")
    return str(generator.get("model_type")) if isinstance(generator, dict) else None


def model_type(model: object) -> str | None:
    """Return the `model_type` of a local model folder, None where it is not known."""
    is_local = isinstance(model, str) and Path(model).is_absolute()
    config = model_config(str(model)) if is_local else None
    return None if config is None else str(config.get("model_type"))


def model_config(folder: str) -> dict[str, object] | None:
    """Return the `config.json` of a local model folder, None where it cannot be read."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
