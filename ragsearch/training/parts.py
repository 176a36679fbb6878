"""The two parts of a RAG model, each with its tokenizer: question encoder and generator.

A part is named by a folder or a hub id: of a model of its own, or of a whole RAG checkpoint
(`facebook/rag-token-base`, or what `export` wrote), of which the part asked for is taken.
Weights are safetensors, opened in float32; a model that lacks some is refused.
"""

import platform
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RagConfig,
    RagTokenForGeneration,
    RagTokenizer,
)
from transformers.utils import logging

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.encoder import (
    Pooling,
    load_text_model,
    load_tokenizer,
    resolve_pooling,
)
from ragsearch.spec import ModelSection, TrialSection
from ragsearch.spec.models import OPTIONAL_KEYS
from ragsearch.training.compiler import why_not_compiled

_DROPOUT_KEYS = ("dropout", "dropout_rate")  # BART's word, T5's word
_NONE = "generator has none; leave the key out"
_CHECKPOINT: Any = RagTokenForGeneration  # Any: its loader is hardly typed, and the next one's
_TOKENIZERS: Any = RagTokenizer
_MOST_VARIANTS = 64  # more values of dropout than a process has trials
_N_INVENTED_TOKENS = 5  # what Transformers makes up where a folder has no vocabulary


def open_question_encoder(
    settings: ModelSection,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Pooling]:
    """Open the part that turns questions into vectors.

    Returns:
        The encoder, its tokenizer, and how its vectors are pooled.

    Raises:
        BadInputError: If it cannot be used, with the reason.
    """
    name = settings.question_encoder
    assert name is not None, "the schema lets only a closed-book model be without one"
    with _translated(name, "question_encoder"):
        config = _checkpoint_config(name)
        if config is not None:
            pooling = resolve_pooling(_part_of(config, "question_encoder"), settings.pooling)
            encoder = _open_checkpoint(name, config).rag.question_encoder
            return encoder, _checkpoint_tokenizer(name, "question_encoder"), pooling
    encoder, pooling = load_text_model(name, pooling=settings.pooling)
    return encoder, load_tokenizer(name), pooling


def open_generator(trial: TrialSection) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open the sequence-to-sequence part, with the trial's regularisation set.

    Returns:
        The generator and its tokenizer.

    Raises:
        BadInputError: If it cannot be used, or lacks a setting the trial asks for.
    """
    name = trial.model.generator
    with _translated(name, "generator"):
        config = _checkpoint_config(name)
        if config is not None:
            _regularise(_part_of(config, "generator"), trial)
            generator: PreTrainedModel = _open_checkpoint(name, config).rag.generator
        else:
            generator = _open_seq2seq(trial)
    return generator, open_generator_tokenizer(name)


def open_generator_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a generator, no weights read.

    Args:
        name: Folder or hub id of the generator, or of a whole RAG checkpoint.

    Raises:
        BadInputError: If it cannot be used, with the reason.
    """
    with _translated(name, "generator"):
        if _checkpoint_config(name) is not None:
            tokenizer = _checkpoint_tokenizer(name, "generator")
        else:
            tokenizer = load_tokenizer(name)
    _check_generator_tokenizer(tokenizer, name)
    return tokenizer


def _checkpoint_config(name: str) -> RagConfig | None:
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return config if isinstance(config, RagConfig) else None


def _part_of(config: RagConfig, part: str) -> PreTrainedConfig:
    found: PreTrainedConfig = getattr(config, part)  # declared as optional, and never missing
    return found


def _open_checkpoint(name: str, config: RagConfig) -> RagTokenForGeneration:
    with no_progress_bar():
        network: RagTokenForGeneration
        network, loading = _CHECKPOINT.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_complete(loading["missing_keys"])
    return network


def _checkpoint_tokenizer(name: str, part: str) -> PreTrainedTokenizerBase:
    folder = Path(name)
    if folder.is_dir() and not (folder / f"{part}_tokenizer").is_dir():
        raise ValueError(f"its {part}_tokenizer is missing")
    tokenizer: PreTrainedTokenizerBase = getattr(_TOKENIZERS.from_pretrained(name), part)
    check_vocabulary(tokenizer, f"{part}_tokenizer")
    return tokenizer


def _open_seq2seq(trial: TrialSection) -> PreTrainedModel:
    name = trial.model.generator
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    _regularise(config, trial)
    generator: PreTrainedModel
    with no_progress_bar():
        generator, loading = AutoModelForSeq2SeqLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,  # a checkpoint in half precision would train to NaN
            use_safetensors=True,
            output_loading_info=True,
        )
    check_complete(loading["missing_keys"])
    return generator


def open_whole(folder: Path, network_class: Any) -> Any:  # noqa: ANN401 - hardly typed
    """Return the model of a folder, every weight of it read.

    Raises:
        ValueError: If weights are missing.
    """
    with no_progress_bar():
        network, loading = network_class.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    check_complete(loading["missing_keys"])
    return network


@contextmanager
def _translated(name: str, part: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        kind = part.replace("_", " ")
        what = (
            f"cannot be loaded as a {kind}: {first_line(error)}; give a folder or hub id of "
            "such a model, or of a RAG checkpoint, with safetensors"
        )
        raise BadInputError.single(name, what, key=f"trial.model.{part}") from error


def _regularise(config: PreTrainedConfig, trial: TrialSection) -> None:
    """Set what a trial asks for in a generator's configuration, and refuse what it lacks."""
    settings = trial.regularisation
    key = next((key for key in _DROPOUT_KEYS if hasattr(config, key)), None)
    if key is None:
        what = f"a {config.model_type} generator has no dropout to set"
        raise BadInputError.single(trial.model.generator, what, key="regularisation.dropout")
    setattr(config, key, float(settings.dropout))
    asked = {key: getattr(settings, key) for key in OPTIONAL_KEYS}
    asked = {key: value for key, value in asked.items() if value is not None}
    mistakes = [
        Mistake(
            trial.model.generator, f"regularisation.{key}", f"a {config.model_type} {_NONE}"
        )
        for key in asked
        if not hasattr(config, key)
    ]
    if mistakes:
        raise BadInputError(mistakes)
    for key, value in asked.items():
        setattr(config, key, float(value))


def _check_generator_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not tokenizer.is_fast:
        what = "the tokenizer gives no offsets, by which passages are cut; use a fast one"
    elif tokenizer("an answer")["input_ids"][-1] != tokenizer.eos_token_id:
        what = (
            "the tokenizer does not end a text with its end token, so answers would never "
            "end; give it a post-processor that does"
        )
    else:
        return
    raise BadInputError.single(name, what, key="trial.model.generator")


def check_length(trial: TrialSection, key: str, config: PreTrainedConfig) -> None:
    """Refuse a key of `trial.train` that asks for more tokens than a model reads.

    Raises:
        BadInputError: If it does.
    """
    asked = getattr(trial.train, key)
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and asked > most:
        raise BadInputError.single(
            config.name_or_path,
            f"reads at most {most} tokens, not {asked}; lower the key",
            key=f"trial.train.{key}",
        )


def keep_no_activations(part: nn.Module, trial: TrialSection) -> None:
    """Turn gradient checkpointing on where a part supports it.

    Neither a RAG model as a whole nor DPR's wrapper does; the models inside do.

    Raises:
        BadInputError: If nothing in the part does.
    """
    inner = (module for module in part.modules() if isinstance(module, PreTrainedModel))
    able = next((module for module in inner if module.supports_gradient_checkpointing), None)
    if able is None:
        what = f"a {type(part).__name__} does not support it; leave it out"
        raise BadInputError.single(
            trial.model.generator, what, key="trial.train.gradient_checkpointing"
        )
    with warnings.catch_warnings():
        # its new name, `activation_checkpointing_enable`, is younger than Transformers 5.17
        warnings.simplefilter("ignore", FutureWarning)
        # the reentrant kind gives no gradient where no input has one, as token ids have none
        able.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]


def check_compiler(trial: TrialSection) -> None:
    """Refuse a trial that is to be compiled, where something is missing for that.

    Raises:
        BadInputError: If it is.
    """
    why_not = why_not_compiled(on_gpu=torch.cuda.is_available())
    if trial.train.compile and why_not:
        raise BadInputError.single(platform.node(), why_not, key="trial.train.compile")


def compiled(part: nn.Module) -> Any:  # noqa: ANN401 - hardly typed
    """Return what runs a part as compiled code, for batches of every size.

    It is compiled at its first run, and in one process once for all trials that are alike; what
    torch takes for constants, such as dropout, makes another variant.
    """
    # of a module with more variants torch compiles no more, and runs it as it is: 8 by default
    torch._dynamo.config.recompile_limit = _MOST_VARIANTS  # noqa: SLF001 - has no other name
    return torch.compile(part, dynamic=True)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that Transformers has just made up, as it does in silence.

    Raises:
        ValueError: If it knows nothing but special tokens.
    """
    if len(tokenizer) <= _N_INVENTED_TOKENS:
        raise ValueError(f"its {name} knows only {len(tokenizer)} tokens")


def check_complete(missing: Collection[str]) -> None:
    """Refuse a model with weights that Transformers has just drawn at random.

    Raises:
        ValueError: If there are such, like every other reason not to load a model.
    """
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, such as {min(missing)}")


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Read weights without a bar on stderr, which belongs to the search's own progress."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
