"""The workers of a trial as Ray actors, in the placement group that Tune made for it.

The trial's own process is the first worker and alone reports to Tune; the others are started
here, each in a bundle of its own, do what the first one does, and end with the block. Nothing
of them outlives the trial: they are neither named nor detached.

Ray Train is not used: nested in a Tune trial it leaks its placement group when the trial is
stopped, unless Ray's dashboard runs.
"""

import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ragsearch.errors import RagsearchError
from ragsearch.search.ending import WorkerFailedError, killed_for_memory, verdict_on
from ragsearch.spec.schema import PerTrialSection
from ragsearch.training.workers import Workers, working_together

_SETTLE_S = 5.0  # a worker that failed tells so before the first one notices


class _Worker:
    """A process of a trial beside the first one."""

    def node(self) -> str:
        """Return Ray's id of its node."""
        return ray.get_runtime_context().get_node_id()

    def work(self, train: Callable[[Workers], object], place: str, rank: int, n: int) -> None:
        """Train together with the others."""
        with working_together(place, rank, n) as workers:
            train(workers)


@contextmanager
def workers_of_trial(
    asked: PerTrialSection, train: Callable[[Workers], object]
) -> Iterator[Workers]:
    """Have the other workers of this trial train while the block trains as the first of them.

    Args:
        asked: How many there are, and what each occupies.
        train: What each of the others does; travels to their processes.

    Yields:
        What they do together, seen by the first.

    Raises:
        WorkerFailedError: If another worker failed, with its reason.
    """
    if asked.workers == 1:
        yield Workers()
        return
    others = [_start(asked, rank) for rank in range(1, asked.workers)]
    try:
        with _meeting_place(ray.get([other.node.remote() for other in others])) as place:
            at_work = [
                other.work.remote(train, place, rank, asked.workers)
                for rank, other in enumerate(others, start=1)
            ]
            with _blaming(at_work), working_together(place, 0, asked.workers) as workers:
                yield workers
            ray.get(at_work)
    finally:
        for other in others:
            ray.kill(other, no_restart=True)


def _start(asked: PerTrialSection, rank: int) -> Any:  # noqa: ANN401 (Ray types no methods of an actor)
    group = ray.util.get_current_placement_group()
    assert group is not None, "Tune makes one for every trial"
    options = {
        "num_cpus": asked.cpu,
        "num_gpus": asked.gpu,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=rank
        ),
    }
    actor: Any = ray.remote(_Worker)
    return actor.options(**options).remote()


@contextmanager
def _meeting_place(nodes: list[str]) -> Iterator[str]:
    """Give where workers meet: a file where all are on one node, else a port of this one."""
    if set(nodes) == {ray.get_runtime_context().get_node_id()}:
        with tempfile.TemporaryDirectory(prefix="ragsearch-") as folder:
            yield f"file://{Path(folder, secrets.token_hex(8))}"
        return
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray leaves it so
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    yield f"tcp://{host}:{port}"


@contextmanager
def _blaming(at_work: "list[ray.ObjectRef[None]]") -> Iterator[None]:
    """Say what became of the other workers where the first one only sees them gone."""
    try:
        yield
    except RagsearchError:
        raise  # the first worker's own
    except RuntimeError as error:
        if verdict_on(error):
            raise
        ended, _ = ray.wait(at_work, num_returns=len(at_work), timeout=_SETTLE_S)
        for one in ended:
            try:
                ray.get(one)
            except ray.exceptions.OutOfMemoryError as reason:
                raise WorkerFailedError(killed_for_memory(reason)) from reason
            except ray.exceptions.RayError as reason:
                last_line = str(reason).strip().rpartition("\n")[2]
                what = f"a worker of this trial failed: {last_line}"
                raise WorkerFailedError(what) from getattr(reason, "cause", reason)
        raise
