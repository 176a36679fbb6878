"""Private clusters, and one started by `ray start --head` with a token that drivers join."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ragsearch.errors import BadInputError, ClusterUnavailableError
from ragsearch.index.build import build_index
from ragsearch.search.cluster import Cluster, Node, cluster
from ragsearch.search.record import SearchRecord
from ragsearch.spec.index_section import IndexSection
from ragsearch.spec.schema import PerTrialSection
from tests.command import try_ragsearch
from tests.search.conftest import space_content
from tests.tiny import Tiny

SMALL = Cluster("127.0.0.1:1", (Node(2, 0), Node(8, 1)), is_private=False)


@dataclass(frozen=True)
class Head:
    """A cluster that outlives its drivers."""

    address: str
    home: Path
    """Its token is in a file here."""

    def run(self, program: str, **environment: str) -> str:
        """Return what a driver prints that runs a program in a process of its own."""
        return _run(program, RAY_AUTH_TOKEN_PATH=str(self.home / "token"), **environment)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # short: sockets lie below it
    (folder / "token").write_text(secrets.token_hex(32))
    port = _free_port()
    mark = f"RAGSEARCH_TEST_HEAD={folder.name}"
    environment = _environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(folder / "token"),
        **dict([mark.split("=")]),
    )
    try:
        subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head"),
                *(f"--port={port}", f"--dashboard-port={_free_port()}", "--num-cpus=1"),
                *("--include-dashboard=false", "--disable-usage-stats"),
                *(f"--temp-dir={folder / 'ray'}", "--object-store-memory=100000000"),
            ],
            env=environment,
            check=True,
            capture_output=True,
        )
        yield Head(f"127.0.0.1:{port}", folder)
    finally:
        _end_marked(mark)
        shutil.rmtree(folder)


def test_a_trial_that_fits_a_node_passes_and_one_that_fits_none_is_refused():
    with pytest.raises(BadInputError, match=r"wants 9 CPU, 1 GPU, but a node .* has 2 CPU, 0"):
        SMALL.check_fits(PerTrialSection(cpu=9, gpu=1))
    with pytest.raises(BadInputError, match=r"resources.per_trial: .* wants 9 CPU"):
        SMALL.check_fits(PerTrialSection(cpu=9))


def test_the_workers_of_a_trial_may_be_on_several_nodes():
    assert SMALL.n_fit(PerTrialSection(cpu=2, workers=2)) == 2
    assert SMALL.n_fit(PerTrialSection(cpu=2, workers=5)) == 1
    with pytest.raises(
        BadInputError,
        match="wants 2 workers of 8 CPU, 1 GPU each, but each of the 2 nodes of the cluster ",
    ):
        SMALL.check_fits(PerTrialSection(cpu=8, gpu=1, workers=2))


def test_totals_are_over_all_nodes():
    assert (SMALL.cpus, SMALL.gpus) == (10, 1)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", r"'ray://head:10001': through Ray's client .*; run ragsearch on"),
        ("nonsense", r"'nonsense' is no address; give 'local', 'auto' or 'host:port'"),
        ("head:", r"is no address"),
        ("127.0.0.1:1", r"nobody listens there .*; start one with `ray start --head`"),
        ("127.0.0.1:70000", r"nobody listens there"),
    ],
)
def test_addresses_that_cannot_work_are_refused_at_once(address, message):
    with pytest.raises(ClusterUnavailableError, match=message), cluster(address):
        pass


def test_auto_means_the_address_of_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    with (
        pytest.raises(ClusterUnavailableError, match=r"'127.0.0.1:1': nobody listens"),
        cluster("auto"),
    ):
        pass


@pytest.mark.ray
def test_a_private_cluster_listens_on_loopback_asks_for_a_token_and_leaves_nothing(tmp_path):
    temporary = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    answer = _run(
        """
        import logging, os, sys, warnings
        from pathlib import Path
        from ragsearch.errors import ClusterUnavailableError
        from ragsearch.search.cluster import cluster
        from ragsearch.spec.schema import PerTrialSection

        class Holder:
            def is_there(self): return True

        warnings.simplefilter("error")
        with cluster("local", num_cpus=1) as private:
            import ray

            print(private.address.split(":")[0], private.cpus, private.is_private)
            print(ray.available_resources()["object_store_memory"] < 300e6)
            (folder,) = Path(os.environ["TMPDIR"]).glob("ragsearch-*")
            print(oct(folder.stat().st_mode)[-3:])
            with cluster("auto") as same:
                print(same.address == private.address, same.is_private)
            for address in ("local", "127.0.0.1:1"):
                try:
                    with cluster(address):
                        pass
                except ClusterUnavailableError as error:
                    print(error)
            variables = ray.remote(lambda: dict(os.environ))
            print(ray.get(variables.options(num_cpus=0).remote())["RAY_AUTH_MODE"])
            logging.basicConfig(stream=sys.stdout, format="%(message)s")
            private.check_fits(PerTrialSection())
            holder = ray.remote(Holder).options(num_cpus=1).remote()
            ray.get(holder.is_there.remote())
            private.check_fits(PerTrialSection())
        print(ray.is_initialized(), list(Path(os.environ["TMPDIR"]).iterdir()))
        print(list(Path.home().iterdir()))
        """,
        TMPDIR=temporary,
        HOME=str(tmp_path),
        RAY_ADDRESS="127.0.0.1:1",
    ).splitlines()

    assert answer[:4] == ["127.0.0.1 1.0 True", "True", "700", "True False"]
    assert "this process is connected to a Ray cluster already" in answer[4]
    assert "call ray.shutdown() first" in answer[5]
    assert answer[6:] == [
        "token",
        "the cluster is busy: trials wait until 1 CPU, 0 GPU are free",
        "False []",
        "[]",
    ]
    Path(temporary).rmdir()


@pytest.mark.ray
def test_a_failure_to_start_is_told_in_one_sentence(tmp_path):
    answer = _run(
        """
        from ragsearch.errors import ClusterUnavailableError
        from ragsearch.search.cluster import cluster

        try:
            with cluster("local", num_cpus=-1):
                pass
        except ClusterUnavailableError as error:
            print(error)
        """,
        HOME=str(tmp_path),
    )

    assert answer.startswith("cluster 'local': ")
    assert answer.count("\n") == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_driver_finds_the_detached_pool_of_the_first(head, tiny: Tiny, tmp_path):
    settings = IndexSection(corpus=str(tiny.corpus), encoder=str(tiny.context_encoder))
    index = build_index(settings, tmp_path / "index")
    fingerprint = index.manifest.fingerprint
    driver = """
        from pathlib import Path
        import numpy as np
        from ragsearch.retrieval.pool import list_pools, start_pool, stop_pool
        from ragsearch.search.cluster import cluster

        with cluster("{address}") as joined:
            pool = start_pool(
                Path("{folder}"), "{fingerprint}", lifetime="detached", lease_s=0.5
            )
            hits = pool.retrieve(np.ones((2, pool.dimension), np.float32), 3)
            (info,) = list_pools()
            print(joined.is_private, hits.ids.tolist(), info.lifetime, info.pids)
            {then}
        """
    where = {"address": head.address, "folder": index.folder, "fingerprint": fingerprint}
    first = head.run(driver.format(**where, then=""))
    time.sleep(1)
    second = head.run(
        driver.format(**where, then='print(stop_pool("index-" + pool.fingerprint[:16]))')
    )

    assert first.startswith("False [[")
    assert second.splitlines() == [first.strip(), "1"]


@pytest.mark.ray
@pytest.mark.long
def test_the_next_run_finds_index_and_pool_of_the_one_before(head, tiny: Tiny, tmp_path):
    content = space_content(tiny, space={}, budget={"trials": 1})
    content["trial"]["train"] = {"max_epochs": 1}
    content["resources"] = {"cluster": head.address}
    content["pool"] = {"lifetime": "detached"}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.home / "token")}

    pools, records = [], []
    for _ in range(2):
        done = try_ragsearch("run", "space.yaml", cwd=tmp_path, **token)
        assert done.returncode == 0, done.stderr
        listed = ("pool", "ls", "--address", head.address, "--json")
        pools.append(json.loads(try_ragsearch(*listed, cwd=tmp_path, **token).stdout))
    stopped = try_ragsearch(
        "pool", "stop", "--all", "--address", head.address, cwd=tmp_path, **token
    )

    one, two = (pool["pids"] for (pool,) in pools)
    assert one == two
    assert stopped.returncode == 0, stopped.stderr
    assert len(list((tmp_path / "runs" / "indexes").glob("*/manifest.json"))) == 1
    records = [SearchRecord.load(folder) for folder in (tmp_path / "runs").glob("tiny-*")]
    first, second = (record.trials[0].epochs[0] for record in records)
    assert first["val/nll"] == second["val/nll"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_wrong_token_is_told_with_what_to_set(head):
    answer = head.run(
        f"""
        from ragsearch.errors import ClusterUnavailableError
        from ragsearch.search.cluster import cluster

        try:
            with cluster("{head.address}"):
                pass
        except ClusterUnavailableError as error:
            print(error)
        """,
        RAY_AUTH_TOKEN="0" * 64,
        RAY_NUM_REDIS_GET_RETRIES="2",  # Ray tries for 20 s
    )

    assert (
        "the token is missing or wrong; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        in answer
    )


@pytest.mark.ray
@pytest.mark.slow
def test_workers_with_another_ragsearch_are_refused(head):
    answer = head.run(
        f"""
        import ragsearch
        from ragsearch.errors import ClusterUnavailableError
        from ragsearch.search.cluster import cluster

        ragsearch.__version__ = "99"
        try:
            with cluster("{head.address}"):
                pass
        except ClusterUnavailableError as error:
            print(error)
        """
    )

    assert "its workers have ragsearch 0." in answer
    assert "this process has 99; install the same version where `ray start` runs" in answer


def _run(program: str, **environment: str) -> str:
    """Return what a program prints in a process of its own, without our settings of Ray."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=_environment(**environment),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    ).stdout


def _environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | changes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_marked(mark: str) -> None:
    """End every process that was started with a variable only ours have."""
    while pids := _marked(mark):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (OSError, ValueError):  # ended, or not a process
            continue
    return found
