"""The Optuna study of a search, by our numbers of trials: ask, report, tell, take up again.

The study alone tells what a search did: every trial carries its number, its values and how it
ended as user attributes. It is a file of Optuna's `JournalStorage(JournalFileBackend(...))`,
which `optuna.load_study` and its dashboard open beside us, under the name of the search. One
trial asked, reported and told costs 10 ms at 100 trials and 21 ms at 1,000 with a space of 8
parameters, of which TPE itself is 7 and 19; with SQLite it was 37 ms and 258 ms.

A trial that can still go on is RUNNING in the study, whether or not a process runs it.
"""

import json
import logging
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from ragsearch.errors import BadInputError
from ragsearch.search.journal import append_line, drop_torn_line
from ragsearch.search.record import STATUS_ATTR, SearchRecord, Status, TrialRecord, compared
from ragsearch.search.samplers import is_used_up, make_sampler
from ragsearch.search.space import Proposal
from ragsearch.spec import ObjectiveSection, Spec

log = logging.getLogger(__name__)

STUDY_FILE = "study.journal"

NUMBER_ATTR = "ragsearch.trial"
VALUES_ATTR = "ragsearch.values"
REASON_ATTR = "ragsearch.reason"
FIRST_ATTR = "ragsearch.first"
"""Of a trial that was not drawn: its place among the first points; the baseline is 0."""

_MOST_DRAWS = 200  # at an acceptance rate of 5 %, one search in 28,000 gives up


@dataclass
class Asked:
    """A trial that was proposed and has not ended."""

    number: int
    values: dict[str, object]
    """The varied values, by dotted path."""
    of_optuna: int
    """Optuna's number of it."""
    epochs: list[tuple[float, ...]] = field(default_factory=list)
    """Values of the objectives after each epoch, in order."""
    has_started: bool = False
    """Whether it ran before; one that waits for its index may never have."""


class SearchStudy:
    """The study of a search, open for the one process that runs it."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        """Open the study of a search folder, or make it.

        Args:
            spec: The search.
            folder: Its folder, locked by this process.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec, self._propose = spec, Proposal(spec)
        self._storage = open_storage(folder)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=folder.name,
            directions=directions(spec.file.objectives),
            load_if_exists=True,
        )
        self._half_asked: list[FrozenTrial] = []
        numbers = [trial.user_attrs.get(NUMBER_ATTR, -1) for trial in self._trials()]
        self.n_asked = 1 + max(numbers, default=-1)
        """Trials that were proposed: the number of the next one."""
        self._clear_half_asked()
        self._enqueue_first_points()

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _clear_half_asked(self) -> None:
        """Take up, or give up, a proposal in the middle of which the process was killed."""
        for trial in self._trials():
            if trial.state is TrialState.RUNNING and NUMBER_ATTR not in trial.user_attrs:
                if FIRST_ATTR in trial.user_attrs:
                    self._half_asked.append(trial)
                else:
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue_first_points(self) -> None:
        there = {trial.user_attrs.get(FIRST_ATTR) for trial in self._trials()}
        for place, point in enumerate(self._propose.first_points()):
            if place not in there:
                self._study.enqueue_trial(point, user_attrs={FIRST_ATTR: place})

    def ask(self) -> Asked | None:
        """Propose the next trial.

        Returns:
            A trial that breaks no constraint; None if none was found.
        """
        number = self.n_asked
        if number and is_used_up(self._spec, self._study):
            log.info("no further trial: each point of the grid was tried")
            return None
        self._study.sampler = make_sampler(self._spec, number)
        broken: str | None = None
        for _ in range(_MOST_DRAWS):
            trial = self._next_trial()
            values = self._propose(trial)
            broken = self._spec.rejects(values) if number else None
            if broken is None:
                trial.set_user_attr(VALUES_ATTR, values)
                trial.set_user_attr(NUMBER_ATTR, number)  # from here on it is a trial of ours
                self.n_asked += 1
                return Asked(number, values, trial.number)
            trial.set_user_attr(REASON_ATTR, broken)
            # not as failed: TPE would draw from the same corner again and again
            self._study.tell(trial, state=TrialState.PRUNED)
        log.warning(
            "no further trial: %d proposals in a row broke a constraint, the last one %s; "
            "loosen the constraint or narrow the space", _MOST_DRAWS, broken,
        )  # fmt: skip
        return None

    def _next_trial(self) -> optuna.Trial:
        if self._half_asked:
            return optuna.Trial(self._study, self._id_of(self._half_asked.pop(0).number))
        return self._study.ask()

    def report(self, asked: Asked, epoch: int, values: Sequence[float]) -> None:
        """Take the objectives of a validation; one that is known already is passed over."""
        if max(1, epoch) <= len(asked.epochs):
            return
        asked.epochs.append(tuple(values))
        if len(values) == 1:  # Optuna has no intermediate values for several objectives
            trial_id = self._id_of(asked.of_optuna)
            self._storage.set_trial_intermediate_value(trial_id, epoch, values[0])

    def tell(self, asked: Asked, status: Status, reason: str | None = None) -> None:
        """Close a trial, unless it can still go on.

        One that finished has the objectives of its best epoch; one that was stopped, diverged
        or is infeasible was pruned, which TPE takes for worse than all that finished; one that
        crashed has failed, and says nothing of its values.
        """
        if not status.has_ended:
            return
        trial_id = self._id_of(asked.of_optuna)
        self._storage.set_trial_user_attr(trial_id, STATUS_ATTR, str(status))
        if reason is not None:
            self._storage.set_trial_user_attr(trial_id, REASON_ATTR, reason)
        best = best_epoch(asked.epochs, self._spec.file.objectives)
        if status is Status.FINISHED and best is not None:
            self._study.tell(asked.of_optuna, list(best))
        else:
            state = TrialState.FAIL if status is Status.FAILED else TrialState.PRUNED
            self._study.tell(asked.of_optuna, state=state)

    def take_up(self, record: SearchRecord, note: Callable[..., None]) -> list[Asked]:
        """Make study and record agree after an interruption.

        The record knows more of a trial where the process died between the two, but for how a
        trial ended, which the study is told first.

        Args:
            record: The record of the search.
            note: Notes in it how a trial ended, as `SearchRecord.note`.

        Returns:
            The trials that go on, in the order of their numbers.

        Raises:
            BadInputError: If the study lacks trials of the record.
        """
        if len(record.trials) > self.n_asked:
            what = f"lacks trials of {record.search}; restore it, or start a new search"
            raise BadInputError.single(record.folder / STUDY_FILE, what)
        going_on = []
        for trial in self._trials():
            if (number := trial.user_attrs.get(NUMBER_ATTR)) is None:
                continue
            known = record.trials.get(number)
            if trial.state.is_finished():
                if known is not None and not known.status.has_ended:
                    status, reason = (
                        trial.user_attrs.get(k) for k in (STATUS_ATTR, REASON_ATTR)
                    )
                    note(number, status=status, reason=reason)
                continue
            asked = self._asked(trial, known)
            if known is not None and known.status.has_ended:
                self.tell(asked, known.status, known.reason)
            else:
                going_on.append(asked)
        return sorted(going_on, key=lambda asked: asked.number)

    def _asked(self, trial: FrozenTrial, known: TrialRecord | None) -> Asked:
        attrs = trial.user_attrs
        values = (known.changed if known else None) or attrs[VALUES_ATTR]
        asked = Asked(attrs[NUMBER_ATTR], values, trial.number, has_started=known is not None)
        metrics = [objective.metric for objective in self._spec.file.objectives]
        for epoch in known.epochs if known is not None else ():
            told = [compared(epoch, metric) for metric in metrics]
            self.report(asked, int(epoch["epoch"]), told)
        return asked

    def _id_of(self, number_of_optuna: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number_of_optuna)


def best_epoch(
    epochs: Sequence[tuple[float, ...]], objectives: Sequence[ObjectiveSection]
) -> tuple[float, ...] | None:
    """Return the objectives of the epoch with the best first one; None if none is a number."""
    sign = 1.0 if objectives[0].goal == "max" else -1.0
    numbers = [epoch for epoch in epochs if not any(map(math.isnan, epoch))]
    return max(numbers, key=lambda epoch: sign * epoch[0], default=None)


def directions(objectives: Sequence[ObjectiveSection]) -> list[StudyDirection]:
    """Return Optuna's words for the goals."""
    words = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [words[objective.goal] for objective in objectives]


def open_storage(folder: Path, file: str = STUDY_FILE) -> JournalStorage:
    """Open a study's file for the process that holds the folder's lock."""
    return _Storage(_StudyFile(folder / file))


class _Storage(JournalStorage):
    """Optuna's storage, which looks through all trials for those that wait only if some may.

    It does so at each proposal; that takes as long as TPE where there are 10,000.
    """

    def __init__(self, file: "_StudyFile") -> None:
        super().__init__(file)
        self._may_wait = True

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._may_wait |= template_trial is not None
        return super().create_new_trial(study_id, template_trial)

    @override
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        found = super().get_all_trials(study_id, deepcopy, states) if self._may_wait else []
        self._may_wait = bool(found)
        return found


class _StudyFile(JournalFileBackend):
    """Optuna's journal, which survives a kill and a full disk in the middle of a line.

    Optuna's own lock is a file that a killed process leaves behind; the search folder's is not.
    """

    def __init__(self, file: Path) -> None:
        drop_torn_line(file)
        super().__init__(str(file))
        self._file = file

    @override
    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        append_line(
            self._file, "\n".join(json.dumps(row, separators=(",", ":")) for row in logs)
        )
