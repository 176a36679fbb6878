"""`budget.disk`: models of ended trials and final runs are given up for it, the worst first.

First go those of final runs that were scored on test, of each trial all but the seed that is
best on validation. Never given up: those of the best trials, as many as are asked or trained
again after the search and at least one; the baseline's; and those of what runs or can go on.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ragsearch.search.budget import Budget
from ragsearch.search.record import FinalRun, SearchRecord, TrialRecord

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 2.0


class Room:
    """Keeps the folder of a search within a number of bytes."""

    def __init__(
        self, record: SearchRecord, budget: Budget, limit: int | None, n_best: int = 1
    ) -> None:
        """Prepare.

        Args:
            record: The search.
            budget: Told how much is used, and when the rest is too much.
            limit: Bytes; None to keep everything.
            n_best: Of how many of the best trials the models are kept in any case.
        """
        self._record, self._budget, self._limit = record, budget, limit
        self._n_best = n_best
        self._looked_at = -_LOOK_AGAIN_S
        self.over: str | None = None
        """That what must be kept is too much, in words; None while it is not."""

    def make(self) -> None:
        """Give up models until the folder is small enough; look at most every two seconds."""
        if self._limit is None or time.monotonic() < self._looked_at + _LOOK_AGAIN_S:
            return
        used = folder_bytes(self._record.folder)
        expendable = self._expendable()
        while used > self._limit and (one := next(expendable, None)) is not None:
            used -= self._give_up(one)
        self._budget.disk_bytes = used
        self.over = self._budget.full(used) if used > self._limit else None
        self._looked_at = time.monotonic()

    def _expendable(self) -> Iterator[TrialRecord | FinalRun]:
        """Yield those whose models may go: of trials without a rank first, then the worst."""
        yield from self._spare_seeds()
        ranked = self._record.ranked()
        kept = {0} | {trial.trial for trial in ranked[: self._n_best]}
        ranks = {trial.trial: -rank for rank, trial in enumerate(ranked)}
        by_rank = sorted(
            self._record.trials.values(), key=lambda trial: ranks.get(trial.trial, -len(ranks))
        )
        for trial in by_rank:
            if trial.status.has_ended and trial.trial not in kept and trial.checkpoint:
                yield trial

    def _spare_seeds(self) -> Iterator[FinalRun]:
        """Yield final runs that are over, but for the best seed of each trial; worst first."""
        record, by_trial = self._record, dict[int, list[tuple[float, FinalRun]]]()
        for run in record.final:
            if run.test is not None and run.val is not None:
                score = record.sign * run.val[record.metric]
                by_trial.setdefault(run.trial, []).append((score, run))
        best_first = (sorted(runs, key=lambda row: -row[0]) for runs in by_trial.values())
        spare = [row for runs in best_first for row in runs[1:]]
        for _, run in sorted(spare, key=lambda row: row[0]):
            if run.checkpoint:
                yield run

    def _give_up(self, one: TrialRecord | FinalRun) -> int:
        assert one.checkpoint is not None, "only these are expendable"
        folder = self._record.folder / one.checkpoint
        n_bytes = folder_bytes(folder)
        if isinstance(one, FinalRun):
            log.info("final %s: its model is given up for budget.disk", one.name)
            one.checkpoint = None
            self._record.save()
        else:
            log.info("trial %d: its model is given up for budget.disk", one.trial)
            self._record.note(one.trial, self._budget.used_s, checkpoint=None)
        shutil.rmtree(folder, ignore_errors=True)
        return n_bytes


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; some may vanish meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += 0 if file.is_dir() else file.stat().st_size
        except FileNotFoundError:
            continue
    return total
