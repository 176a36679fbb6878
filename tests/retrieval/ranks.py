"""One rank of a retrieval group, as the tests start it: a scenario, and what came of it.

Run as `python -m tests.retrieval.ranks SCENARIO PLACE INDEX RANK`; prints JSON lines: ids, or
the error.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from typing_extensions import override

from ragsearch.errors import RagsearchError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.open import open_index
from ragsearch.retrieval.distributed import DistributedRetriever, gloo_group
from ragsearch.retrieval.retriever import InProcessRetriever

LATE_S = 3.0
"""How long ranks wait for each other in the scenario in which one is late."""


class Broken(InProcessRetriever):
    """Fails where an index would be searched."""

    @override
    def retrieve(self, *_: object) -> Hits:
        raise OSError("the disk is gone")


def queries(rank: int, number: int) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=(number, 32)).astype(np.float32)


def talk(retriever: DistributedRetriever, rank: int) -> None:
    """Ask in every way that may differ between ranks."""
    say(retriever, queries(rank, (8, 3)[rank]), 5)
    say(retriever, queries(rank, (0, 4)[rank]), (2, 50)[rank])
    say(retriever, queries(rank, 2) * (1.0, np.nan)[rank], 5)
    say(retriever, queries(rank, 2), 5, (Knobs(), Knobs(nprobe=4))[rank])
    frozen = queries(rank, 9)
    frozen.flags.writeable = False
    say(retriever, frozen, 3)


def say(retriever: DistributedRetriever, *asked: object) -> None:
    start = time.monotonic()
    try:
        hits = retriever.retrieve(*asked)
    except RagsearchError as error:
        told = {"error": str(error), "kind": type(error).__name__, "code": error.exit_code}
    else:
        told = {"ids": hits.ids.tolist(), "scores": hits.scores.tolist()}
        told["found"] = [one.text for one in retriever.passages(hits.ids[hits.ids >= 0])]
        np.testing.assert_array_equal(hits.vectors[hits.ids < 0], 0.0)
    sys.stdout.write(json.dumps(told | {"seconds": time.monotonic() - start}) + "\n")
    sys.stdout.flush()


def wait_for_both(place: Path, rank: int) -> None:
    """Return when both ranks have imported what they need, which takes seconds."""
    place.with_name(f"ready-{rank}").touch()
    while not place.with_name(f"ready-{1 - rank}").exists():
        time.sleep(0.02)


def main() -> None:
    scenario, place, folder, rank = *sys.argv[1:4], int(sys.argv[4])
    kind = Broken if scenario == "broken" else InProcessRetriever
    local = kind(open_index(Path(folder)))
    wait_for_both(Path(place.removeprefix("file://")), rank)
    timeout_s = LATE_S if scenario == "late" else 60.0
    with gloo_group(place, rank, 2, timeout_s=timeout_s) as group:
        retriever = DistributedRetriever(local, group, who=f"rank {rank}")
        if scenario == "talk":
            talk(retriever, rank)
        elif scenario == "dies" and rank == 1:
            os._exit(9)
        elif scenario == "late" and rank == 1:
            time.sleep(3 * LATE_S)
        else:
            say(retriever, queries(rank, 2), 5)


if __name__ == "__main__":
    main()
