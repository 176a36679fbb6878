"""The Ray cluster a search runs on: a private one started here, or one that is joined.

In: `resources.cluster` of a space file. Out: a `Cluster`, connected while the `with` block
lasts. Knows Ray; knows nothing of pools, trials or MLflow. Imports Ray only when called: part
of what is set here is read when Ray is first imported.
"""

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ragsearch
from ragsearch.errors import BadInputError, ClusterUnavailableError
from ragsearch.spec.schema import PerTrialSection

LOCAL = "local"

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 256 * 2**20  # hits and reports are small; indexes are mapped, not stored
_ROOM = 20  # Ray and we add 85 characters to it, and a socket's path ends at 107
_CONNECT_S = 5.0
_WORKER_S = 60.0
_START_ADVICE = "start one with `ray start --head`, or set resources.cluster to 'local'"
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints its configuration even at verbose=0
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; unset, it warns
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # csv, json, TensorBoard: 17 ms a result
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state, which nobody reads: the record is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of a cluster offers."""

    cpus: float
    gpus: float

    def n_fit(self, cpu: float, gpu: float) -> int:
        """Return how many workers of trials it holds at a time when idle."""
        by_cpu = int(self.cpus / cpu)
        return min(by_cpu, int(self.gpus / gpu)) if gpu else by_cpu


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster this process is connected to."""

    address: str
    """`host:port` of its head."""
    nodes: tuple[Node, ...]
    is_private: bool
    """Started for this search, and gone with it."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def n_fit(self, asked: PerTrialSection) -> int:
        """Return how many trials all nodes hold at a time when idle.

        The workers of a trial need not be on one node.
        """
        return _n_fit(self.nodes, asked)

    def check_fits(self, asked: PerTrialSection) -> None:
        """Refuse trials that Tune would wait for without a word, for ever.

        Raises:
            BadInputError: If the cluster could not hold a trial even when idle.
        """
        is_one = asked.workers == 1
        wants = f"{asked.cpu:g} CPU, {asked.gpu:g} GPU"
        if not is_one:
            wants = f"{asked.workers} workers of {wants} each"
        if not self.n_fit(asked):
            offers = " or ".join(
                sorted({f"{n.cpus:g} CPU, {n.gpus:g} GPU" for n in self.nodes})
            )
            nodes = "a node" if is_one else f"each of the {len(self.nodes)} nodes"
            raise BadInputError.single(
                "resources.per_trial",
                f"a trial wants {wants}, but {nodes} of the cluster has {offers}; lower it, or "
                "join a larger cluster with resources.cluster",
            )
        if not _n_fit(_free(), asked):
            log.warning("the cluster is busy: trials wait until %s are free", wants)


def _n_fit(nodes: Iterable[Node], asked: PerTrialSection) -> int:
    return sum(node.n_fit(asked.cpu, asked.gpu) for node in nodes) // asked.workers


@contextmanager
def cluster(
    address: str = LOCAL, *, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[Cluster]:
    """Be connected to a Ray cluster while the block lasts, and leave nothing behind.

    A private one lives in a temporary folder and asks for a token; it listens on the loopback
    address alone where Ray was not imported before (see `prepare`). A joined one stays as it
    was.

    Args:
        address: `local`, `auto` (the one of this machine, or `RAY_ADDRESS`), or `host:port`.
        num_cpus: CPUs a private cluster offers; all by default.
        num_gpus: GPUs a private cluster offers; all by default.

    Yields:
        The cluster.

    Raises:
        ClusterUnavailableError: If it cannot be started or joined.
    """
    prepare(address)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # our log says it in one line
    connection = _private(num_cpus, num_gpus) if address == LOCAL else _joined(address)
    with connection as connected:
        yield connected


def prepare(address: str) -> None:
    """Set what Ray reads from the environment when it is first imported.

    What the user has set stays as it is. Calling it after that import still quietens Tune.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address == LOCAL and "ray" not in sys.modules:
        # Ray's way to listen on the loopback address alone; its default on macOS
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def _private(num_cpus: int | None, num_gpus: int | None) -> Iterator[Cluster]:
    import ray

    if ray.is_initialized():
        raise ClusterUnavailableError(
            "cluster 'local': this process is connected to a Ray cluster already; set "
            "resources.cluster to 'auto' to use that one, or call ray.shutdown() first"
        )
    _make_token()
    with _temporary_folder() as folder, _shutting_down():
        with _translated(LOCAL):
            ray.init(
                "local",  # whatever RAY_ADDRESS says
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder / "ray"),  # Ray opens it to everyone; `folder` stays shut
            )
            connected = _describe(is_private=True)
        yield connected


@contextmanager
def _joined(address: str) -> Iterator[Cluster]:
    import ray

    if address == "auto" and not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address.startswith("ray://"):
        # Ray's client runs the Tuner in an actor: the record, MLflow and Ctrl-C stay behind
        raise ClusterUnavailableError(
            f"cluster {address!r}: through Ray's client this process would see nothing of its "
            "trials; run ragsearch on a machine of the cluster, with resources.cluster 'auto'"
        )
    if ray.is_initialized():  # by the caller, who will shut it down
        connected = _describe(is_private=False)
        if address not in {"auto", connected.address}:
            raise ClusterUnavailableError(
                f"cluster {address!r}: this process is connected to {connected.address} "
                "already; call ray.shutdown() first, or set resources.cluster to 'auto'"
            )
        yield connected
        return
    _check_listening(address)
    with _shutting_down():
        with _translated(address):
            _use_token()
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            _check_workers(address)
            connected = _describe(is_private=False)
        yield connected


def _make_token() -> None:
    """Have Ray use a token of this process; it would write one to the home folder."""
    if "RAY_AUTH_MODE" not in os.environ and not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token() -> bool:
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(given) or (Path.home() / ".ray" / "auth_token").exists()


def _use_token() -> None:
    """Have Ray show the user's token where there is one; for `host:port` it forgets to."""
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    base = tempfile.gettempdir()
    short = base if len(base) <= _ROOM else "/tmp"  # noqa: S108 (mkdtemp makes it private)
    folder = tempfile.mkdtemp(prefix="ragsearch-", dir=short)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Ray's last processes may still write


@contextmanager
def _shutting_down() -> Iterator[None]:
    import ray

    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn what Ray raises while it starts or connects into one sentence with advice."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "AuthToken" in _whole_story(error):
            reason = "the token is missing or wrong"
            advice = (
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file "
                "(or RAY_AUTH_MODE=disabled, if it has none) before starting ragsearch"
            )
        elif address == LOCAL:
            advice = "free memory and disk space, or join a cluster with resources.cluster"
        else:
            advice = _START_ADVICE
        raise ClusterUnavailableError(f"cluster {address!r}: {reason}; {advice}") from error


def _whole_story(error: BaseException | None) -> str:
    """Return the messages of an error and of everything that caused it."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(messages)


def _check_listening(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterUnavailableError(
            f"cluster {address!r} is no address; give 'local', 'auto' or 'host:port'"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnavailableError(
            f"cluster {address!r}: nobody listens there ({error}); {_START_ADVICE}"
        ) from error


def _check_workers(address: str) -> None:
    """Refuse a cluster whose workers run another ragsearch, or none."""
    import ray

    try:
        found = ray.get(
            ray.remote(_worker_version).options(num_cpus=0).remote(), timeout=_WORKER_S
        )
    except ray.exceptions.RayTaskError as error:
        found = f"none ({str(error).strip().rpartition(chr(10))[2]})"
    if found != ragsearch.__version__:
        raise ClusterUnavailableError(
            f"cluster {address!r}: its workers have ragsearch {found}, this process has "
            f"{ragsearch.__version__}; install the same version where `ray start` runs"
        )


def _worker_version() -> str:
    return ragsearch.__version__


def _free() -> Iterator[Node]:
    """Yield what is free of each node now: a total may lie in pieces no trial fits."""
    from ray._private.state import available_resources_per_node

    for free in available_resources_per_node().values():  # type: ignore[no-untyped-call]
        yield Node(free.get("CPU", 0.0), free.get("GPU", 0.0))


def _describe(*, is_private: bool) -> Cluster:
    import ray

    nodes = tuple(
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )
    return Cluster(ray.get_runtime_context().gcs_address, nodes, is_private)
