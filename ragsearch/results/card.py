"""The model card of a bundle: what it is, how good, and how to ask it.

For people who have the folder and nothing else.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ragsearch.results.bundle import CARD_FILE, RETRIEVER_FOLDER, IndexReference, Manifest
from ragsearch.results.leaderboard import BASELINE

_CARD = """\
---
library_name: transformers
license: unknown
tags:
{tags}
- question-answering
- ragsearch
---

# {search}, trial {trial}

{what}

## Scores

On the questions of the search (`val`; `test` where its final runs were scored on them), exact
match and F1 as SQuAD defines them:

{scores}

`manifest.json` holds the whole configuration, {also_pinned}the versions of the libraries and
the SHA-256 of every file.

## Ask it with ragsearch

```
ragsearch ask DIR "your question"
ragsearch eval DIR --data questions.jsonl
```

`DIR` is this folder.{moved}

## Load it with Transformers

{loading}{retriever}"""

_RAG_TAGS = "- rag\n- retrieval-augmented-generation"

_RAG = """\
A {kind} model (Lewis et al. 2020, [arXiv 2005.11401](https://arxiv.org/abs/2005.11401)): the
question encoder `{encoder}` and the generator `{generator}`, fine-tuned together by
[ragsearch](https://pypi.org/project/ragsearch/) {version}. The licences of those two and of the
training data apply.

It answers from passages of the index `{index}`: {n_passages:,} passages of {dimension}
dimensions, fingerprint `{fingerprint}`. No other index fits."""

_CLOSED_BOOK = """\
A closed-book model: the generator `{generator}`, fine-tuned by
[ragsearch](https://pypi.org/project/ragsearch/) {version} to answer questions from its weights
alone, without passages: what retrieval is to be measured against. The licences of the generator
and of the training data apply."""

_LOAD_RAG = """\
```python
from transformers import GenerationConfig, RagTokenizer, {cls}

tokenizer = RagTokenizer.from_pretrained("DIR")
model = {cls}.from_pretrained("DIR").eval()
settings = GenerationConfig.from_pretrained("DIR")
```

Given `contexts` and `doc_scores` of one question, as `ragsearch ask DIR --json` reports them:

```python
import torch

tokens = tokenizer.generator(
    contexts, padding=True, truncation=True, max_length=model.config.max_combined_length,
    return_tensors="pt",
)
{generate}
print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
```
{caveat}"""

_LOAD_CLOSED_BOOK = """\
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("DIR")
model = AutoModelForSeq2SeqLM.from_pretrained("DIR").eval()
settings = GenerationConfig.from_pretrained("DIR")
```

```python
tokens = tokenizer({prefix}"your question", return_tensors="pt")
ids = model.generate(
    tokens["input_ids"], attention_mask=tokens["attention_mask"], generation_config=settings
)
print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
```
"""

_KINDS = {"rag_sequence": "RAG-Sequence", "rag_token": "RAG-Token"}
_CLASSES = {"rag_sequence": "RagSequenceForGeneration", "rag_token": "RagTokenForGeneration"}

_GENERATE = {
    "rag_token": """\
ids = model.generate(
    context_input_ids=tokens["input_ids"],
    context_attention_mask=tokens["attention_mask"],
    doc_scores=torch.tensor([doc_scores]),
    n_docs=len(contexts),
    generation_config=settings,
)""",
    "rag_sequence": """\
model.config.n_docs = len(contexts)
ids = model.generate(
    context_input_ids=tokens["input_ids"],
    context_attention_mask=tokens["attention_mask"],
    doc_scores=torch.tensor([doc_scores]),
    num_beams=settings.num_beams,
    generation_config=settings,
)""",
}

_CAVEAT = """
In Transformers 5, `RagSequenceForGeneration.generate` has the generator read the contexts
without their attention mask, so the padding too, and where the padding token has id 0, as in
T5, beam search fills up shorter answers with end tokens, which count against them. To mend
both, and to get ragsearch's answers, do this once after loading:

```python
plain = model.generator.generate
pad, end = tokenizer.generator.pad_token_id, tokenizer.generator.eos_token_id


def mended(input_ids, **options):
    options["attention_mask"] = (input_ids != pad).long()
    ids = plain(input_ids, **options)
    ended = (ids[:, 1:] == end).cumsum(dim=1) > 0
    ids[:, 2:][ended[:, :-1]] = pad
    return ids


model.generator.generate = mended
```
"""

_RETRIEVER = """
## Retrieve with Transformers, too

`{folder}/` holds the index in Transformers' own format:

```python
from transformers import RagRetriever

retriever = RagRetriever.from_pretrained(
    "DIR", index_name="custom",
    passages_path="DIR/{passages}", index_path="DIR/{index}",
)
model.set_retriever(retriever)
question = tokenizer.question_encoder("your question", return_tensors="pt")
ids = model.generate(
    question["input_ids"],
    attention_mask=question["attention_mask"],
    num_beams=settings.num_beams,
    generation_config=settings,
)
print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
```

Stock code gives the generator the question as the question encoder's tokenizer decodes it (for
DPR in lower case), and cuts a context that is too long at its end, where the question stands.
Its answers can therefore differ from those of `ragsearch ask`.
"""


def write_card(folder: Path, manifest: Manifest, baseline: Mapping[str, float] | None) -> None:
    """Write the model card of a bundle.

    Args:
        folder: The bundle.
        manifest: Its manifest.
        baseline: Metrics of the search's baseline trial, to compare with.
    """
    index = manifest.index
    about = _about_closed_book(manifest) if index is None else _about_rag(manifest, index)
    card = _CARD.format(
        search=manifest.search,
        trial=manifest.trial,
        scores="\n".join(_scores(manifest, baseline)),
        retriever=_retriever(folder),
        **about,
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _about_rag(manifest: Manifest, index: IndexReference) -> dict[str, str]:
    settings = manifest.configuration["model"]
    kind = settings["type"]
    what = _RAG.format(
        kind=_KINDS[kind],
        encoder=_short(settings["question_encoder"]),
        generator=_short(settings["generator"]),
        version=manifest.versions["ragsearch"],
        index=index.name,
        n_passages=index.n_passages,
        dimension=index.dimension,
        fingerprint=index.fingerprint[:16],
    )
    loading = _LOAD_RAG.format(
        cls=_CLASSES[kind],
        generate=_GENERATE[kind],
        caveat=_CAVEAT if kind == "rag_sequence" else "",
    )
    return {
        "tags": _RAG_TAGS,
        "what": what,
        "loading": loading,
        "also_pinned": "the index's fingerprint, ",
        "moved": " Where the index has moved, add `--index FOLDER`.",
    }


def _about_closed_book(manifest: Manifest) -> dict[str, str]:
    settings = manifest.configuration["model"]
    prefix = f"{settings['prefix']!r} + " if settings["prefix"] else ""
    what = _CLOSED_BOOK.format(
        generator=_short(settings["generator"]), version=manifest.versions["ragsearch"]
    )
    loading = _LOAD_CLOSED_BOOK.format(prefix=prefix)
    return {"tags": "- closed-book", "what": what, "loading": loading} | dict.fromkeys(
        ("also_pinned", "moved"), ""
    )


def _scores(manifest: Manifest, baseline: Mapping[str, float] | None) -> Iterator[str]:
    compared = manifest.trial != BASELINE and bool(baseline)
    yield "| metric | this model |" + (" baseline (trial 0) |" if compared else "")
    yield "|---|---|" + ("---|" if compared else "")
    for name, value in manifest.metrics.items():
        if name.startswith(("val/", "test/")):
            other = f" {_shown(baseline.get(name))} |" if compared and baseline else ""
            yield f"| {name} | {value:.4f} |{other}"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"  # without retrieval there is no recall


def _short(model: str) -> str:
    """Name a model; of a folder only the last part, which tells strangers no more."""
    return Path(model).name if Path(model).is_absolute() else model


def _retriever(folder: Path) -> str:
    if not (folder / RETRIEVER_FOLDER).is_dir():
        return ""
    config = json.loads((folder / "config.json").read_text())
    return _RETRIEVER.format(
        folder=RETRIEVER_FOLDER,
        passages=config["passages_path"],
        index=config["index_path"],
    )
