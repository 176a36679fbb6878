"""HyperBand, whose brackets outlive the process that made them.

What brackets do follows from what the scheduler is told, and in what order. Each call is a line
of `brackets.jsonl` in the search's folder, and a search that goes on tells all of them to its
new scheduler again. Stand-ins of Tune's trials are told then: one of a trial that goes on is
there until Tune has the trial, one of a trial that has ended until its bracket is done with it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, TrialScheduler
from ray.tune.schedulers.hyperband import _Bracket
from typing_extensions import override

from ragsearch.errors import BadInputError
from ragsearch.search.automatic import longest
from ragsearch.search.journal import append_row, read_rows, write_whole
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.space import TRIAL_KEY
from ragsearch.spec import Spec

BRACKETS_FILE = "brackets.jsonl"

_BUSY = {Trial.PENDING, Trial.RUNNING}

Row = Mapping[str, Any]  # Any: as JSON has it
"""What the scheduler was told of a `trial`: the `epoch` it has a result of, None where it has
ended; without an `epoch`, that it was added."""


class HyperBand(HyperBandForBOHB):
    """Synchronous HyperBand (Li et al. 2018, arXiv 1603.06560), the largest bracket first.

    Trials pause at the rungs of their bracket until all of it have come there. The baseline is
    in none: it would have to wait, and to be stopped.
    """

    def __init__(self, spec: Spec) -> None:
        first, eta = spec.file.objectives[0], spec.file.search.scheduler.eta
        super().__init__(
            "epoch", first.metric, first.goal, max_t=longest(spec), reduction_factor=eta
        )
        self._past: _Past | None = None
        self._cut_off: list[Trial] = []
        self._file: Path | None = None
        self._end: EndOfSearch | None = None

    def follow(self, record: SearchRecord, end: EndOfSearch) -> list[int]:
        """Go on with the brackets of a search, and keep in its folder what becomes of them.

        Args:
            record: What was recorded before.
            end: Ends the search where the disk is full.

        Returns:
            The numbers of trials that go on by the record, but were to be stopped.

        Raises:
            BadInputError: If the file of the brackets is damaged.
        """
        file = record.folder / BRACKETS_FILE
        rows = _recorded(_rows_of(file), record)
        past = _Past(self, record)
        for row in rows:
            past.tell(row)
        with end.at_full_disk():
            write_whole(file, "".join(f"{json.dumps(row)}\n" for row in rows))
        self._past, self._file, self._end = past, file, end
        past.settle()
        return past.to_be_stopped()

    def _note(self, trial: Trial, **what: object) -> None:
        if self._file is not None and self._end is not None:
            with self._end.at_full_disk():
                append_row(self._file, {TRIAL_KEY: trial.config[TRIAL_KEY], **what})

    @override
    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        if self._past is not None and self._past.knows(trial):
            self._take_place(trial, self._past)
            return
        self._note(trial)
        if not is_baseline(trial):
            super().on_trial_add(tune_controller, trial)

    def _take_place(self, trial: Trial, past: "_Past") -> None:
        """Put a trial of Tune where its stand-in was."""
        stand_in = past.trials.pop(trial.config[TRIAL_KEY])
        if is_baseline(trial):
            return
        bracket, _ = self._trial_info[trial] = self._trial_info.pop(stand_in)
        goes_on = _replace(bracket, stand_in, trial)
        if not past.has_started(trial):
            return  # it waits for its turn, like any new one
        trial.init_local_path()  # type: ignore[no-untyped-call] # Ray leaves it so
        _set_status(trial, Trial.PAUSED)
        if stand_in.status != Trial.PAUSED:
            self._cut_off.append(trial)
        if goes_on or stand_in.status != Trial.PAUSED:
            bracket.trials_to_unpause.add(trial)

    @override
    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, object]
    ) -> str:
        self._note(trial, epoch=result["epoch"])
        if is_baseline(trial):
            return TrialScheduler.CONTINUE
        if trial in self._cut_off:
            self._cut_off.remove(trial)
        return super().on_trial_result(tune_controller, trial, result)

    @override
    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        self._note(trial, epoch=None)
        if not is_baseline(trial):
            super().on_trial_remove(tune_controller, trial)

    @override
    def _process_bracket(self, tune_controller: TuneController, bracket: _Bracket) -> str:
        if self._past is None:
            return super()._process_bracket(tune_controller, bracket)
        around = cast("TuneController", _Around(tune_controller, self._past))
        action = super()._process_bracket(around, bracket)
        self._past.settle()
        return action

    @override
    def choose_trial_to_run(
        self, tune_controller: TuneController, allow_recurse: bool = True
    ) -> Trial | None:
        trials: list[Trial] = tune_controller.get_trials()  # type: ignore[no-untyped-call]
        for trial in trials:
            if is_baseline(trial) and trial.status == Trial.PENDING:
                return trial
        for trial in self._cut_off:
            if trial.status == Trial.PAUSED:
                return trial
        chosen = super().choose_trial_to_run(tune_controller, allow_recurse)
        if chosen is None or (self._past is not None and self._past.has(chosen)):
            return None
        return chosen


def is_baseline(trial: Trial) -> bool:
    """Tell whether a trial is what all others are measured against: trial 0."""
    return bool(trial.config[TRIAL_KEY] == 0)


def _replace(bracket: _Bracket, before: Trial, now: Trial) -> bool:
    """Have a trial in a bracket in the place of another; return whether that was to go on."""
    bracket._live_trials = {  # noqa: SLF001
        (now if trial is before else trial): result
        for trial, result in bracket._live_trials.items()  # noqa: SLF001
    }
    everyone = bracket._all_trials  # noqa: SLF001
    everyone[everyone.index(before)] = now
    if before not in bracket.trials_to_unpause:
        return False
    bracket.trials_to_unpause.remove(before)
    return True


def _rows_of(file: Path) -> list[Row]:
    try:
        return [*read_rows(file)]
    except ValueError as error:
        what = f"is damaged ({error}); restore it, or remove it for new brackets"
        raise BadInputError.single(file, what) from error


def _recorded(rows: list[Row], record: SearchRecord) -> list[Row]:
    """Return what is true by the record, which is told after the scheduler is.

    A result that it lacks comes again, and what followed from it, too.
    """
    found: list[Row] = []
    added = {row[TRIAL_KEY]: place for place, row in enumerate(rows) if "epoch" not in row}
    for place, row in enumerate(rows):
        number, epoch = row[TRIAL_KEY], row.get("epoch")
        known = record.trials.get(number) or TrialRecord(number, {})
        if epoch is not None and all(epoch != one["epoch"] for one in known.epochs):
            break
        is_tried_again = added.get(number, -1) > place  # after a crash
        if row.get("epoch", 0) is not None or known.status.has_ended or is_tried_again:
            found.append(row)
    return found


def _set_status(trial: Trial, status: str) -> None:
    trial.set_status(status)  # type: ignore[no-untyped-call] # Ray leaves it so


class _Past:
    """Stand-ins of trials of earlier runs, and what schedulers ask of Tune about them."""

    search_alg = SimpleNamespace(
        searcher=SimpleNamespace(on_pause=lambda _: None, on_unpause=lambda _: None)
    )

    def __init__(self, scheduler: HyperBand, record: SearchRecord) -> None:
        self._scheduler, self._record = scheduler, record
        self._results = {
            number: {int(epoch["epoch"]): epoch for epoch in known.epochs}
            for number, known in record.trials.items()
        }
        self._ended = {
            number: known.status
            for number, known in record.trials.items()
            if known.status.has_ended
        }
        self.trials: dict[int, Trial] = {}
        """By their numbers."""

    @property
    def _as_controller(self) -> TuneController:
        return cast("TuneController", self)

    def get_trials(self) -> list[Trial]:
        """Return all of them."""
        return [*self.trials.values()]

    def knows(self, trial: Trial) -> bool:
        """Return whether a trial of Tune has a stand-in, which is not the trial itself."""
        stand_in = self.trials.get(trial.config[TRIAL_KEY])
        if stand_in is None or stand_in is trial:
            return False
        return bool(stand_in.status != Trial.TERMINATED)

    def has(self, trial: Trial) -> bool:
        """Return whether a trial is a stand-in."""
        return self.trials.get(trial.config[TRIAL_KEY]) is trial

    def has_started(self, trial: Trial) -> bool:
        """Return whether a trial had started when the search was interrupted."""
        return trial.config[TRIAL_KEY] in self._results

    def tell(self, row: Row) -> None:
        """Tell the scheduler again what it was told."""
        number = row[TRIAL_KEY]
        trial = self.trials.get(number)
        if "epoch" not in row:
            self._add(number)
        elif trial is None or trial.status == Trial.TERMINATED:
            return  # it ended as its bracket had it
        elif row["epoch"] is None:
            self.stop_trial(trial)
        else:
            self._report(trial, self._results[number][row["epoch"]])
        if not any(one.status in _BUSY for one in reversed(self.trials.values())):
            self._scheduler.choose_trial_to_run(self._as_controller)  # as Tune does each time

    def _add(self, number: int) -> None:
        name = f"before-{number}"
        trial = Trial(name, stub=True, trial_id=name, config={TRIAL_KEY: number})
        self.trials[number] = trial
        self._scheduler.on_trial_add(self._as_controller, trial)

    def _report(self, trial: Trial, epoch: Mapping[str, float]) -> None:
        _set_status(trial, Trial.RUNNING)
        action = self._scheduler.on_trial_result(self._as_controller, trial, {**epoch})
        if action == TrialScheduler.PAUSE:
            _set_status(trial, Trial.PAUSED)
        elif action == TrialScheduler.STOP:
            self.stop_trial(trial)

    def stop_trial(self, trial: Trial) -> None:
        """Have the scheduler forget a trial."""
        if trial.status == Trial.TERMINATED:
            return
        _set_status(trial, Trial.TERMINATED)
        self._scheduler.on_trial_remove(self._as_controller, trial)

    def settle(self) -> None:
        """End those whose trial has ended and does not wait for others of its bracket."""
        for number, trial in self.trials.items():
            if number in self._ended and not self._waits(trial):
                self.stop_trial(trial)

    def _waits(self, trial: Trial) -> bool:
        if trial.status != Trial.PAUSED:
            return False
        status = self._ended[trial.config[TRIAL_KEY]]
        bracket, _ = self._scheduler._trial_info[trial]  # noqa: SLF001
        is_told = status in {Status.FINISHED, Status.STOPPED_EARLY}
        return is_told and trial not in bracket.trials_to_unpause

    def to_be_stopped(self) -> list[int]:
        """Return the numbers of those that were stopped and have not ended by the record."""
        return [
            number
            for number, trial in self.trials.items()
            if trial.status == Trial.TERMINATED and number not in self._ended
        ]


class _Around:
    """Tune's controller, but for stand-ins, of which it does not know."""

    def __init__(self, controller: TuneController, past: _Past) -> None:
        self._controller, self._past = controller, past

    def __getattr__(self, name: str) -> object:
        return getattr(self._controller, name)

    def stop_trial(self, trial: Trial) -> None:
        """Stop a trial."""
        (self._past if self._past.has(trial) else self._controller).stop_trial(trial)
