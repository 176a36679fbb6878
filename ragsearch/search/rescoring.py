"""After the trials: the best models asked anew, at the price of evaluation only.

Two reasons, in this order. Where epochs before the last were validated on some questions only
(`rung_examples`), the best model of a finished trial may be of such an epoch: it is validated
on all. Then the models of the best trials, and the baseline's, are scored under every setting
of `rescore`. Results stand in the record of each trial, those of a trial all at once.
"""

import logging
import time
from collections.abc import Callable, Sequence

from ragsearch.search.evaluations import Evaluation, Outcome, evaluate_all
from ragsearch.search.record import Rescored, SearchRecord, Status, TrialRecord
from ragsearch.search.trainable import TrialJob
from ragsearch.spec import Spec, TrialSection, with_values

log = logging.getLogger(__name__)

BASELINE = 0

Tell = Callable[[TrialRecord], object]
"""Told of every trial that was rescored."""


def rescore(
    record: SearchRecord, job: TrialJob, interrupted: Callable[[], bool], tell: Tell
) -> None:
    """Ask the best models of a search under all settings that need no training.

    Args:
        record: Of a search whose trials have ended; filled and saved.
        job: What its trials share, their pools being there.
        interrupted: Tells whether the user wants to leave.
        tell: Told of each trial.
    """
    spec, started = job.spec, time.monotonic()
    partial = [
        trial
        for trial in record.trials.values()
        if trial.status is Status.FINISHED and record.is_partial(trial)
    ]
    as_trained: list[dict[str, object]] = [{}]
    _ask(record, job, interrupted, tell, [(trial, as_trained) for trial in partial])
    swept = [(trial, settings_for(spec, trial)) for trial in best_and_baseline(record, spec)]
    swept = [(trial, settings) for trial, settings in swept if len(settings) > 1]
    _ask(record, job, interrupted, tell, swept)
    if partial or swept:
        n = len(partial) + sum(len(settings) for _, settings in swept)
        log.info("rescored %d settings in %.0f s", n, time.monotonic() - started)


def best_and_baseline(record: SearchRecord, spec: Spec) -> list[TrialRecord]:
    """Return the best trials of a search, and the baseline if it is not among them."""
    ranked = record.ranked()
    baseline = [trial for trial in ranked if trial.trial == BASELINE]
    best = ranked[: spec.file.search.rescore_top_k]
    return best + [trial for trial in baseline if trial not in best]


def settings_for(spec: Spec, trial: TrialRecord) -> list[dict[str, object]]:
    """Return what a trial's model is to be asked under: as it was trained, and what differs."""
    trained = spec.trial_with(trial.params)
    distinct: dict[TrialSection, dict[str, object]] = {trained: {}}
    for values in spec.rescore_settings:
        distinct.setdefault(with_values(trained, values), values)
    return list(distinct.values())


def _ask(
    record: SearchRecord,
    job: TrialJob,
    interrupted: Callable[[], bool],
    tell: Tell,
    asked: Sequence[tuple[TrialRecord, list[dict[str, object]]]],
) -> None:
    data = job.spec.file.data
    evaluations = [
        Evaluation(
            trial.trial, record.folder / trial.checkpoint, data.val, data.n_val, settings
        )
        for trial, settings in asked
        if trial.checkpoint is not None
    ]
    if not evaluations:
        return
    for outcome in evaluate_all(job, evaluations, interrupted):
        trial = record.trials[outcome.evaluation.key]
        if outcome.reason:
            log.warning("trial %d could not be rescored: %s", trial.trial, outcome.reason)
            continue
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
