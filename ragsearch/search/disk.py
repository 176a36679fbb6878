"""`budget.disk`: models of ended trials are given up for it, the worst first.

Never given up: those of the best trials, as many as are asked or trained again after the
search and at least one; the baseline's; and those of trials that run or can go on.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ragsearch.search.budget import Budget
from ragsearch.search.record import SearchRecord, TrialRecord

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

    def make(self) -> None:
        """Give up models until the folder is small enough; look at most every two seconds."""
        if self._limit is None or time.monotonic() < self._looked_at + _LOOK_AGAIN_S:
            return
        used = folder_bytes(self._record.folder)
        expendable = self._expendable()
        while used > self._limit and (trial := next(expendable, None)) is not None:
            used -= self._give_up(trial)
        self._budget.disk_bytes = used
        if used > self._limit:
            self._budget.full(used)
        self._looked_at = time.monotonic()

    def _expendable(self) -> Iterator[TrialRecord]:
        """Yield trials whose models may go, those without a rank first, then worst first."""
        ranked = self._record.ranked()
        kept = {0} | {trial.trial for trial in ranked[: self._n_best]}
        ranks = {trial.trial: -rank for rank, trial in enumerate(ranked)}
        by_rank = sorted(
            self._record.trials.values(), key=lambda trial: ranks.get(trial.trial, -len(ranks))
        )
        for trial in by_rank:
            if trial.status.has_ended and trial.trial not in kept and trial.checkpoint:
                yield trial

    def _give_up(self, trial: TrialRecord) -> int:
        assert trial.checkpoint is not None, "only these are expendable"
        folder = self._record.folder / trial.checkpoint
        n_bytes = folder_bytes(folder)
        log.info("trial %d: its model is given up for budget.disk", trial.trial)
        self._record.note(trial.trial, self._budget.used_s, checkpoint=None)
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
