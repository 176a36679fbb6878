"""Ray Tune's searcher over the study: hands out trials, passes on what comes of them.

The study and the record are the truth, and Tune only executes: a search that is resumed is a
new experiment of Tune, whose searcher first hands out the trials that go on. Nothing of it is
saved with Tune's state.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher
from typing_extensions import override

from ragsearch.search.ending import how_ended
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import compared
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.study import Asked, SearchStudy
from ragsearch.spec import Spec
from ragsearch.tracking.trials import is_validation


class StudySearcher(Searcher):
    """Proposes the trials of a search, numbered from 0."""

    def __init__(
        self, spec: Spec, study: SearchStudy, going_on: Iterable[Asked], end: EndOfSearch
    ) -> None:
        """Prepare.

        Args:
            spec: The search; `budget.trials` are proposed in all.
            study: Its study, open.
            going_on: Trials proposed before that have not ended; they come first.
            end: What ends the search.
        """
        first = spec.file.objectives[0]
        super().__init__(metric=first.metric, mode=first.goal)
        self._metrics = [objective.metric for objective in spec.file.objectives]
        self._n_trials, self._study, self._end = spec.file.budget.trials, study, end
        self._going_on, self._live = deque(going_on), dict[str, Asked]()

    @override
    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Give the config of a Tune trial: its number and its values."""
        with self._end.at_full_disk():
            asked = self._next()
            if asked is None:
                return Searcher.FINISHED  # type: ignore[return-value] # as Ray has it
            self._live[trial_id] = asked
            return {TRIAL_KEY: asked.number, **asked.values}
        return None  # the disk is full, and the search about to end

    def _next(self) -> Asked | None:
        if self._going_on:
            return self._going_on.popleft()
        if self._study.n_asked >= self._n_trials or not self._end.budget.is_patient:
            return None
        return self._study.ask()

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a validation."""
        with self._end.at_full_disk():
            self._report(self._live[trial_id], result)

    def _report(self, asked: Asked, result: dict[str, Any]) -> None:
        if is_validation(result):
            values = [compared(result, metric) for metric in self._metrics]
            self._study.report(asked, result["epoch"], values)

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take how a trial ended; the last result of one that was stopped comes only here."""
        asked = self._live.pop(trial_id)
        ending = how_ended(result or {}, failed=error)
        with self._end.at_full_disk():
            self._report(asked, result or {})
            self._study.tell(asked, ending.status, ending.reason)

    def on_pause(self, trial_id: str) -> None:
        """Take note of nothing: a trial that pauses has not ended."""

    def on_unpause(self, trial_id: str) -> None:
        """Take note of nothing."""

    @override
    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing: the study is on disk already."""

    @override
    def __getstate__(self) -> dict[str, object]:
        """Tune pickles its searcher, though nobody reads it."""
        return {}
