"""The best model of a search as a bundle: a folder stock Transformers opens, and its papers.

Only what stock Transformers and ragsearch read is copied: safetensors, JSON and tokenizers.
A bundle appears whole or not at all.
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from ragsearch import __version__
from ragsearch.errors import BadInputError
from ragsearch.index.manifest import read_manifest
from ragsearch.results.bundle import (
    FORMAT,
    RETRIEVER_FOLDER,
    Bundle,
    IndexReference,
    Manifest,
    checksums,
)
from ragsearch.results.card import write_card
from ragsearch.results.leaderboard import BASELINE, find_search
from ragsearch.search.comparison import best_run
from ragsearch.search.front import chosen
from ragsearch.search.record import SearchRecord, TrialRecord
from ragsearch.spec import TrialSection, with_values

TRIAL_FILE = "trial.json"  # as in `training.model`, which loads torch

_COPIED = (
    "config.json",
    "generation_config.json",
    "trial.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "question_encoder_tokenizer/*",
    "generator_tokenizer/*",
)
_LIBRARIES = ("transformers", "torch", "faiss-cpu")


def export_best(
    search: Path | str | None,
    to: Path | str,
    *,
    trial: int | None = None,
    hf_retriever: bool = False,
    output: Path = Path("runs"),
) -> Bundle:
    """Return the bundle of a search's best checkpoint, now written into a folder.

    Args:
        search: Name or folder of the search; the newest by default. Where it has final runs,
            their winner is exported: of its seeds the one that is best on validation.
        to: The folder to write; it must not exist yet, or be empty.
        trial: Export this trial of the search itself instead of the best one.
        hf_retriever: Whether to add the index in Transformers' own format, which copies every
            vector and every passage.
        output: Folder for searches and indexes.

    Raises:
        BadInputError: If there is no such search, trial or checkpoint, the index is gone, or
            the folder is occupied; then nothing is written.
    """
    record, to = find_search(search, output), Path(to)
    chosen = _choose(record, trial)
    checkpoint = _checkpoint_of(record, chosen)
    with _written_whole(to) as folder:
        _copy(checkpoint, folder)
        _set_values(folder, chosen.values)
        manifest = _manifest(record, chosen, folder, hf_retriever=hf_retriever)
        manifest.save(folder)
        baseline = record.trials.get(BASELINE)
        write_card(folder, manifest, record.metrics_of(baseline) if baseline else None)
    return Bundle(to, manifest)


class _Chosen(NamedTuple):
    """The model that is exported."""

    trial: TrialRecord
    checkpoint: str | None
    """Relative to the search folder."""
    values: Mapping[str, object]
    """Its best setting of `rescore`."""
    metrics: Mapping[str, float]
    seed: int | None = None
    """Of the final run it is from."""


def _choose(record: SearchRecord, number: int | None) -> _Chosen:
    run = best_run(record) if number is None else None
    if run is not None:
        trial, metrics = record.trials[run.trial], (run.val or {}) | (run.test or {})
        return _Chosen(trial, run.checkpoint, run.values, metrics, run.seed)
    trial = _trial(record, number)
    setting = record.best_setting(trial)
    values = setting.values if setting else {}
    return _Chosen(trial, trial.checkpoint, values, record.metrics_of(trial) or {})


def _trial(record: SearchRecord, trial: int | None) -> TrialRecord:
    if trial is None:
        if (best := chosen(record)) is None:
            what = (
                f"no feasible trial reported {record.metric}, so there is nothing to export; "
                f"see `ragsearch trials {record.search}`"
            )
            raise BadInputError.single(record.folder, what)
        return best
    if trial not in record.trials:
        numbers = ", ".join(map(str, sorted(record.trials))) or "none"
        what = f"no trial {trial}; there are: {numbers}"
        raise BadInputError.single(record.folder, what)
    return record.trials[trial]


def _checkpoint_of(record: SearchRecord, chosen: _Chosen) -> Path:
    trial = chosen.trial
    if chosen.checkpoint is None:
        reason = f" ({trial.reason})" if trial.reason else ""
        what = f"trial {trial.trial} saved no checkpoint{reason}; choose another trial"
        raise BadInputError.single(record.folder, what)
    folder = record.folder / chosen.checkpoint
    if not any(folder.glob("*.safetensors")):
        what = f"the checkpoint of trial {trial.trial} is gone; choose another trial"
        raise BadInputError.single(folder, what)
    return folder


@contextmanager
def _written_whole(to: Path) -> Iterator[Path]:
    """Give a folder to write into, and put it in its place if all went well."""
    if to.is_dir() and any(to.iterdir()):
        raise BadInputError.single(to, "is not empty; choose another folder or move it away")
    if to.exists() and not to.is_dir():
        raise BadInputError.single(to, "is a file; give a folder")
    beside = to.absolute().with_name(f".{to.absolute().name}.{uuid4().hex[:8]}")
    beside.mkdir(parents=True)
    try:
        yield beside
        if to.is_dir():
            to.rmdir()
        beside.rename(to)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _copy(checkpoint: Path, folder: Path) -> None:
    try:
        for file in (path for pattern in _COPIED for path in checkpoint.glob(pattern)):
            target = folder / file.relative_to(checkpoint)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    except FileNotFoundError as error:
        what = "the checkpoint was replaced by a better one while it was copied; try again"
        raise BadInputError.single(checkpoint, what) from error


def _set_values(folder: Path, values: Mapping[str, object]) -> None:
    """Have a model answer by other settings than it was trained with, in stock code too."""
    if not values:
        return
    file = folder / TRIAL_FILE
    settings = json.loads(file.read_text(encoding="utf-8"))
    trial = with_values(TrialSection.model_validate(settings["trial"]), values)
    settings["trial"] = trial.model_dump(mode="json")
    _write_json(file, settings)
    decode = {
        "num_beams": trial.decode.num_beams,
        "max_length": trial.decode.max_length + 1,  # Transformers counts the start token too
    }
    stock = folder / "generation_config.json"
    _write_json(stock, json.loads(stock.read_text()) | decode)
    stock = folder / "config.json"
    config = json.loads(stock.read_text())
    if "n_docs" in config:
        _write_json(stock, config | {"n_docs": trial.retrieval.n_docs})


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _resolved(record: SearchRecord) -> dict[str, object]:
    file = record.folder / "resolved.json"
    try:
        resolved: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error}); restore it, or run the search again"
        raise BadInputError.single(file, what) from error
    return resolved


def _manifest(
    record: SearchRecord, chosen: _Chosen, folder: Path, *, hf_retriever: bool
) -> Manifest:
    settings = json.loads((folder / "trial.json").read_text())
    configuration = settings["trial"]
    index = _index(record, configuration["retrieval"]["index"])
    if hf_retriever:
        _add_retriever(folder, index)
    return Manifest(
        format=FORMAT,
        search=record.search,
        trial=chosen.trial.trial,
        metrics=chosen.metrics,
        configuration=configuration,
        pooling=settings.get("pooling"),
        decode=configuration["decode"],
        index=index,
        spec=_resolved(record),
        versions={
            "ragsearch": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
        sha256=checksums(folder),
        seed=chosen.seed,
    )


def _index(record: SearchRecord, name: str) -> IndexReference | None:
    if not name:  # of a trial that retrieves nothing
        return None
    used = record.indexes[name]
    found = read_manifest(Path(used.folder))
    if found.fingerprint != used.fingerprint:
        what = (
            f"this is index {found.fingerprint[:16]} but the search used {name}, "
            f"{used.fingerprint[:16]}; build that one again with `ragsearch index build`"
        )
        raise BadInputError.single(used.folder, what)
    return IndexReference(
        name, used.folder, used.fingerprint, found.n_passages, found.dimension
    )


def _add_retriever(folder: Path, index: IndexReference | None) -> None:
    """Write the index as stock `RagRetriever` reads it, and have the configuration name it."""
    if index is None:
        what = "the trial retrieves nothing, so there is no index to write; leave it out"
        raise BadInputError.single("--hf-retriever", what)
    from ragsearch.index.hf import FAISS, PASSAGES, write_hf_dataset
    from ragsearch.index.open import open_index

    file = folder / "config.json"
    config = json.loads(file.read_text())
    _check_stock_can_ask(config["question_encoder"]["model_type"], folder)
    write_hf_dataset(open_index(Path(index.folder)), folder / RETRIEVER_FOLDER)
    # Relative to the bundle, which may be moved: stock code takes them from where it runs.
    config["index_name"] = "custom"
    config["passages_path"] = f"{RETRIEVER_FOLDER}/{PASSAGES}"
    config["index_path"] = f"{RETRIEVER_FOLDER}/{FAISS}"
    file.write_text(json.dumps(config, indent=2) + "\n")


def _check_stock_can_ask(encoder: str, folder: Path) -> None:
    settings = json.loads((folder / "trial.json").read_text())
    normalised = settings["trial"]["model"]["normalise"]
    if encoder != "dpr" or settings["pooling"] != "pooler" or normalised:
        scaled = " and normalised" if normalised else ""
        what = (
            f"stock Transformers asks with a DPR encoder's pooled output only, and this model "
            f"has a {encoder} encoder pooled by {settings['pooling']}{scaled}; leave it out"
        )
        raise BadInputError.single("--hf-retriever", what)
