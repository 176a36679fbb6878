"""Schedulers on a real Tune, over trials that follow a curve instead of training."""

import json
import logging
import math
import tempfile
from collections import defaultdict
from itertools import count
from pathlib import Path

import pytest
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from ragsearch.search.automatic import most_trials
from ragsearch.search.budget import Budget
from ragsearch.search.cluster import cluster
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import SearchRecord
from ragsearch.search.scheduler import make_scheduler
from ragsearch.search.searcher import StudySearcher
from ragsearch.search.space import TRIAL_KEY
from ragsearch.search.study import SearchStudy

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RATE = "optim.learning_rate"


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster("local", num_cpus=2):
        yield


def follow_a_curve(config, n_epochs):
    """Gain at each epoch what the learning rate is worth: most at 1e-2, nothing at 1e-3."""
    epoch, level = 0, 0.0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            epoch, level = json.loads(Path(folder, "state.json").read_text())
    while epoch < n_epochs:
        epoch += 1
        level += max(0.0, 1.0 - abs(math.log10(config[RATE]) + 2.0))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.json").write_text(json.dumps([epoch, level]))
            tune.report(
                {"epoch": epoch, "val/em": level},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


class Watcher(tune.Callback):
    """Keeps a row of each result, by the number of its trial."""

    def __init__(self):
        self.rows = defaultdict(list)

    def on_trial_result(self, iteration, trials, trial, result, **info):  # noqa: ARG002
        """Keep a row."""
        row = (result["epoch"], result["val/em"], trial.config[RATE])
        self.rows[trial.config[TRIAL_KEY]].append(row)


@pytest.fixture
def watched(space_of, tmp_path):
    """Return a function that runs a search and gives (epoch, score, rate) rows by trial."""

    def run(n_epochs, trials, **scheduler):
        spec = space_of(
            trial={"train": {"max_epochs": n_epochs}, "optim": {"learning_rate": 1e-4}},
            space={RATE: {"log": [1e-4, 1e-1]}},
            search={"algorithm": "random", "scheduler": scheduler},
            budget={"trials": trials},
        )
        watcher = Watcher()
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        record = SearchRecord(folder, "tiny", "val/em", "max", {}, "")
        end = EndOfSearch(Budget(spec.file.budget, record))
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(follow_a_curve, n_epochs=n_epochs), {"cpu": 1}
            ),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(spec, SearchStudy(spec, folder), (), end),
                scheduler=make_scheduler(spec),
                num_samples=most_trials(spec),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder), callbacks=[watcher], verbose=0
            ),
        )
        results = tuner.fit()
        assert not results.errors
        return watcher.rows

    return run


def test_hyperband_pauses_a_bracket_at_a_rung_and_lets_the_best_go_on(watched):
    rows = watched(4, 5, name="hyperband", eta=2)

    assert len(rows[0]) == 4  # the baseline, which is the worst
    lengths = {number: len(one) for number, one in rows.items() if number}
    best = max(lengths, key=lambda number: rows[number][0][1])
    assert lengths[best] == 4
    assert min(lengths.values()) < 4
    for one in rows.values():
        assert [epoch for epoch, _, _ in one] == list(range(1, len(one) + 1))


def test_pbt_has_the_worst_go_on_from_the_best_with_a_changed_value(watched):
    rows = watched(6, 4, name="pbt", mutable=[RATE])

    assert {rate for _, _, rate in rows[0]} == {1e-4}  # the baseline is never changed
    changed = [one for one in rows.values() if len({rate for _, _, rate in one}) > 1]
    assert changed
    for one in rows.values():
        assert one[-1][0] == 6
        assert all(1e-4 <= rate <= 1e-1 for _, _, rate in one)


@pytest.mark.long
@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_the_same_seed_changes_a_population_the_same_way(watched, name):
    before = watched(6, 4, name=name, mutable=[RATE])

    assert len({rate for one in before.values() for _, _, rate in one}) > 4
    assert watched(6, 4, name=name, mutable=[RATE]) == before


def test_pb2_changes_values_within_their_domain(watched):
    rows = watched(6, 4, name="pb2", mutable=[RATE])

    assert {rate for _, _, rate in rows[0]} == {1e-4}
    assert any(len({rate for _, _, rate in one}) > 1 for one in rows.values())
    assert all(9.9e-5 <= rate <= 1.01e-1 for one in rows.values() for _, _, rate in one)


def end_at_once(config):
    """Be shorter than the start of a worker."""
    tune.report({"epoch": 1, "val/em": float(config[TRIAL_KEY])})


class InOrder(Searcher):
    """Proposes trials one after the other."""

    def __init__(self):
        super().__init__(metric="val/em", mode="max")
        self._numbers = count()

    def suggest(self, trial_id):  # noqa: ARG002 (as Tune calls it)
        """Give the next number."""
        return {TRIAL_KEY: next(self._numbers)}

    def on_trial_complete(self, trial_id, **told):
        """Learn nothing."""


@pytest.mark.parametrize("name", ["asha", "Ray's own"])
def test_no_worker_that_is_starting_is_thrown_away(space_of, tmp_path, caplog, name):
    if name == "Ray's own":  # which shows that the rest of the test sees it
        scheduler = FIFOScheduler()
    else:
        scheduler = make_scheduler(space_of(search={"scheduler": {"name": name}}))
    log = logging.getLogger("ray.tune.execution.tune_controller")
    log.addHandler(caplog.handler)
    log.setLevel(logging.DEBUG)
    try:
        found = tune.Tuner(
            tune.with_resources(end_at_once, {"cpu": 0.5}),
            tune_config=tune.TuneConfig(
                search_alg=InOrder(),
                num_samples=12,
                max_concurrent_trials=4,
                scheduler=scheduler,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    finally:
        log.setLevel(logging.NOTSET)
        log.removeHandler(caplog.handler)

    assert {result.metrics["val/em"] for result in found} == {*range(12)}
    # once none is to be proposed any more, a free worker has nothing better to do
    while_proposing, _, _ = caplog.text.rpartition("Adding trial")
    n_thrown_away = while_proposing.count("Removing ORIGINAL ACTOR")
    assert (n_thrown_away > 0) == (name == "Ray's own")
