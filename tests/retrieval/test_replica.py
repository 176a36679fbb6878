import subprocess
import sys
from threading import Event

import numpy as np
import pytest

from ragsearch.errors import PoolMismatchError
from ragsearch.index.open import open_index
from ragsearch.retrieval.replica import PROTOCOL, Leases, Replica


class Host:
    """A keeper without Ray."""

    birth = "a replica"

    def __init__(self, *, detached: bool = False) -> None:
        self.detached = detached
        self.left = Event()

    def is_detached(self) -> bool:
        """Return what the test says."""
        return self.detached

    def leave(self) -> None:
        """Note it."""
        self.left.set()


def test_replica_answers_as_the_index_does(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    index = open_index(exact.folder)

    hits = replica.retrieve(queries, 3)

    for one, same in zip(hits, index.search(queries, 3), strict=True):
        np.testing.assert_array_equal(one, same)
    assert replica.passages(np.array([4, 0])) == index.store.take([4, 0])


def test_replica_says_what_it_serves_and_what_it_did(exact, queries):
    replica = Replica(exact.folder, exact.fingerprint, Host(detached=True))
    replica.retrieve(queries, 3)
    replica.retrieve(queries[:1], 3)
    replica.renew("search one")

    found = replica.describe()

    assert found["protocol"] == PROTOCOL
    assert found["fingerprint"] == exact.fingerprint
    assert (found["n_passages"], found["dimension"]) == (40, 32)
    assert found["index_bytes"] == sum(f.stat().st_size for f in exact.folder.iterdir())
    assert found["lifetime"] == "detached"
    assert found["n_queries"] == 9
    assert found["n_leases"] == 1


def test_replica_refuses_a_folder_that_holds_another_index(exact, other):
    with pytest.raises(PoolMismatchError, match=f"holds index {other.fingerprint[:16]} but"):
        Replica(other.folder, exact.fingerprint, Host())


def test_replica_leaves_when_no_lease_was_ever_taken(exact):
    host = Host()
    Replica(exact.folder, exact.fingerprint, host, lease_s=0.2)

    assert not host.left.wait(0.1)
    assert host.left.wait(2)


def test_replica_stays_while_a_lease_is_renewed(exact):
    host = Host()
    replica = Replica(exact.folder, exact.fingerprint, host, lease_s=0.3)

    for _ in range(10):
        replica.renew("search one")
        assert not host.left.wait(0.1)
    assert host.left.wait(2)


def test_detached_replica_stays_without_leases(exact):
    host = Host(detached=True)
    Replica(exact.folder, exact.fingerprint, host, lease_s=0.1)

    assert not host.left.wait(0.5)
    host.detached = False
    assert host.left.wait(2)


def test_a_lease_ends_when_it_is_not_renewed():
    now = [100.0]
    leases = Leases(60.0, lambda: now[0])
    leases.renew("one")
    now[0] += 40
    leases.renew("two")
    now[0] += 40

    assert leases.holders() == ("two",)


def test_releasing_one_lease_leaves_the_others():
    leases = Leases(60.0)
    leases.renew("one")
    leases.renew("two")
    leases.release("one")
    leases.release("never held")

    assert leases.holders() == ("two",)


def test_opening_a_replica_imports_no_torch(exact):
    program = f"""
import sys
from pathlib import Path
from ragsearch.retrieval.replica import Replica

class Host:
    birth = ""
    def is_detached(self):
        return True

Replica(Path({str(exact.folder)!r}), {exact.fingerprint!r}, Host())
print(sorted({{"torch", "transformers", "ray", "mlflow"}} & sys.modules.keys()))
"""

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
