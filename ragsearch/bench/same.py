"""The check that every design finds the same passages.

Our own designs must find the very same, in the same order. FAISS alone and stock Transformers
round scores in other ways, by how many queries they search at once: among passages whose
scores differ by less than that, they may choose another one.

Axes: Q queries, K passages per query.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from ragsearch.bench.client import Client
from ragsearch.bench.connections import ToIndex
from ragsearch.bench.designs import Name, Setting
from ragsearch.bench.plan import Plan
from ragsearch.bench.processes import BenchError, PlainProcess, ask
from ragsearch.index.hits import Hits

_TIE = 1e-4  # of the score


def find_reference(plan: Plan, setting: Setting) -> Mapping[int, Hits]:
    """Return what the first calls must find, by number of clients."""
    with ExitStack() as stack:
        process = PlainProcess(Client, setting.queries, threads=setting.all_threads)
        stack.callback(process.end)
        found = {}
        for n_clients in plan.clients:
            connection = ToIndex(setting.index.folder)
            ask([process], "connect", connection, range(n_clients))
            (found[n_clients],) = ask([process], "answer", plan.first_step(n_clients))
        return found


def check_same(name: Name, reference: Hits, answers: Sequence[Hits]) -> None:
    """Compare what the clients of a design found with what they must find.

    Raises:
        BenchError: If a query has other passages.
    """
    ids = np.concatenate([hits.ids for hits in answers])
    scores = np.concatenate([hits.scores for hits in answers])
    if name is Name.POOL:
        differing = (ids != reference.ids).any(axis=1)
    else:
        rows = zip(reference.ids, reference.scores, ids, scores, strict=True)
        differing = np.array([not _same_but_ties(*row) for row in rows])
    if differing.any():
        query = int(differing.argmax())
        raise BenchError(
            f"design {name}: {np.count_nonzero(differing)} of {len(ids)} queries find other "
            f"passages than the index in one process, query {query} finds "
            f"{ids[query].tolist()} instead of {reference.ids[query].tolist()}"
        )


def _same_but_ties(
    ids: np.ndarray, scores: np.ndarray, others: np.ndarray, their_scores: np.ndarray
) -> bool:
    """Tell whether two lists differ only in passages that score like the last one."""
    last = scores[-1]
    odd = np.concatenate([scores[~np.isin(ids, others)], their_scores[~np.isin(others, ids)]])
    return bool((np.abs(odd - last) <= _TIE * max(1.0, abs(last))).all())
