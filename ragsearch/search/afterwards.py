"""Which trials of a search are asked anew and trained again after it, and what of that is left.

In: a record and its spec. Out: trials and settings. Reads nothing: no Ray, no torch.
"""

from collections.abc import Iterator

from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.spec import Spec, TrialSection, with_values

BASELINE = 0
"""Number of the baseline."""

Settings = list[dict[str, object]]
"""What differs from a trial, by dotted path, in each setting; nothing in the trained one."""


def lines(spec: Spec, n_test: int | None) -> Iterator[str]:
    """Yield what follows the trials of a search, and how much of it."""
    n_rung, final = spec.file.search.scheduler.rung_examples, spec.file.final
    if n_rung is not None:
        yield f"rungs     epochs before the last are validated on {n_rung} questions"
    if n := len(spec.rescore_settings):
        k = spec.file.search.rescore_top_k
        yield f"rescore   {n} settings of the {k} best models and the baseline's"
    if final is not None:
        n = len(final.seeds)
        yield (
            f"final     the {final.top_k} best and the baseline trained with {n} "
            f"{'seed' if n == 1 else 'seeds'} each, scored on {n_test} test questions"
        )


def validated_in_part(record: SearchRecord) -> list[TrialRecord]:
    """Return finished trials whose best model was validated on some questions only."""
    finished = (t for t in record.trials.values() if t.status is Status.FINISHED)
    return [trial for trial in finished if trial.checkpoint and record.is_partial(trial)]


def to_sweep(record: SearchRecord, spec: Spec) -> list[tuple[TrialRecord, Settings]]:
    """Return trials whose models are to be asked under several settings, and these.

    Left out is what was asked already; and trials of `final`, which were trained again under
    the setting that was their best then.
    """
    settled = {run.trial for run in record.final}
    asked = [
        (trial, settings_for(spec, trial))
        for trial in best_and_baseline(record, spec.file.search.rescore_top_k)
        if trial.checkpoint and trial.trial not in settled
    ]
    return [
        (trial, settings)
        for trial, settings in asked
        if len(settings) > 1 and settings != [known.values for known in trial.rescored]
    ]


def settings_for(spec: Spec, trial: TrialRecord) -> Settings:
    """Return what a trial's model is to be asked under: as it was trained, and what differs."""
    trained = spec.trial_with(trial.params)
    distinct: dict[TrialSection, dict[str, object]] = {trained: {}}
    for values in spec.rescore_settings:
        distinct.setdefault(with_values(trained, values), values)
    return list(distinct.values())


def best_and_baseline(record: SearchRecord, top_k: int) -> list[TrialRecord]:
    """Return the best trials of a search, and the baseline if it has a rank."""
    ranked = record.ranked()
    baseline = [trial for trial in ranked[top_k:] if trial.trial == BASELINE]
    return ranked[:top_k] + baseline


def finalists(record: SearchRecord, top_k: int) -> list[TrialRecord]:
    """Return the best trials of a search, and the baseline, whatever became of it."""
    best = record.ranked()[:top_k]
    baseline = record.trials.get(BASELINE)
    return best if baseline is None or baseline in best else [*best, baseline]


def n_kept(spec: Spec) -> int:
    """Return of how many of the best trials the models are needed after the search."""
    file = spec.file
    swept = file.search.rescore_top_k if spec.rescored else 0
    return max(1, swept, 0 if file.final is None else file.final.top_k)


def is_something_left(record: SearchRecord, spec: Spec) -> bool:
    """Tell whether `rescore` or `final` has something to do when the trials have ended."""
    if not record.ranked():
        return False
    if validated_in_part(record) or to_sweep(record, spec):
        return True
    final = spec.file.final
    if final is None:
        return False
    known = {(run.trial, run.seed): run for run in record.final}
    runs = [
        known.get((trial.trial, seed))
        for trial in finalists(record, final.top_k)
        for seed in final.seeds
    ]
    # those that failed are tried again with what else there is, not for their own sake
    return any(run is None or run.is_open for run in runs)
