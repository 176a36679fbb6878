"""What follows the trials of a search: the best are asked anew, trained again and compared.

In: a record whose trials have ended, its cluster being there. Out: the same record with
`rescored` and `final`, and MLflow told of both.
"""

import logging
from functools import partial

from ragsearch.search.agree import flatten
from ragsearch.search.comparison import Comparison, compare
from ragsearch.search.final import run_final
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import FinalRun, SearchRecord, TrialRecord
from ragsearch.search.rescoring import rescore
from ragsearch.search.trainable import TrialJob
from ragsearch.search.variants import Variants
from ragsearch.spec import with_values
from ragsearch.tracking.final import FinalChild
from ragsearch.tracking.search_run import SearchRun

log = logging.getLogger(__name__)


def finish(
    record: SearchRecord,
    job: TrialJob,
    variants: Variants,
    end: EndOfSearch,
    run: SearchRun | None,
    most_at_once: int | None,
) -> None:
    """Do what is left of `rescore` and `final`; neither counts as wall time of the budget.

    Args:
        record: Of a search whose trials have ended.
        job: What its trials share.
        variants: The variants of their index, open.
        end: Tells whether the user wants to leave.
        run: The search in MLflow; None where it is not there.
        most_at_once: Runs at a time; None where Ray's placing is enough.
    """
    if end.is_cut_off or not record.ranked():
        return
    rescore(record, job, variants, end, partial(_tell_rescored, record, run))
    if job.spec.file.final is None or end.is_cut_off:
        return
    told = partial(_tell_final, record, job, run)
    run_final(record, job, variants, end, told, most_at_once)
    if comparison := compare(record):
        for difference in comparison.differences:
            log.info("final: %s", difference.verdict)
        if run is not None:
            run.log_metrics(_figures(comparison))


def _tell_rescored(record: SearchRecord, run: SearchRun | None, trial: TrialRecord) -> None:
    setting = record.best_setting(trial)
    if run is None or setting is None:
        return
    metrics = {f"rescored/{name}": value for name, value in setting.metrics.items()}
    run.add_rescored(trial.trial, setting.values, metrics)


def _tell_final(
    record: SearchRecord, job: TrialJob, run: SearchRun | None, final: FinalRun
) -> None:
    if run is None:
        return
    trial = job.spec.trial_with(record.trials[final.trial].params)
    run.add_final(
        FinalChild(
            trial=final.trial,
            seed=final.seed,
            status=str(final.status),
            reason=final.reason,
            params=flatten(with_values(trial, final.values).model_dump(mode="json"))
            | {"seed": final.seed},
            epochs=final.epochs,
            scores=(final.val or {}) | (final.test or {}),
        )
    )


def _figures(comparison: Comparison) -> dict[str, float]:
    """Return the comparison as metrics of the search."""
    means = {
        f"final/trial_{one.trial}/{comparison.metric}": one.test for one in comparison.finalists
    }
    gains = {
        f"final/winner_minus_{one.against}/{comparison.metric}": one.by
        for one in comparison.differences
    }
    return {
        f"{name}{end}": value
        for name, interval in (means | gains).items()
        for end, value in zip(("", "_low", "_high"), interval, strict=True)
    }
