"""The bench of retrieval: four designs, the same index, the same queries, one run.

In: a `Plan`. Out: a `Row` a design, kind and number of clients, after a check that every design
finds the same passages.

Axes: C clients, Q queries a call, K passages per query.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ragsearch.bench.client import Laps
from ragsearch.bench.costs import Costs, measure_costs
from ragsearch.bench.designs import Design, Name, Setting, started
from ragsearch.bench.indexes import BenchIndex, made, make_queries, taken
from ragsearch.bench.plan import BATCH, N_WARM, Kind, Plan
from ragsearch.bench.processes import ask
from ragsearch.bench.same import check_same, find_reference
from ragsearch.errors import BadInputError
from ragsearch.index.hits import Hits
from ragsearch.retrieval.memory import pss_bytes
from ragsearch.search.cluster import cluster

Report = Callable[[str], None]
"""Told what happens, in a few words."""

_AGREE_S = 0.2  # until all clients know when to begin


@dataclass(frozen=True, slots=True)
class Row:
    """What a call costs in one design."""

    design: Name
    kind: Kind
    clients: int
    mean_s: float
    p50_s: float
    p95_s: float
    queries_per_s: float
    pss_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of the bench found."""

    rows: Sequence[Row]
    faiss_bytes: Mapping[Kind, int]
    """Size of each index."""
    costs: Costs


def measure(plan: Plan, report: Report) -> Figures:
    """Return what every design costs.

    Raises:
        BadInputError: If the plan asks what cannot be measured here.
        BenchError: If a design fails, or finds other passages than the others.
        ClusterUnavailableError: If Ray cannot be started.
    """
    plan.check()
    rows: list[Row] = []
    sizes: dict[Kind, int] = {}
    costs = None
    for kind in plan.kinds:
        with _folders(plan) as (work, scratch):
            index = _index(plan, kind, work, report)
            sizes[index.kind] = index.faiss_bytes
            measuring = _Measuring.prepare(plan, index, scratch, report)
            rows += measuring.rows(Name.FAISS) + measuring.rows(Name.TORCH_DISTRIBUTED)
            with cluster("local"):
                if costs is None:
                    report("what Ray and a process cost")
                    costs = measure_costs(
                        measuring.setting.queries, max(plan.clients) + plan.replicas
                    )
                rows += measuring.rows(Name.RAY_ORIGINAL) + measuring.rows(Name.POOL)
    assert costs is not None, "there is at least one kind"
    return Figures(rows, sizes, costs)


@contextmanager
def _folders(plan: Plan) -> Iterator[tuple[Path, Path]]:
    """Give a folder for indexes and one for what only this run needs."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ragsearch-")))
        yield plan.work or scratch, scratch


def _index(plan: Plan, kind: Kind, work: Path, report: Report) -> BenchIndex:
    try:
        work.mkdir(parents=True, exist_ok=True)
        if plan.index is not None:
            report(f"{plan.index}: in Transformers' format too")
            return taken(plan.index, work)
        report(f"{kind}: an index of {plan.n_passages} passages, {plan.dimension} wide")
        return made(kind, plan.n_passages, plan.dimension, work)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error}); choose another --work"
        raise BadInputError.single(work, what) from error


@dataclass(frozen=True, slots=True)
class _Measuring:
    """The measuring of one index, design after design."""

    plan: Plan
    setting: Setting
    reference: Mapping[int, Hits]
    """What the first queries of each number of clients must find."""
    report: Report

    @classmethod
    def prepare(
        cls, plan: Plan, index: BenchIndex, scratch: Path, report: Report
    ) -> "_Measuring":
        """Make the queries, and find what every design must find."""
        queries = scratch / "queries.npy"
        make_queries(index, queries, clients=max(plan.clients), steps=plan.n_steps, batch=BATCH)
        setting = Setting(index, queries, plan.replicas, plan.threads)
        return cls(plan, setting, find_reference(plan, setting), report)

    def rows(self, name: Name) -> list[Row]:
        """Return what a design costs with each number of clients."""
        with started(name, self.setting) as design:
            return [self._row(name, design, n_clients) for n_clients in self.plan.clients]

    def _row(self, name: Name, design: Design, n_clients: int) -> Row:
        design.grow(n_clients)
        first = self.plan.first_step(n_clients)
        hits = ask(design.processes, "answer", first)
        check_same(name, self.reference[n_clients], hits)
        start = first + 1 + N_WARM
        _run(design, range(first + 1, start))
        laps = _run(design, range(start, start + self.plan.steps))
        pids = [*ask(design.processes, "pid"), *design.server_pids()]
        row = _summary(name, self.setting.index.kind, n_clients, laps, pss_bytes(pids))
        callers = "1 client" if n_clients == 1 else f"{n_clients} clients"
        self.report(f"{row.kind}: {name}, {callers}: {1000 * row.mean_s:.2f} ms a call")
        return row


def _run(design: Design, steps: range) -> list[Laps]:
    begin_at = time.monotonic() + _AGREE_S
    laps: list[Laps] = ask(design.processes, "run", steps, begin_at)
    return laps


def _summary(name: Name, kind: Kind, n_clients: int, laps: Sequence[Laps], memory: int) -> Row:
    starts = np.array([lap.starts for lap in laps])
    ends = np.array([lap.ends for lap in laps])
    seconds = ends - starts
    n_steps = starts.shape[1]
    return Row(
        design=name,
        kind=kind,
        clients=n_clients,
        mean_s=float(seconds.mean()),
        p50_s=float(np.percentile(seconds, 50)),
        p95_s=float(np.percentile(seconds, 95)),
        queries_per_s=float(n_clients * BATCH * n_steps / (ends.max() - starts.min())),
        pss_bytes=memory,
    )
