"""Which trial the searcher hands out to Tune, and when, where indexes are served in turn."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import pytest
from ray.tune.search import Searcher

from ragsearch.search.budget import Budget
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import SearchRecord, Status
from ragsearch.search.searcher import StudySearcher
from ragsearch.search.space import LAST_KEY, TRIAL_KEY
from ragsearch.search.study import SearchStudy
from ragsearch.search.trainable import varied
from ragsearch.search.variants import Variants, index_asked

INDEX = "retrieval.index"
SPACE = {INDEX: {"choice": ["a", "b", "c"]}, "optim.learning_rate": {"log": [1e-4, 1e-1]}}


@dataclass
class Pools:
    """Notes which indexes are served."""

    now: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    @contextmanager
    def serve(self, name):
        """Serve an index."""
        self.opened.append(name)
        self.now.append(name)
        yield
        self.now.remove(name)


@dataclass
class Search:
    """A search whose trials are run by the test, in the place of Tune."""

    folder: object
    spec: object
    turns: tuple = (("a", "c"), ("b",))
    pools: Pools = field(default_factory=Pools)
    live: dict = field(default_factory=dict)
    handed: list = field(default_factory=list)
    most_waiting: int = 3

    def __enter__(self):
        study = SearchStudy(self.spec, self.folder)
        record = SearchRecord(self.folder, "tiny", "val/em", "max", {}, "")
        self.end = EndOfSearch(Budget(self.spec.file.budget, record))
        going_on = study.take_up(record, lambda *_, **__: None)
        self.variants = Variants(self.turns, self.pools.serve).__enter__()
        self.searcher = StudySearcher(
            self.spec, study, going_on, self.end, self.variants, self.most_waiting
        )
        return self

    def __exit__(self, *error):
        self.variants.__exit__(*error)

    def suggest(self):
        """Ask for a trial; keep it as one that runs."""
        name = f"tune-{len(self.handed)}"
        config = self.searcher.suggest(name)
        if isinstance(config, dict):
            index = index_asked(self.spec, varied(config))
            assert index is None or index in self.pools.now
            self.handed.append((config[TRIAL_KEY], index))
            self.live[name] = config
        else:
            assert config == Searcher.FINISHED or self.live  # else Tune would wait for ever
        return config

    def end_one(self, score=0.5):
        """End the trial that has run longest."""
        name = next(iter(self.live))
        result = {"epoch": 1, "val/em": score, LAST_KEY: True, "training_iteration": 1}
        self.searcher.on_trial_complete(name, result | {"config": self.live.pop(name)})

    def run(self, at_once=1):
        """Run all trials; return them in the order in which they started."""
        while True:
            config = self.suggest() if len(self.live) < at_once else None
            if config == Searcher.FINISHED and not self.live:
                return self.handed
            if not isinstance(config, dict) and self.live:
                self.end_one()


@pytest.fixture
def spec(space_of, tiny):
    def make(**sections):
        index = {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder)}
        changed = {
            "indexes": dict.fromkeys("abc", index),
            "trial": {"retrieval": {"n_docs": 2, "index": "a"}},
            "space": SPACE,
            "search": {"algorithm": "random"},
            "budget": {"trials": 20},
        }
        return space_of(**(changed | sections))

    return make


def test_trials_wait_for_their_index_and_run_together_when_it_is_served(spec, tmp_path):
    with Search(tmp_path, spec()) as search:
        started = search.run()

    assert sorted(number for number, _ in started) == list(range(20))
    assert started[0] == (0, "a")
    stretches = [
        [number for number, _ in group]
        for _, group in groupby(started, lambda one: one[1] in {"a", "c"})
    ]
    assert len(stretches) > 2
    for stretch in stretches:
        assert stretch == sorted(stretch)  # the oldest first
    for before, stretch in pairwise(stretches):
        waited = [number for number in stretch if number < max(before)]
        assert len(waited) <= 3
    n_turns = len(stretches)
    assert Counter(search.pools.opened) == {
        "a": -(-n_turns // 2),
        "c": -(-n_turns // 2),
        "b": n_turns // 2,
    }
    assert search.pools.now == []


def test_what_is_proposed_and_in_which_order_does_not_change_where_all_fit(spec, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Search(tmp_path / "one", spec(), turns=(("a", "b", "c"),)) as together:
        started = together.run()
    with Search(tmp_path / "two", spec()) as in_turn:
        other = in_turn.run()

    assert [number for number, _ in started] == list(range(20))
    assert together.pools.opened == ["a", "b", "c"]
    assert sorted(other) == started  # a random searcher learns nothing from their order


def test_an_index_is_let_go_only_when_no_trial_needs_it_any_more(spec, tmp_path):
    with Search(tmp_path, spec(), most_waiting=1) as search:
        search.suggest()
        while isinstance(search.suggest(), dict):
            pass
        n_live = len(search.live)
        assert search.pools.now == ["a", "c"]
        for _ in range(n_live - 1):
            search.end_one()
            assert search.suggest() is None
        search.end_one()
        assert search.suggest()[INDEX] == "b"
        assert search.pools.now == ["b"]


def test_trials_at_a_time_wait_for_each_others_index_without_end(spec, tmp_path):
    with Search(tmp_path, spec(), turns=(("a",), ("b",), ("c",))) as search:
        started = search.run(at_once=4)

    assert sorted(number for number, _ in started) == list(range(20))


def test_trials_that_waited_when_the_search_was_killed_are_handed_out_again(spec, tmp_path):
    with Search(tmp_path, spec()) as killed:
        for _ in range(3):
            killed.suggest()
            killed.end_one()
        waited = {asked.number for asked in killed.searcher._waiting}
    with Search(tmp_path, spec()) as search:
        rest = search.run()

    assert waited
    assert waited <= {number for number, _ in rest}
    assert sorted(number for number, _ in killed.handed + rest) == list(range(20))


def test_without_patience_trials_that_never_started_stay_for_another_time(spec, tmp_path):
    budget = {"trials": 20, "patience": 4}
    with Search(tmp_path, spec(budget=budget), most_waiting=9) as search:
        for number in range(4):
            search.suggest()
            search.end_one()
            search.end.budget.ended(number, Status.FINISHED)

        assert search.searcher._waiting
        assert search.suggest() == Searcher.FINISHED


def test_a_trial_without_passages_waits_for_nobody(spec, tmp_path):
    space = {"model.type": {"choice": ["rag_sequence", "closed_book"]}} | {
        INDEX: {"choice": ["a", "b"], "when": "model.type == 'rag_sequence'"}
    }
    with Search(tmp_path, spec(space=space), turns=(("b",), ("a",))) as search:
        started = search.run(at_once=2)

    assert sorted(number for number, _ in started) == list(range(20))
    assert {index for _, index in started} == {"a", "b", None}
