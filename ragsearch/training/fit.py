"""A whole trial: configuration in, one report an epoch out.

The caller says where reports go; a report that carries a better model than any before it can be
saved by its `save`.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from ragsearch.data.questions import Question
from ragsearch.retrieval.retriever import Retriever
from ragsearch.spec import ObjectiveSection, TrialSection
from ragsearch.training.loss import DivergedError
from ragsearch.training.model import TrialModel, assemble
from ragsearch.training.module import RagModule, Step
from ragsearch.training.origin import origin_of
from ragsearch.training.pipeline import Pipeline
from ragsearch.training.rungs import Rungs, Validations, stratified
from ragsearch.training.state import Keeper, Progress, open_state
from ragsearch.training.tokens import PassageTokens, open_tokens
from ragsearch.training.workers import Workers

__all__ = ["DivergedError", "EpochReport", "fit_module", "fit_trial"]


_WORSE_THAN_GUESSING = 3.0
"""A validation loss above so many times that of guessing, log(vocabulary) nats a token, has
exploded: broken weights get there, while a model that is merely sure of itself may pass 1."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The state of a trial after one validation."""

    epoch: int
    """Epochs done, from 1."""
    metrics: dict[str, float]
    """`val/...`, `train/...` and `time/...`."""
    compared: float
    """The objective on the questions that all validations of all trials ask."""
    is_best: bool
    """No validation of this trial before had as good an objective on them."""
    is_last: bool
    """The trial ends with it: at `max_epochs`, or because its patience is at an end."""
    save: Callable[[Path], None]
    """Write the model as it is now into a folder."""
    save_state: Callable[[Path], None]
    """Write what `fit_trial` needs to go on from here into a folder."""


def fit_trial(  # noqa: PLR0913 (what a trial is made of, and who trains it)
    trial: TrialSection,
    questions: tuple[Sequence[Question], Sequence[Question]],
    retriever: Retriever | None,
    report: Callable[[EpochReport], None],
    *,
    objective: ObjectiveSection,
    seed: int,
    workers: Workers = Workers(),
    tokens: Path | None = None,
    rung_examples: int | None = None,
    resume: Path | None = None,
    mutable: Sequence[str] = (),
    times_answers: bool = False,
) -> None:
    """Fine-tune one configuration and report after every epoch.

    A trial that was interrupted after an epoch and goes on from it reports what it would have
    reported without the interruption, times aside.

    Args:
        trial: The configuration.
        questions: Those to train on, those to validate on.
        retriever: Whoever finds passages; None for a closed-book trial.
        report: Called after each validation.
        objective: Decides which epoch is the best.
        seed: Of dropout, and of the order of questions.
        workers: Who trains it together; each of them calls this with its own, and reports the
            same.
        tokens: Where `write_tokens` put tokens of passages; those of this trial's index and
            tokenizer are read if they are there.
        rung_examples: How many of the questions to validate on before the last epoch, drawn by
            `seed`; all by default.
        resume: Where a report of this trial saved its state: it goes on after that epoch. None
            starts it.
        mutable: Paths in the trial whose values may be others than those of that state.
        times_answers: Whether each validation also measures `val/latency_ms_p95`.

    Raises:
        BadInputError: If the state is damaged, or not of this trial.
        DivergedError: If a loss or the question encoder's output is no longer finite, or the
            validation loss far above that of guessing.
    """
    origin = origin_of(
        trial,
        questions,
        retriever,
        workers,
        seed=seed,
        objective=objective.model_dump(),
        rung_examples=rung_examples,
    )
    order = torch.Generator().manual_seed(seed)
    before = None if resume is None else open_state(resume, origin, mutable)
    keeper = Keeper(origin, order, before)
    if keeper.so_far.is_over:
        return
    model = _seeded(trial, seed, workers)
    pipeline = Pipeline(model, retriever, tokens_for(tokens, model, retriever))
    module = RagModule(pipeline, workers, keeper.so_far.done, times_answers=times_answers)
    train, val = questions
    steps = Steps(_loader(train, trial.optim.effective_batch, order), workers)
    asked = _validations(val, workers, trial.train.eval_batch_size, rung_examples, seed)
    fit_module(module, steps, asked, _Reporter(module, objective, report, asked, keeper))


def _seeded(trial: TrialSection, seed: int, workers: Workers) -> TrialModel:
    """Return the model of a trial, all random numbers drawn from now on being this worker's."""
    pl.seed_everything(seed, verbose=False)
    model = assemble(trial)
    if workers.rank:
        torch.manual_seed(seed + workers.rank)  # dropout of its own, on questions of its own
    return model


def _validations(
    val: Sequence[Question], workers: Workers, batch_size: int, n: int | None, seed: int
) -> Validations:
    """Return what each epoch is validated on."""

    def shares(questions: Sequence[Question]) -> Shares:
        return Shares(_loader(questions, workers.n * batch_size), workers)

    if n is None:
        return Validations(shares(val))
    some = stratified(val, n, seed)
    ids, compared = ([question.id for question in questions] for questions in (val, some))
    return Validations(shares(val), Rungs(shares(some), frozenset(compared), ids))


def fit_module(
    module: RagModule, train: "Steps", val: "Shares | Validations", watcher: pl.Callback
) -> None:
    """Train a module for its trial's epochs that are left, each followed by a validation.

    One whose trial has no epochs is validated as it is.

    Args:
        module: Its pipeline is closed at the end.
        train: Its steps.
        val: What it is validated on.
        watcher: Told by Lightning what happens.

    Raises:
        DivergedError: If a loss or the question encoder's output is no longer finite.
    """
    pipeline, trial = module.pipeline, module.pipeline.model.trial
    with _quiet(), closing(pipeline):
        trainer = _trainer(trial, watcher, module.done.epochs)
        if trial.train.max_epochs:
            trainer.fit(module, train, val)
        else:
            trainer.validate(module, val, verbose=False)


def tokens_for(
    folder: Path | None, model: TrialModel, retriever: Retriever | None
) -> PassageTokens | None:
    """Return a retriever's passages as a model's generator reads them, if they are there."""
    if folder is None or retriever is None:
        return None
    return open_tokens(folder, retriever, model.context_builder())


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Lightning has to say of itself, and what torch says of Lightning."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # few workers; models in evaluation mode, which `on_train_epoch_start` sees to
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")
        # Lightning 2.6 asks torch 2.13 in words that torch deprecates
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield


def _trainer(trial: TrialSection, watcher: pl.Callback, n_done: int = 0) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=trial.train.precision,
        max_epochs=trial.train.max_epochs - n_done,
        num_sanity_val_steps=0,
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loader(
    questions: Sequence[Question], batch_size: int, order: torch.Generator | None = None
) -> DataLoader[list[Question]]:
    return DataLoader(
        cast("Dataset[list[Question]]", list(questions)),  # a list does all a `Dataset` does
        batch_size=batch_size,
        shuffle=order is not None,
        generator=order,
        collate_fn=list,
    )


class Shares:
    """A worker's share of every batch: as many for each worker, some of them empty."""

    def __init__(self, batches: DataLoader[list[Question]], workers: Workers) -> None:
        self._batches, self._workers = batches, workers

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Question]]:
        """Yield the share of every batch."""
        yield from map(self._workers.share, self._batches)


class Steps:
    """A worker's share of the batches of an epoch, each with the one that follows."""

    def __init__(self, batches: DataLoader[list[Question]], workers: Workers) -> None:
        self._shares = Shares(batches, workers)

    def __len__(self) -> int:
        """Return the number of steps an epoch."""
        return len(self._shares)

    def __iter__(self) -> Iterator[Step]:
        """Yield every share once, the last one with nothing to follow."""
        shares: Iterable[list[Question] | None] = chain(self._shares, [None])
        for questions, following in pairwise(shares):
            assert questions is not None, "only the last one is followed by none"
            yield Step(questions, following)


class _Reporter(pl.Callback):
    """Reports each validation; before the first one, has a trial go on from where it was."""

    def __init__(
        self,
        module: RagModule,
        objective: ObjectiveSection,
        report: Callable[[EpochReport], None],
        asked: Validations,
        keeper: Keeper,
    ) -> None:
        self._model, self._module, self._report = module.pipeline.model, module, report
        self._asked = asked
        asked.is_last = not self._model.trial.train.max_epochs
        self._metric = objective.metric
        self._sign = 1.0 if objective.goal == "max" else -1.0
        self._keeper, self._so_far = keeper, keeper.so_far

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keeper.restore(self._module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        n_epochs = self._model.trial.train.max_epochs
        self._asked.is_last = self._so_far.epoch + 1 == n_epochs

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = dict(self._module.epoch_metrics)
        self._check(metrics["val/nll"])
        compared = self._module.compared.get(self._metric, metrics[self._metric])
        if self._asked.rungs is not None and not self._asked.is_partial:
            metrics[f"rung/{self._metric}"] = compared
        self._so_far, before = self._progress(self._sign * compared), self._so_far
        trainer.should_stop = self._so_far.is_over
        self._report(
            EpochReport(
                self._so_far.epoch,
                metrics,
                compared,
                self._so_far.best > before.best,
                self._so_far.is_over,
                self._model.save,
                self._keeper.keep(self._module, self._so_far),
            )
        )

    def _progress(self, score: float) -> Progress:
        """Return how far the trial is after a validation."""
        settings, before = self._model.trial.train, self._so_far
        n_worse = 0 if score > before.best else before.n_worse + 1
        if not settings.max_epochs:
            return Progress(best=max(score, before.best), n_worse=n_worse, is_over=True)
        epoch = before.epoch + 1
        is_over = n_worse == settings.early_stopping_patience or epoch == settings.max_epochs
        n_steps = self._module.schedule.last_epoch
        return Progress(epoch, n_steps, max(score, before.best), n_worse, is_over)

    def _check(self, nll: float) -> None:
        guessing = math.log(self._model.generator.config.vocab_size)
        if not nll <= _WORSE_THAN_GUESSING * guessing:
            raise DivergedError(
                f"the validation loss is {nll:.4g} nats a token, and guessing any token costs "
                f"{guessing:.3g}; try a lower learning rate"
            )
