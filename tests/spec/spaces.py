"""A small valid space file with everything it names, to be broken one line at a time."""

import json
from pathlib import Path

VALID = """\
version: 1
name: kb
seed: 3
data:
  train: train.jsonl
  val: val.jsonl
indexes:
  one:
    corpus: kb.jsonl
    encoder: models/encoder
  two:
    corpus: kb.jsonl
    chunk: {words: 3, overlap: 1}
    encoder: models/encoder
trial:
  model:
    question_encoder: models/encoder
    generator: models/bart
  retrieval: {index: one, n_docs: 2}
  optim:
    learning_rate: 1e-4
    effective_batch: 16
  regularisation: {dropout: 0.1}
  train: {max_epochs: 3, batch_size: 8}
space:
  retrieval.index: {choice: [one, two]}
  retrieval.n_docs: {int: [1, 3]}
  optim.learning_rate: {log: [1e-5, 1e-3]}
  regularisation.dropout: {uniform: [0.0, 0.2], step: 0.1}
search: {scheduler: {min: 1, eta: 3}}
budget: {trials: 4, wall: 8h}
"""


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(folder: Path, model_type: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def passages(n: int) -> list[dict[str, object]]:
    return [{"id": f"p{i}", "title": f"T{i}", "text": f"word {i} of a text"} for i in range(n)]


def questions(prefix: str, n: int) -> list[dict[str, object]]:
    return [
        {"id": f"{prefix}{i}", "question": f"{prefix} {i}?", "answers": [str(i)],
         "passage_ids": [f"p{i}"]}
        for i in range(n)
    ]  # fmt: skip


def write_space(folder: Path, text: str = VALID) -> Path:
    """Write a space file and all that the valid one names."""
    for name, model_type in (("encoder", "bert"), ("bart", "bart"), ("t5", "t5")):
        write_model(folder / "models" / name, model_type)
    write_jsonl(folder / "kb.jsonl", passages(4))
    write_jsonl(folder / "train.jsonl", questions("train", 3))
    write_jsonl(folder / "val.jsonl", questions("val", 2))
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path
