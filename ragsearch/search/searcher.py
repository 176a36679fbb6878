"""Ray Tune's searcher over the study: hands out trials, passes on what comes of them.

The study and the record are the truth, and Tune only executes: a search that is resumed is a
new experiment of Tune, whose searcher first hands out the trials that go on. Nothing of it is
saved with Tune's state.

Where variants of the index are served in turn, a trial whose variant is not served waits. The
study is asked on until one can run, or too many wait; when nothing runs any more that needs
what is served, the variant of the oldest that waits is, and all that wait for it run.
"""

from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher
from typing_extensions import override

from ragsearch.search.ending import how_ended
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import compared
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.study import Asked, SearchStudy
from ragsearch.search.variants import Variants, index_asked
from ragsearch.spec import Spec
from ragsearch.tracking.trials import is_validation


class StudySearcher(Searcher):
    """Proposes the trials of a search, numbered from 0."""

    def __init__(
        self,
        spec: Spec,
        study: SearchStudy,
        going_on: Iterable[Asked],
        end: EndOfSearch,
        variants: Variants | None = None,
        most_waiting: int = 0,
    ) -> None:
        """Prepare.

        Args:
            spec: The search; `budget.trials` are proposed in all.
            study: Its study, open.
            going_on: Trials proposed before that have not ended; they come first.
            end: What ends the search.
            variants: The variants of its index, open; None where all are served.
            most_waiting: Trials that may wait for their variant before others are proposed.
        """
        first = spec.file.objectives[0]
        super().__init__(metric=first.metric, mode=first.goal)
        self._metrics = [objective.metric for objective in spec.file.objectives]
        self._spec, self._study, self._end = spec, study, end
        self._variants, self._most_waiting = variants or Variants(), most_waiting
        self._waiting, self._live = list(going_on), dict[str, Asked]()
        self._is_used_up = False

    @override
    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Give the config of a Tune trial: its number and its values."""
        with self._end.at_full_disk():
            asked = self._next()
            if asked is None and self._startable() and self._needs_what_is_served():
                return None  # until that has ended
            if asked is None:
                return Searcher.FINISHED  # type: ignore[return-value] # as Ray has it
            self._live[trial_id] = asked
            return {TRIAL_KEY: asked.number, **asked.values}
        return None  # the disk is full, and the search about to end

    def _next(self) -> Asked | None:
        """Return a trial that can run now, None if there is none."""
        while (asked := self._served()) is None and self._propose():
            pass
        waiting = self._startable()
        if asked or not waiting or self._needs_what_is_served() or self._end.stop_all():
            return asked
        index = self._index_of(waiting[0])
        assert index is not None, "else it had not to wait"
        turn = self._variants.turn_of(index)
        n = sum(self._index_of(one) in turn for one in waiting)
        self._variants.bring(index, "1 trial" if n == 1 else f"{n} trials")
        return self._served()

    def _served(self) -> Asked | None:
        """Take the oldest trial out of those that wait whose variant is served."""
        for asked in self._startable():
            if self._variants.has(self._index_of(asked)):
                self._waiting.remove(asked)
                return asked
        return None

    def _startable(self) -> list[Asked]:
        """Return the trials that wait, but for new ones where no more are to be started."""
        is_patient = self._end.budget.is_patient
        return [asked for asked in self._waiting if asked.has_started or is_patient]

    def _propose(self) -> bool:
        """Have one more trial wait; tell whether there was one, and it may."""
        is_over = self._study.n_asked >= self._spec.file.budget.trials or self._is_used_up
        if is_over or not self._end.budget.is_patient or self._is_full():
            return False
        asked = self._study.ask()
        self._is_used_up = asked is None
        self._waiting += [asked] if asked else []
        return asked is not None

    def _is_full(self) -> bool:
        return self._variants.take_turns and len(self._waiting) >= self._most_waiting

    def _needs_what_is_served(self) -> bool:
        """Tell whether a trial runs, or is tried again, that reads passages."""
        return any(self._index_of(asked) is not None for asked in self._live.values())

    def _index_of(self, asked: Asked) -> str | None:
        if not self._variants.take_turns:
            return None  # whatever it is, it is served
        return index_asked(self._spec, asked.values)

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
