"""After the trials: the best models asked anew, at the price of evaluation only.

Two reasons, in this order. Where epochs before the last were validated on some questions only
(`rung_examples`), the best model of a finished trial may be of such an epoch: it is validated
on all. Then the models of the best trials, and the baseline's, are scored under every setting
of `rescore`. Results stand in the record of each trial, those of a trial all at once; what
stands there is not asked again.
"""

import logging
import time
from collections.abc import Callable, Sequence

from ragsearch.search.afterwards import Settings, to_sweep, validated_in_part
from ragsearch.search.evaluations import Evaluation, Outcome, evaluate_all
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import Rescored, SearchRecord, TrialRecord
from ragsearch.search.trainable import TrialJob
from ragsearch.search.variants import Variants, index_asked

log = logging.getLogger(__name__)

Tell = Callable[[TrialRecord], object]
"""Told of every trial that was rescored."""


def rescore(
    record: SearchRecord, job: TrialJob, variants: Variants, end: EndOfSearch, tell: Tell
) -> None:
    """Ask the best models of a search under all settings that need no training.

    Args:
        record: Of a search whose trials have ended; filled and saved.
        job: What its trials share.
        variants: The variants of their index, open.
        end: Tells whether the user wants to leave.
        tell: Told of each trial, and of those rescored before.
    """
    spec, started = job.spec, time.monotonic()
    for trial in record.trials.values():
        if trial.rescored:
            tell(trial)  # again: a kill may have come between the record and the telling
    partial: list[tuple[TrialRecord, Settings]] = [
        (trial, [{}]) for trial in validated_in_part(record)
    ]
    _ask(record, job, variants, end, tell, partial)
    swept = to_sweep(record, spec)
    _ask(record, job, variants, end, tell, swept)
    if partial or swept:
        n = sum(len(settings) for _, settings in [*partial, *swept])
        log.info("rescored %d settings in %.0f s", n, time.monotonic() - started)


def _ask(
    record: SearchRecord,
    job: TrialJob,
    variants: Variants,
    end: EndOfSearch,
    tell: Tell,
    asked: Sequence[tuple[TrialRecord, Settings]],
) -> None:
    data = job.spec.file.data

    def index_of(one: Evaluation) -> str | None:
        return index_asked(job.spec, record.trials[one.key].params)

    evaluations = [
        Evaluation(
            trial.trial, record.folder / trial.checkpoint, data.val, data.n_val, settings
        )
        for trial, settings in asked
        if trial.checkpoint is not None
    ]
    for part in variants.stretches(evaluations, index_of, "models to rescore"):
        for outcome in evaluate_all(job, part, lambda: end.is_cut_off):
            _keep(record, outcome, tell)
        if end.is_cut_off:
            return


def _keep(record: SearchRecord, outcome: Outcome, tell: Tell) -> None:
    trial = record.trials[outcome.evaluation.key]
    if outcome.reason:
        log.warning("trial %d could not be rescored: %s", trial.trial, outcome.reason)
        return
    trial.rescored = _rescored(outcome)
    record.save()
    tell(trial)
    log.info("trial %d rescored: %s", trial.trial, _best(record, trial))


def _rescored(outcome: Outcome) -> list[Rescored]:
    return [
        Rescored(dict(values), {f"val/{name}": value for name, value in scored.metrics.items()})
        for values, scored in zip(outcome.evaluation.settings, outcome.scored, strict=True)
    ]


def _best(record: SearchRecord, trial: TrialRecord) -> str:
    setting = record.best_setting(trial)
    assert setting is not None, "it has just been rescored"
    values = ", ".join(f"{path}={value}" for path, value in setting.values.items())
    return f"{record.metric} {setting.metrics[record.metric]:.4f} with {values or 'its own'}"
