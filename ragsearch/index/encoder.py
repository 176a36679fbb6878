"""Texts become vectors: an encoder with its tokenizer and its pooling.

In: a model folder or hub id. Out: float32 vectors, or the model itself to train. Weights are
read from safetensors only, code never.

Axes: B texts, D embedding size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ragsearch.errors import BadInputError
from ragsearch.index.pooling import pool, resolve_pooling
from ragsearch.index.weights import AskedPooling, Pooling, fingerprint_model, model_folder

__all__ = [
    "AskedPooling",
    "Pooling",
    "TextEncoder",
    "fingerprint_model",
    "load_text_model",
    "load_tokenizer",
    "pool",
    "resolve_pooling",
]

_DPR_CLASSES = {
    "DPRContextEncoder": DPRContextEncoder,
    "DPRQuestionEncoder": DPRQuestionEncoder,
}
_N_INVENTED_TOKENS = 5  # what Transformers makes up where a folder has no vocabulary


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder: titles and texts in, vectors out."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    normalise: bool = False

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        pooling: AskedPooling = "auto",
        normalise: bool = False,
        device: str = "cpu",
    ) -> "TextEncoder":
        """Return an encoder to embed with, not to train.

        Args:
            name_or_path: A folder or a hub id.
            pooling: How token vectors become one.
            normalise: Scale vectors to length 1.
            device: Where to run it, such as `cuda:0`.

        Raises:
            BadInputError: If the model cannot be used, with the reason.
        """
        model, settled = load_text_model(name_or_path, pooling=pooling)
        tokenizer = load_tokenizer(name_or_path)
        model.requires_grad_(requires_grad=False).to(device)  # type: ignore[arg-type]
        return cls(str(name_or_path), model, tokenizer, settled, normalise)

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        projected: int = getattr(self.model.config, "projection_dim", 0)
        hidden: int = self.model.config.hidden_size
        return projected or hidden

    def check_length(self, max_length: int) -> None:
        """Refuse to read more tokens than the model has positions for.

        Raises:
            BadInputError: If `max_length` is too large.
        """
        most = getattr(self.model.config, "max_position_embeddings", max_length)
        if max_length > most:
            what = f"reads {most} tokens at most, not {max_length}; lower max_length"
            raise BadInputError.single(self.name, what, key="max_length")

    def n_tokens(self, titles: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Count the tokens each passage has, uncut."""
        ids = self.tokenizer(list(titles), list(texts), verbose=False)["input_ids"]
        return [len(row) for row in ids]

    def encode_passages(
        self,
        titles: Sequence[str],
        texts: Sequence[str],
        *,
        max_length: int = 256,
        batch_size: int = 64,
    ) -> Float32[np.ndarray, "B D"]:
        """Return the vectors of passages, each read as the pair of its title and its text.

        Passages of like length are embedded together: padding costs time. What is longer
        than `max_length` tokens is cut.

        Raises:
            BadInputError: If `max_length` is more than the model reads.
        """
        self.check_length(max_length)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        lengths = [len(title) + len(text) for title, text in zip(titles, texts, strict=True)]
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            pairs = [titles[row] for row in rows], [texts[row] for row in rows]
            vectors[rows] = self._embed(*pairs, max_length=max_length)
        return vectors

    def encode_questions(
        self, questions: Sequence[str], *, max_length: int = 128
    ) -> Float32[np.ndarray, "B D"]:
        """Return the vectors of questions; a model in training uses `pool` instead.

        Raises:
            BadInputError: If `max_length` is more than the model reads.
        """
        self.check_length(max_length)
        return self._embed(list(questions), max_length=max_length)

    @torch.inference_mode()
    def _embed(self, *texts: list[str], max_length: int) -> Float32[np.ndarray, "B D"]:
        tokens = self.tokenizer(
            *texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(self.model.device)
        vectors = pool(
            self.model(**tokens), tokens.attention_mask, self.pooling, normalise=self.normalise
        )
        embedded: np.ndarray = vectors.float().cpu().numpy()
        return embedded


def load_text_model(
    name_or_path: str | Path, *, pooling: AskedPooling = "auto"
) -> tuple[PreTrainedModel, Pooling]:
    """Open an encoder's model, float32 and in evaluation mode, and settle its pooling.

    Args:
        name_or_path: A folder or a hub id.
        pooling: How token vectors become one.

    Returns:
        The model, which can be trained, and the pooling for `pool`.

    Raises:
        BadInputError: If the model cannot be used, with the reason.
    """
    folder, name = model_folder(name_or_path), str(name_or_path)
    with _translated(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.is_encoder_decoder:
        what = f"a {config.model_type} model is no text encoder; give one like BERT or DPR"
        raise BadInputError.single(name, what)
    settled = resolve_pooling(config, pooling)
    with _translated(name), _quiet():
        model, loading = _class_of(config).from_pretrained(  # type: ignore[misc] # typed without `output_loading_info`
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    _check_weights(name, sorted(loading["missing_keys"]), settled)
    return model, settled


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer.

    Raises:
        BadInputError: If the folder lacks one, or it does not fit the model.
    """
    folder, name = model_folder(name_or_path), str(name_or_path)
    with _translated(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if len(tokenizer) <= _N_INVENTED_TOKENS:
        what = f"its tokenizer knows only {len(tokenizer)} tokens; save the real one beside it"
        raise BadInputError.single(name, what)
    if len(tokenizer) > config.vocab_size:
        what = (
            f"its tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}; "
            "save the tokenizer the model was trained with"
        )
        raise BadInputError.single(name, what)
    return tokenizer


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | type[AutoModel]:
    """Return the class to load; Transformers' own choice takes any DPR for a question's."""
    names = config.architectures or [""]
    return _DPR_CLASSES.get(names[0], AutoModel)


def _check_weights(name: str, missing: list[str], pooling: Pooling) -> None:
    if pooling != "pooler":
        missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        what = (
            f"lacks {len(missing)} weights, such as {missing[0]}, and would get random ones; "
            "give the whole model"
        )
        if all(key.startswith("pooler.") for key in missing):
            what = "has no trained pooler; choose pooling mean or cls"
        raise BadInputError.single(name, what)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        what = f"cannot be loaded as a text encoder: {reason}; save the model anew"
        raise BadInputError.single(name, what) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Transformers from reporting weights that `_check_weights` judges anyway."""
    before = logging.get_verbosity()
    shows_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
