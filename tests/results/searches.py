"""Searches as `run` leaves them, made without Ray: real index, real models, real record."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ragsearch.data import read_questions
from ragsearch.index.build import build_index
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.record import SearchRecord, Status, TrialRecord, UsedIndex
from ragsearch.spec import Spec, load_spec
from ragsearch.training.fit import EpochReport, fit_trial
from ragsearch.training.model import assemble
from tests.tiny import Tiny

KINDS = ("rag_sequence", "rag_token")

_SPACE = """\
version: 1
name: tiny
seed: 3
data: {{train: {train}, val: {val}, n_val: {n_val}}}
indexes:
  facts:
    corpus: {corpus}
    encoder: {context_encoder}
    normalise: {normalise}
    faiss: {faiss}
trial:
  model:
    type: {kind}
    question_encoder: {question_encoder}
    generator: {generator}
    normalise: {normalise}
  retrieval: {{index: facts, n_docs: {n_docs}, nprobe: {nprobe}}}
  optim: {{learning_rate: 0.01, effective_batch: 8, schedule: constant, max_grad_norm: 1.0}}
  train: {{max_epochs: {max_epochs}, batch_size: 8, eval_batch_size: 3, precision: {precision}}}
  decode: {{num_beams: {num_beams}, max_length: 12}}
space:{types}
  optim.learning_rate: {{log: [0.001, 0.1]}}
budget: {{trials: 3}}
"""
# without another choice, what is of retrieval would be refused
_WITH_OTHERS = "\n  model.type: {choice: [closed_book, rag_sequence]}"


@dataclass(frozen=True)
class Settings:
    """What differs between the searches of the tests."""

    kind: str = "rag_sequence"
    generator: str = "t5"
    encoder: str = "dpr"
    """Or `bert`: mean-pooled, and normalised."""
    n_docs: int = 3
    faiss: str = "Flat"
    nprobe: int | None = None
    num_beams: int = 2
    precision: str = "32"
    max_epochs: int = 1
    n_val: int = 8


def made_search(tiny: Tiny, output: Path, settings: Settings) -> SearchRecord:
    """Return a finished search of untrained models: trial 1 is the best, trial 2 failed."""
    spec = _spec(tiny, output, settings, train=tiny.train, val=tiny.val)
    record = _open_record(spec, output)
    for number, em in ((0, 0.25), (1, 0.5)):
        overrides = {"optim.learning_rate": 0.01 * (number + 1)}
        checkpoint = f"tune/trial-{number:04d}/checkpoint_000000"
        assemble(spec.trial_with(overrides)).save(record.folder / checkpoint)
        metrics = {"epoch": 1.0, "val/em": em, "val/nll": 3.0, "train/loss": 3.0}
        record.trials[number] = TrialRecord(
            number, overrides, Status.FINISHED, [metrics], checkpoint=checkpoint
        )
    record.trials[2] = TrialRecord(
        2, {"optim.learning_rate": 0.1}, Status.FAILED, reason="DivergedError: NaN"
    )
    record.status = Status.FINISHED
    record.save()
    return record


def fitted_search(tiny: Tiny, output: Path, settings: Settings) -> SearchRecord:
    """Return a search of one trial, really trained: it learns to say `red`."""
    train = _with_answers(tiny.train, output / "data" / "train.jsonl")
    val = _with_answers(tiny.val, output / "data" / "val.jsonl")
    spec = _spec(tiny, output, settings, train=train, val=val)
    record = _open_record(spec, output)
    trial = TrialRecord(0, {"optim.learning_rate": 0.01})

    def report(state: EpochReport) -> None:
        trial.epochs.append({"epoch": float(state.epoch), **state.metrics})
        if state.is_best:
            trial.checkpoint = f"tune/trial-0000/checkpoint_{state.epoch:06d}"
            state.save(record.folder / trial.checkpoint)

    data = spec.file.data
    index = open_index(Path(record.indexes["facts"].folder))
    fit_trial(
        spec.trial_with({}),
        (read_questions(Path(data.train)), read_questions(Path(data.val), data.n_val)),
        None if settings.kind == "closed_book" else InProcessRetriever(index),
        report,
        objective=spec.file.objectives[0],
        seed=spec.file.seed,
    )
    trial.status = record.status = Status.FINISHED
    record.trials[0] = trial
    record.save()
    return record


def _spec(tiny: Tiny, output: Path, settings: Settings, *, train: Path, val: Path) -> Spec:
    bert = settings.encoder == "bert"
    output.mkdir(parents=True, exist_ok=True)
    file = output / "tiny.yaml"
    file.write_text(
        _SPACE.format(
            train=train,
            val=val,
            n_val=settings.n_val,
            corpus=tiny.corpus,
            context_encoder=tiny.bert if bert else tiny.context_encoder,
            question_encoder=tiny.bert if bert else tiny.question_encoder,
            normalise=str(bert).lower(),
            generator=getattr(tiny, settings.generator),
            kind=settings.kind,
            types=_WITH_OTHERS if settings.kind == "closed_book" else "",
            n_docs=settings.n_docs,
            faiss=settings.faiss,
            nprobe=settings.nprobe or "null",
            num_beams=settings.num_beams,
            precision=settings.precision,
            max_epochs=settings.max_epochs,
        )
    )
    return load_spec(file)


def _open_record(spec: Spec, output: Path) -> SearchRecord:
    index = build_index(spec.file.indexes["facts"], output / "indexes" / "facts")
    folder = output / "tiny-20261102-100000"
    folder.mkdir()
    (folder / "space.yaml").write_text(spec.text)
    (folder / "resolved.json").write_text(json.dumps(spec.resolved()))
    used = UsedIndex(str(index.folder), index.manifest.fingerprint)
    return SearchRecord(
        folder,
        "tiny",
        "val/em",
        "max",
        {"facts": used},
        "",
        started="2026-11-02T10:00:00+00:00",
    )


def _with_answers(questions: Path, to: Path) -> Path:
    """Write the questions again, three of four with the answer `red`, which is soon learnt."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["answers"] = ["blue"] if number % 4 == 3 else ["red"]
    return write_rows(to, rows)


def write_rows(to: Path, rows: Iterable[object]) -> Path:
    """Return the file, now one JSON document a line."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return to
