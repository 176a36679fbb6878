"""Several workers a trial, on a real Ray: in the trial's placement group, and gone with it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ragsearch.search.cluster import cluster
from ragsearch.search.record import SearchRecord, Status
from ragsearch.search.workers import workers_of_trial
from ragsearch.spec.schema import PerTrialSection
from ragsearch.training.workers import Workers
from tests.command import ragsearch
from tests.retrieval.waiting import wait
from tests.search.conftest import space_content
from tests.tiny import Tiny

pytestmark = pytest.mark.ray

TWO = PerTrialSection(cpu=1, workers=2)


def test_workers_on_two_nodes_meet_too() -> None:
    """Both nodes are on this machine; all that differs is how their workers find each other."""
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    nodes.add_node(**node)

    def trial() -> list[int]:
        def place(workers: Workers) -> list[str]:
            return workers.gather([ray.get_runtime_context().get_node_id()])

        with workers_of_trial(TWO, place) as workers:
            return place(workers)

    try:
        with cluster(nodes.address):
            spread = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
            assert spread.wait(30)
            first, second = as_trial(spread, trial)
    finally:
        nodes.shutdown()

    assert first != second


@pytest.fixture(scope="module")
def group() -> Iterator[PlacementGroup]:
    """Return a placement group as Tune makes one for a trial of two workers."""
    with cluster("local", num_cpus=2):
        made = placement_group([{"CPU": 1}, {"CPU": 1}])
        assert made.wait(30)
        yield made
        remove_placement_group(made)


def as_trial(group: PlacementGroup, trial: Callable[[], object]) -> object:
    """Run a function where Tune would run a trial."""
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    return ray.get(ray.remote(trial).options(num_cpus=1, scheduling_strategy=strategy).remote())


def test_each_worker_has_a_process_and_a_bundle_and_ends_with_the_trial(group) -> None:
    def trial() -> list[int]:
        with workers_of_trial(TWO, lambda workers: workers.gather([os.getpid()])) as workers:
            return workers.gather([os.getpid()])

    first, second = as_trial(group, trial)

    assert first != second
    assert wait(lambda: not _is_there(second), 10)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_fails_fails_the_trial_with_its_reason(group) -> None:
    def fail(_: Workers) -> None:
        message = "no luck"
        raise ValueError(message)

    def trial() -> None:
        with workers_of_trial(TWO, fail) as workers:
            workers.total(1.0)

    with pytest.raises(ray.exceptions.RayTaskError, match=r"of this trial failed: .*no luck"):
        as_trial(group, trial)


def test_a_worker_that_dies_fails_the_trial(group) -> None:
    def trial() -> None:
        def die(_: Workers) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with workers_of_trial(TWO, die) as workers:
            workers.total(1.0)

    with pytest.raises(ray.exceptions.RayTaskError, match="a worker of this trial failed: "):
        as_trial(group, trial)


def test_what_goes_wrong_in_the_first_worker_is_told_as_itself(group) -> None:
    def trial() -> None:
        with workers_of_trial(TWO, lambda workers: workers.total(1.0)) as workers:
            workers.total(1.0)
            message = "my own"
            raise KeyError(message)

    with pytest.raises(ray.exceptions.RayTaskError, match="KeyError: 'my own'"):
        as_trial(group, trial)


@pytest.mark.long
def test_a_search_with_two_workers_a_trial_reports_and_saves_once(tiny: Tiny, tmp_path: Path):
    content = space_content(
        tiny,
        trial={
            "train": {"max_epochs": 2, "max_context_length": 64},
            "decode": {"max_length": 8},
        },
        budget={"trials": 2},
        resources={"per_trial": {"cpu": 1, "workers": 2}},
    )
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))

    ragsearch("run", "space.yaml", cwd=tmp_path)

    (folder,) = (tmp_path / "runs").glob("tiny-*")
    record = SearchRecord.load(folder)
    assert record.status is Status.FINISHED
    baseline = record.trials[0]
    assert [epoch["epoch"] for epoch in baseline.epochs] == [1.0, 2.0]
    saved = record.folder / baseline.checkpoint
    assert (saved / "model.safetensors").is_file()
    assert json.loads((saved / "trial.json").read_text())["trial"]["train"]["max_epochs"] == 2
