"""What trains in the bench, each in a process of its own, so that peak memory is its own.

All are given the same task: weights, passages, questions in the same batches, and the same
optimiser, clipping and decoding. `Reference` trains nothing but the question encoder: it finds
out what the others must compute, and what the bare generator is to read.

Axes: B questions, K passages per question, S context tokens, T answer tokens.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import RagRetriever
from typing_extensions import override

from ragsearch.bench.train_plan import Device
from ragsearch.bench.trainee import Measured, PlainTrainee, Task, Trainee
from ragsearch.data.questions import Question
from ragsearch.index.hf import FAISS, PASSAGES
from ragsearch.index.open import open_index
from ragsearch.retrieval.retriever import InProcessRetriever, Retriever
from ragsearch.training.fit import Shares, Steps, fit_module
from ragsearch.training.loss import marginal_loss
from ragsearch.training.model import RagModel, assemble
from ragsearch.training.module import RagModule
from ragsearch.training.parts import open_generator
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.workers import Workers


class First(NamedTuple):
    """What comes out of the first batch before anything is trained, dropout off."""

    loss: float
    """The mean over target tokens."""
    passages: list[list[str]]
    """Ids of what each question found, best first."""


class Reading(NamedTuple):
    """What must come out, and how much is read for it."""

    first: First
    n_tokens: float
    """Of contexts and targets, of a timed step."""


class Reference(PlainTrainee):
    """The question encoder alone, and our model over the index in this process."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        index = InProcessRetriever(open_index(task.index.folder, verify=False))
        self._pipeline = _pipeline(task, index, self.device)
        assert isinstance(self._pipeline.model, RagModel), "the bench trains RAG models"
        self._model = self._pipeline.model
        self.network = self._model.question_encoder

    def read(self) -> Reading:
        """Leave what the generator reads, and return what must come out."""
        self._model.stop_training()
        tensors: dict[str, Tensor] = {}
        n_tokens = []
        with self._arithmetic():
            first = _first(self._pipeline, self._batches[0])
        for number, batch in enumerate(self._batches):
            tensors |= (read := self._read(f"step {number}", batch))
            n_tokens.append(float(sum(read[name].sum() for name in read if "mask" in name)))
        for number, batch in enumerate(self.task.batches(self.task.questions[1])):
            tensors |= self._read(f"val {number}", batch)
        save_file(tensors, self.task.read)
        timed = n_tokens[self.task.n_warm :]
        return Reading(first, sum(timed) / len(timed))

    @torch.no_grad()
    def _read(self, name: str, batch: Sequence[Question]) -> dict[str, Tensor]:
        texts = [question.question for question in batch]
        retrieved = self._pipeline.retrieve(texts, self.task.trial.retrieval.n_docs)
        contexts = self._pipeline.read(texts, retrieved)
        labels = self._pipeline.labels([question.answers[0] for question in batch])
        return {
            f"{name} input_ids": contexts.input_ids.cpu(),
            f"{name} attention_mask": contexts.attention_mask.cpu(),
            f"{name} labels": labels.ids.cpu(),
            f"{name} label_mask": labels.mask.long().cpu(),
        }

    def question_encoder_s(self) -> float:
        """Return the seconds of a step that trains the question encoder alone."""
        return self._step_s(self._encoder_loss, lambda: None)

    def _encoder_loss(self, number: int) -> Tensor:
        texts = [question.question for question in self._batches[number]]
        return self._model.encode_questions(texts).float().square().mean()


class Bare(PlainTrainee):
    """The generator alone, on the contexts that retrieval would give: the limit."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        generator, self._tokenizer = open_generator(task.trial)
        self.network = self._generator = generator.to(self.device)  # type: ignore[arg-type]
        self._read = {name: t.to(self.device) for name, t in load_file(task.read).items()}

    def run(self) -> Measured:
        """Train and validate."""
        step_s = self._step_s(self._loss, lambda: None)
        self.network.eval()
        batches = self.task.batches(self.task.questions[1])
        calls = [partial(self._validate, at) for at in range(len(batches))]
        val_s = self._timed(calls) / len(batches[0])
        return Measured(step_s, 0.0, val_s, self._peak_bytes())

    def _loss(self, number: int) -> Tensor:
        return self._nll(f"step {number}")

    def _nll(self, name: str) -> Tensor:
        """Return the mean over target tokens, each context read for itself."""
        ids, labels, mask = (
            self._read[f"{name} {part}"] for part in ("input_ids", "labels", "label_mask")
        )
        n_docs = len(ids) // len(labels)
        targets = labels.masked_fill(mask == 0, -100).repeat_interleave(n_docs, dim=0)
        start = self._generator.config.decoder_start_token_id
        inputs = functional.pad(labels, (1, -1), value=start).repeat_interleave(n_docs, dim=0)
        logits = self._generator(
            input_ids=ids,
            attention_mask=self._read[f"{name} attention_mask"],
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    @torch.no_grad()
    def _validate(self, number: int) -> None:
        """Write one answer to every context, and score the right one."""
        name, decode = f"val {number}", self.task.trial.decode
        generator: Any = self._generator  # Any: hardly typed
        with self._arithmetic():
            generator.generate(
                self._read[f"{name} input_ids"],
                attention_mask=self._read[f"{name} attention_mask"],
                max_length=decode.max_length + 1,
                num_beams=decode.num_beams,
                do_sample=False,
            )
            float(self._nll(name))


class Original(PlainTrainee):
    """The original's way: stock `RagRetriever`, stock forward, every context padded.

    What Lightning costs is not in it. Labels begin with the decoder's start token, which the
    original left out for BART (its loss then lacks the first token), so that all designs learn
    the same tokens.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        model = assemble(task.trial)
        assert isinstance(model, RagModel), "the bench trains RAG models"
        network: Any = model.network  # Any: hardly typed
        self._model, self.network = model, network.to(self.device)
        config = network.config
        config.passages_path = str(task.index.export / PASSAGES)
        config.index_path = str(task.index.export / FAISS)
        self._retriever = _TimedRetriever(
            config, model.question_tokenizer, model.generator_tokenizer
        )
        network.set_retriever(self._retriever)

    @torch.no_grad()
    def first(self) -> First:
        """Return what comes out of the first batch."""
        self.network.eval()
        labels = self._labels(self._batches[0])
        with self._arithmetic():
            total = float(self._loss_of(self._batches[0]))
        pad = self._model.generator.config.pad_token_id
        # stock code sums over batch and tokens (trap B13), the start token not among them
        loss = total / int((labels[:, 1:] != pad).sum())
        return First(loss, [[f"p{row}" for row in rows] for rows in self._retriever.ids])

    def run(self) -> Measured:
        """Train and validate."""
        waits = self._retriever.waits_s
        step_s = self._step_s(lambda at: self._loss_of(self._batches[at]), waits.clear)
        waiting_s = sum(waits) / (len(self._batches) - self.task.n_warm)
        self.network.eval()
        batches = self.task.batches(self.task.questions[1])
        calls = [partial(self._validate, batch) for batch in batches]
        val_s = self._timed(calls) / len(batches[0])
        return Measured(step_s, waiting_s, val_s, self._peak_bytes())

    def _loss_of(self, batch: Sequence[Question]) -> Tensor:
        loss: Tensor = self._model.network(
            **self._asked(batch), labels=self._labels(batch), reduce_loss=True
        ).loss
        return loss

    @torch.no_grad()
    def _validate(self, batch: Sequence[Question]) -> None:
        """Write answers, then retrieve and compute again for the loss."""
        decode = self.task.trial.decode
        network: Any = self._model.network  # Any: hardly typed
        is_sequence = self.task.trial.model.type == "rag_sequence"  # the other refuses the word
        with self._arithmetic():
            network.generate(
                **self._asked(batch),
                **({"do_deduplication": False} if is_sequence else {}),
                use_cache=True,
                min_length=1,
                max_length=decode.max_length + 1,
                num_beams=decode.num_beams,
            )
            float(self._loss_of(batch))

    def _asked(self, batch: Sequence[Question]) -> dict[str, Tensor]:
        tokens = self._model.question_tokenizer(
            [question.question for question in batch], padding=True, return_tensors="pt"
        ).to(self.device)
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def _labels(self, batch: Sequence[Question]) -> Tensor:
        tokens = self._model.generator_tokenizer(
            [question.answers[0] for question in batch], padding=True, return_tensors="pt"
        )
        start = self._model.generator.config.decoder_start_token_id
        labels: Tensor = functional.pad(tokens["input_ids"], (1, 0), value=start)
        return labels.to(self.device)


class Ours(Trainee):
    """A trial of ragsearch, trained and validated by Lightning, its passages from a pool."""

    def __init__(self, task: Task) -> None:
        if task.device is Device.CPU:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a trial takes a GPU where it sees one
        super().__init__(task)
        from ragsearch.retrieval.pool import join_pool

        pool = join_pool(task.pool, task.index.manifest.fingerprint, who="bench")
        self._pipeline = _pipeline(task, pool, self.device)

    def first(self) -> First:
        """Return what comes out of the first batch."""
        self._pipeline.model.stop_training()
        with self._arithmetic():
            return _first(self._pipeline, self._batches[0])

    def run(self) -> Measured:
        """Train and validate."""
        train, val = self.task.questions
        size = self.task.trial.optim.effective_batch
        timed = range(self.task.n_warm, len(self._batches))
        watch = _Watch(timed, self._pipeline.waits_s, self._finish)
        fit_module(
            RagModule(self._pipeline),
            Steps(_loader(train, size), Workers()),
            Shares(_loader(val, size), Workers()),
            watch,
        )
        step_s, waiting_s = watch.train_s / len(timed), watch.waiting_s / len(timed)
        return Measured(step_s, waiting_s, watch.val_s / len(val), self._peak_bytes())


class _Watch(pl.Callback):
    """Takes the times of a trial: of its steps after the first few, and of its validation."""

    def __init__(
        self, timed: range, waits_s: Sequence[float], finish: Callable[[], None]
    ) -> None:
        self._timed, self._every_wait_s, self._finish = timed, waits_s, finish
        self._started = 0.0
        self.train_s = self.waiting_s = self.val_s = 0.0

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == self._timed.start:
            self._started = self._now()

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if batch_idx == self._timed[-1]:
            self.train_s = self._now() - self._started
            self.waiting_s = sum(self._every_wait_s[self._timed.start :])

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._now()

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.val_s = self._now() - self._started

    def _now(self) -> float:
        self._finish()
        return time.perf_counter()


class _TimedRetriever(RagRetriever):
    """Stock, and says what each retrieval took; tokenising contexts is not part of it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[no-untyped-call] # Transformers leaves it so
        self.waits_s: list[float] = []
        self.ids: list[list[int]] = []

    @override
    def retrieve(self, question_hidden_states: Any, n_docs: int) -> Any:  # Any: as declared
        start = time.perf_counter()
        found = super().retrieve(question_hidden_states, n_docs)
        self.waits_s.append(time.perf_counter() - start)
        self.ids = found[1].tolist()
        return found


def _pipeline(task: Task, retriever: Retriever, device: torch.device) -> Pipeline:
    model = assemble(task.trial)
    model.network.to(device)
    return Pipeline(model, retriever)


@torch.no_grad()
def _first(pipeline: Pipeline, batch: Sequence[Question]) -> First:
    """Return the loss that a training step minimises, and the passages it reads."""
    texts = [question.question for question in batch]
    retrieved = pipeline.retrieve(texts, pipeline.model.trial.retrieval.n_docs)
    labels = pipeline.labels([question.answers[0] for question in batch])
    logits = pipeline.logits(pipeline.read(texts, retrieved), retrieved.doc_scores, labels)
    scores = retrieved.doc_scores
    loss = marginal_loss(pipeline.model.kind, logits, scores, labels.ids, labels.mask)
    found = [[one.source_id for one in row if one is not None] for row in retrieved.passages]
    return First(float(loss.nll.sum() / labels.mask.sum()), found)


def _loader(questions: Sequence[Question], size: int) -> DataLoader[list[Question]]:
    rows = cast("Dataset[list[Question]]", list(questions))  # a list does all a `Dataset` does
    return DataLoader(rows, batch_size=size, collate_fn=list)
