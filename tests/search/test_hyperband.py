"""Brackets of HyperBand over a worker that trains nothing and may be killed at any moment."""

from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from ragsearch.errors import BadInputError
from ragsearch.search.budget import Budget
from ragsearch.search.hyperband import BRACKETS_FILE
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import SearchRecord, Status, TrialRecord
from ragsearch.search.scheduler import make_scheduler
from ragsearch.spec.schema import BudgetSection

PAUSE, STOP = "PAUSE", "STOP"


class Stub(Trial):
    """A trial of Tune that has no folder."""

    def init_local_path(self):
        """Make none."""


class Killed(Exception):  # noqa: N818
    """The process is gone."""


@dataclass
class Search:
    """What is left of a search when its process is gone, and what a trial does."""

    spec: object
    folder: object
    n_trials: int
    score: object
    """From a trial's number and an epoch to its score; None where it fails instead."""
    lengths: tuple = (9,)
    """Epochs of trials by their numbers, in turn."""
    n_asked: int = 0
    done: list = field(default_factory=list)
    """Number and epoch of each validation, and how trials ended, in order."""

    def is_last(self, number, epoch):
        """Return whether a trial has no epoch more."""
        return epoch >= self.lengths[number % len(self.lengths)]

    def record(self):
        """Read the record, or begin one."""
        if (self.folder / "search.json").exists():
            return SearchRecord.load(self.folder)
        return SearchRecord(self.folder, "tiny", "val/em", "max", {}, "")


class Worker:
    """Runs trials one at a time, as Tune does, until it is killed."""

    search_alg = SimpleNamespace(
        searcher=SimpleNamespace(on_pause=lambda _: None, on_unpause=lambda _: None)
    )

    def __init__(self, search, kill_at):
        self._search, self._left = search, kill_at
        self.record = search.record()
        self.record.save()
        self.scheduler = make_scheduler(search.spec)
        end = EndOfSearch(Budget(BudgetSection(trials=search.n_trials), self.record))
        for number in self.scheduler.follow(self.record, end):
            self._end(number, Status.STOPPED_EARLY)
        self._going_on = [
            number
            for number in range(search.n_asked)
            if number not in self.record.trials
            or not self.record.trials[number].status.has_ended
        ]
        self.trials = []

    def get_trials(self):
        """Return what Tune knows."""
        return self.trials

    def run(self):
        """Run what is left."""
        while True:
            self._ask()
            trial = self.scheduler.choose_trial_to_run(self)
            pending = [one for one in self.trials if one.status == Trial.PENDING]
            trial = trial or next(iter(pending), None)
            if trial is not None:
                trial.set_status(Trial.RUNNING)
                number = trial.config["trial"]
                if not self._is_done(number):
                    self._note(number, status=Status.RUNNING)
                self._ask()
                self._train(trial)
            else:
                assert not any(one.status == Trial.PAUSED for one in self.trials), "it hangs"
                return

    def _ask(self):
        while not any(one.status == Trial.PENDING for one in self.trials):
            if self._going_on:
                number = self._going_on.pop(0)
            elif self._search.n_asked < self._search.n_trials:
                number = self._search.n_asked
                self._search.n_asked += 1
            else:
                return
            trial = Stub("t", stub=True, trial_id=f"t{number}", config={"trial": number})
            self.scheduler.on_trial_add(self, trial)
            self.trials.append(trial)

    def _is_done(self, number):
        return self.record.trials.get(number, TrialRecord(0, {})).status is Status.FINISHED

    def _train(self, trial):
        number = trial.config["trial"]
        if self._is_done(number):
            self.stop_trial(trial)  # its last epoch was one to pause at
        while trial.status == Trial.RUNNING:
            epoch = 1 + self.record.trials[number].n_epochs
            if self._search.score(number, epoch) is None:
                trial.set_status(Trial.ERROR)
                self.scheduler.on_trial_error(self, trial)
                self._moment()
                self._end(number, Status.FAILED)
                return
            self._moment()
            self._validate(trial, epoch)

    def _validate(self, trial, epoch):
        number = trial.config["trial"]
        result = {"epoch": epoch, "val/em": self._search.score(number, epoch)}
        action = self.scheduler.on_trial_result(self, trial, dict(result))
        self._moment()
        ended = {"status": Status.FINISHED} if self._search.is_last(number, epoch) else {}
        self._note(number, epoch=result, reported=0.0, **ended)
        self._search.done.append((number, epoch))
        self._moment()
        if action == PAUSE:
            trial.set_status(Trial.PAUSED)
        elif action == STOP or ended:
            self.stop_trial(trial)

    def stop_trial(self, trial):
        """Stop a trial, as its bracket wants it."""
        number, was = trial.config["trial"], trial.status
        if was in {Trial.TERMINATED, Trial.ERROR}:
            return
        if was == Trial.RUNNING:
            self.scheduler.on_trial_complete(self, trial, {})
        else:
            self.scheduler.on_trial_remove(self, trial)
        self._moment()
        if not self.record.trials[number].status.has_ended:
            self._end(number, Status.STOPPED_EARLY)
        self._moment()
        trial.set_status(Trial.TERMINATED)

    def _end(self, number, status):
        self._note(number, status=status)
        self._search.done.append((number, str(status)))

    def _note(self, number, **event):
        self.record.note(number, 0.0, **event)

    def _moment(self):
        self._left -= 1
        if self._left == 0:
            raise Killed


def run(search, kills=()):
    """Run a search, killed after so many moments each time."""
    for moments in kills:
        with suppress(Killed):
            Worker(search, moments).run()
    Worker(search, 0).run()
    record = search.record()
    return {
        number: (trial.status, trial.epochs) for number, trial in sorted(record.trials.items())
    }


@pytest.fixture
def search_of(space_of, tmp_path):
    """Return a function that makes a search of so many trials."""
    spec = space_of(
        trial={"train": {"max_epochs": 9}}, search={"scheduler": {"name": "hyperband"}}
    )

    def make(name, n_trials, score, lengths=(9,)):
        folder = tmp_path / name
        folder.mkdir()
        return Search(spec, folder, n_trials, score, lengths)

    return make


def scores_of(seed, n_failing):
    """Return trials' scores, some of which fail at an epoch."""
    random = Random(seed)
    levels = [[random.random() for _ in range(10)] for _ in range(60)]
    failing = {(random.randrange(1, 30), random.choice([1, 2, 4])) for _ in range(n_failing)}
    return lambda number, epoch: (
        None if (number, epoch) in failing else levels[number][epoch] + epoch
    )


@pytest.mark.parametrize(
    ("seed", "n_trials", "n_failing", "lengths"),
    [(0, 18, 0, (9,)), (1, 23, 4, (9,)), (2, 31, 6, (9, 3, 2, 9, 1, 5, 9))],
)
def test_brackets_killed_at_any_moment_go_on_as_they_were(
    search_of, seed, n_trials, n_failing, lengths
):
    score = scores_of(seed, n_failing)
    whole = search_of("whole", n_trials, score, lengths)
    expected = run(whole)
    assert len(expected) == n_trials
    assert {status for status, _ in expected.values()} >= {
        Status.FINISHED,
        Status.STOPPED_EARLY,
    }

    for kill in range(1, 4 * len(whole.done), 5):
        cut = search_of(f"cut-{kill}", n_trials, score, lengths)
        assert run(cut, [kill]) == expected, kill
        assert [one for one in cut.done if isinstance(one[1], int)] == [
            one for one in whole.done if isinstance(one[1], int)
        ], kill


def test_brackets_killed_again_and_again_go_on_as_they_were(search_of):
    score = scores_of(5, 5)
    expected = run(search_of("whole", 27, score))
    random = Random(0)

    for attempt in range(20):
        cut = search_of(f"cut-{attempt}", 27, score)
        assert run(cut, [random.randrange(1, 40) for _ in range(12)]) == expected


def test_a_damaged_file_of_brackets_is_said(search_of):
    search = search_of("damaged", 3, scores_of(0, 0))
    (search.folder / BRACKETS_FILE).write_text("{]\n")

    with pytest.raises(BadInputError, match=r"brackets\.jsonl: is damaged .* for new brackets"):
        Worker(search, 0)


class Several(Worker):
    """Runs three trials at a time, of which some crash and are tried again."""

    def run(self):
        """Run what is left, in an order by chance."""
        random, n_idle = Random(self._left), 0
        while n_idle < 30:  # a bracket is looked at once in a while
            self._ask()
            pending = [one for one in self.trials if one.status == Trial.PENDING]
            trial = self.scheduler.choose_trial_to_run(self) or next(iter(pending), None)
            running = [one for one in self.trials if one.status == Trial.RUNNING]
            if trial is not None and len(running) < 3:
                trial.set_status(Trial.RUNNING)
                if not self._is_done(trial.config["trial"]):
                    self._note(trial.config["trial"], status=Status.RUNNING)
            elif running:
                self._step(random.choice(running), crashes=random.random() < 0.05)
            elif any(one.status == Trial.PAUSED for one in self.trials):
                n_idle += 1
            else:
                return
        pytest.fail("it hangs")

    def _step(self, trial, *, crashes):
        number = trial.config["trial"]
        if crashes:
            trial.set_status(Trial.ERROR)
            self.scheduler.on_trial_error(self, trial)
            self._moment()
            trial.set_status(Trial.PENDING)
            self.scheduler.on_trial_add(self, trial)
        elif self._is_done(number):
            self.stop_trial(trial)
        else:
            self._validate(trial, 1 + self.record.trials[number].n_epochs)


@pytest.mark.parametrize("seed", range(6))
def test_several_trials_at_a_time_come_to_their_end_whenever_they_are_killed(search_of, seed):
    random, n_trials = Random(seed), 12 + 3 * seed
    search = search_of("cut", n_trials, scores_of(seed, 0), (9, 3, 2, 9, 1, 5, 9))

    for _ in range(10):
        with suppress(Killed):
            Several(search, random.randrange(1, 50)).run()
    Several(search, 0).run()

    record = search.record()
    assert [*sorted(record.trials)] == [*range(n_trials)]
    for trial in record.trials.values():
        assert trial.status in {Status.FINISHED, Status.STOPPED_EARLY}
        assert [epoch["epoch"] for epoch in trial.epochs] == [*range(1, trial.n_epochs + 1)]
