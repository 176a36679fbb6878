"""Searches over indexes of which only one at a time fits into the memory of the cluster."""

import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from ragsearch.errors import BadInputError
from ragsearch.retrieval.actors import list_replicas
from ragsearch.retrieval.placement import NodeProbe, probe_nodes
from ragsearch.retrieval.pool import serving
from ragsearch.search.cluster import cluster
from ragsearch.search.launch import Parts, run_trials
from ragsearch.search.record import SearchRecord, Status
from ragsearch.search.run import build_indexes, open_record
from ragsearch.search.tokens import tokenise_passages
from ragsearch.search.trainable import TrialJob, run_trial
from ragsearch.search.variants import pool_plan, variants_of
from ragsearch.spec import Spec, load_spec
from tests.search.conftest import space_content
from tests.search.interrupted import study_of, trials_of
from tests.tiny import Tiny

pytestmark = [pytest.mark.ray, pytest.mark.long]

N_TRIALS = 8
SWITCH = re.compile(r"index (\w+)(?: in the place of (\w+))?, for (.+)")


def spec_in(tiny: Tiny, folder: Path, **sections: object) -> Spec:
    """Return a search over two indexes, each a copy in memory."""
    index = {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder)}
    changed = {
        "data": {"train": str(tiny.train), "val": str(tiny.val), "test": str(tiny.train)}
        | {"n_test": 6},
        "indexes": {"one": index, "two": index | {"normalise": True}},
        "pool": {"memory": "in_memory"},
        "trial": {
            "retrieval": {"n_docs": 2, "index": "one"},
            "train": {"max_epochs": 2, "max_context_length": 64},
            "decode": {"max_length": 4},
        },
        "space": {
            "retrieval.index": {"choice": ["one", "two"]},
            "optim.learning_rate": {"log": [1.0e-4, 1.0e-1]},
        },
        "objectives": [{"metric": "val/nll", "goal": "min"}],
        "search": {"algorithm": "tpe", "startup_trials": 2}
        | {"scheduler": {"name": "asha", "min": 1, "eta": 2}},
        "budget": {"trials": N_TRIALS},
        "resources": {"max_concurrent": 1},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    }
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(space_content(tiny, **(changed | sections))))
    return load_spec(file)


@dataclass
class Small:
    """A cluster with memory for one and a half of the indexes, at first."""

    room: float = 1.5

    def __call__(self, folder: Path, fingerprint: str) -> Sequence[NodeProbe]:
        """Ask the nodes, and take what replicas hold from what there is."""
        found = probe_nodes(folder, fingerprint)
        size = sum(found[0].shard_bytes.values())
        taken = size * len(list_replicas())
        return [replace(node, available_bytes=int(self.room * size) - taken) for node in found]


def run_noting_pools(config: dict[str, object], job: TrialJob) -> None:
    """Run a trial; note which index it asks, and which pools there are meanwhile."""
    asked = str(config["retrieval.index"])
    there = [name for name, one in job.indexes.items() if one.pool in list_replicas()]
    with (job.folder.parent / "started.txt").open("a") as file:
        file.write(f"{config['trial']} {asked} {','.join(there)}\n")
    run_trial(config, job)


@dataclass
class Search:
    """A search in a folder of its own."""

    spec: Spec
    output: Path
    small: Small = field(default_factory=Small)
    record: SearchRecord | None = None

    def run(self) -> SearchRecord:
        """Begin it, or go on with it as another process would."""
        indexes = build_indexes(self.spec, self.output)
        tokens = tokenise_passages(self.spec, indexes, self.output)
        if self.record is None:
            self.record = open_record(self.spec, indexes, self.output)
        else:
            self.record = SearchRecord.load(self.record.folder)
            self.record.interrupt()
            self.record.status, self.record.ended_by = Status.RUNNING, None
            self.record.n_runs += 1
        parts = Parts(train=run_noting_pools, prober=self.small)
        run_trials(self.spec, self.record, indexes, tokens, parts=parts)
        self.record.save()
        return self.record

    @property
    def started(self) -> list[tuple[int, str]]:
        """Give trials in the order they started, each with its index."""
        lines = (self.record.folder / "started.txt").read_text().splitlines()
        rows = [line.split() for line in lines]
        assert all(there == asked for _, asked, there in rows)  # never both pools
        return [(int(number), asked) for number, asked, _ in rows]


def served(lines: Sequence[str]) -> list[str]:
    """Return which indexes were served, one after the other."""
    return [match[1] for line in lines if (match := SWITCH.fullmatch(line))]


def without_repeats(names: Sequence[str]) -> list[str]:
    return [name for name, _ in groupby(names)]


@contextmanager
def at_each_line(act: Callable[[str], object]):
    """Do something with every line of the log."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act(record.getMessage())

    listener, logger = Listener(), logging.getLogger("ragsearch")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


class Whole(NamedTuple):
    """A search that nothing interrupted."""

    search: Search
    said: list[str]
    """Lines of its log."""


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    search, said = Search(spec_in(tiny, folder), folder / "runs"), []
    with at_each_line(said.append):
        search.run()
    return Whole(search, said)


def test_trials_that_share_an_index_run_together_where_one_fits_at_a_time(whole):
    search, said = whole
    record = search.record

    assert record.status is Status.FINISHED
    assert sorted(record.trials) == list(range(N_TRIALS))
    assert all(trial.status.has_ended for trial in record.trials.values())
    assert {trial.status for trial in record.trials.values()} >= {Status.FINISHED}
    assert search.started[0] == (0, "one")
    assert len(search.started) == N_TRIALS
    assert {index for _, index in search.started} == {"one", "two"}
    assert served(said) == without_repeats([index for _, index in search.started])
    assert len(served(said)) <= 4
    assert not any("stays in memory" in line for line in said)
    (why,) = (line for line in said if line.startswith("indexes are served in turn: "))
    assert re.search(r"one \(5\.17 kB\), then two \(5\.17 kB\), as .* 7\.75 kB of free", why)


def test_a_search_that_is_interrupted_goes_on_with_the_trials_that_waited(
    whole, tiny, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "ragsearch")
    order = [number for number, _ in whole.search.started]
    search = Search(spec_in(tiny, tmp_path), tmp_path / "runs")

    def press_ctrl_c(line: str) -> None:
        if line.startswith(f"trial {order[2]} epoch 1/"):
            os.kill(os.getpid(), signal.SIGINT)

    with at_each_line(press_ctrl_c):
        first = search.run()
    assert first.status is Status.INTERRUPTED
    assert sorted(first.trials) == sorted(order[:3])
    assert max(first.trials) >= 3  # one was proposed before, and waits
    search.run()

    assert search.record.status is Status.FINISHED
    assert trials_of(search.record) == trials_of(whole.search.record)
    assert study_of(search.record) == study_of(whole.search.record)
    assert without_repeats([number for number, _ in search.started]) == order
    assert without_repeats(served(caplog.messages)) == served(whole.said)


def test_what_follows_the_trials_asks_each_index_in_its_turn(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ragsearch")
    spec = spec_in(
        tiny,
        tmp_path,
        try_first=[{"retrieval.index": "two", "optim.learning_rate": 0.05}],
        budget={"trials": 2},
        rescore={"retrieval.n_docs": {"ordinal": [1, 2]}},
        final={"top_k": 2, "seeds": [1, 2]},
    )
    search = Search(spec, tmp_path / "runs")

    record = search.run()

    assert [trial.params["retrieval.index"] for trial in record.trials.values()] == [
        "one",
        "two",
    ]
    assert all(len(trial.rescored) == 2 for trial in record.trials.values())
    assert [(run.trial, run.seed) for run in record.final if run.test is None] == []
    assert sorted((run.trial, run.seed) for run in record.final) == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    # the trials, then models and final runs, each beginning with what is served already
    assert served(caplog.messages) == ["one", "two", "one", "two"]
    assert "index one in the place of two, for 1 models to rescore" in caplog.messages
    assert "index two in the place of one, for 2 final runs" in caplog.messages


def test_an_index_without_room_in_its_turn_ends_the_search_and_it_goes_on_later(tiny, tmp_path):
    search = Search(spec_in(tiny, tmp_path), tmp_path / "runs")

    def fill_memory(line: str) -> None:
        if line.startswith("trial 0 finished"):
            search.small.room = 0.5

    no_room = r"pool\.memory: 1 x 5\.17 kB .* where 2\.58 kB"
    with at_each_line(fill_memory), pytest.raises(BadInputError, match=no_room):
        search.run()
    search.small.room = 1.5
    record = search.run()

    assert record.status is Status.FINISHED
    assert sorted(record.trials) == list(range(N_TRIALS))


def test_an_index_that_another_search_holds_stays_which_is_said(tiny, tmp_path, caplog):
    spec, small = spec_in(tiny, tmp_path), Small()
    indexes = build_indexes(spec, tmp_path / "runs")
    plans = {name: pool_plan(spec, index) for name, index in indexes.items()}

    with (
        cluster("local", num_cpus=1),
        variants_of(spec, indexes, "a search", small) as variants,
        serving(plans["one"], "another search", prober=small),
    ):
        variants.bring("one", "1 trial")
        small.room = 2.5  # which the other search would have left
        variants.bring("two", "1 trial")

        assert set(list_replicas()) == {plan.pool for plan in plans.values()}
        assert variants.has("two")
        assert not variants.has("one")
    assert (
        "index one stays in memory, as others hold its pool; see `ragsearch pool ls`"
        in caplog.messages
    )


def test_what_cannot_wait_for_its_turn_is_refused_or_warned_of(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ragsearch")
    hyperband = {"search": {"scheduler": {"name": "hyperband"}}}
    mapped, detached = {"memory": "mapped"}, {"lifetime": "detached"}
    spec = spec_in(tiny, tmp_path)
    indexes = build_indexes(spec, tmp_path / "runs")
    asked = r"take turns: one \(5\.17 kB\), then two \(5\.17 kB\), as they do not fit together"

    with cluster("local", num_cpus=1):

        def variants(room: float = 1.5, **sections: object):
            spec = spec_in(tiny, tmp_path, **sections)
            return variants_of(spec, indexes, "a search", Small(room))

        with pytest.raises(
            BadInputError, match=rf"search\.scheduler: .*hyperband.*{asked}.*asha"
        ):
            variants(**hyperband)
        with pytest.raises(
            BadInputError, match=rf"pool\.lifetime: a detached .*{asked}.*search"
        ):
            variants(pool={"memory": "in_memory"} | detached)
        with pytest.raises(BadInputError, match=r"pool\.memory: 1 x 5\.17 kB of index"):
            variants(room=0.5)
        assert not variants(pool=mapped, **hyperband).take_turns
        assert "searches will read from disk" in caplog.messages[-1]
        assert variants(pool=mapped).take_turns
        assert not variants(room=2.5, **hyperband).take_turns
        assert list_replicas() == {}
