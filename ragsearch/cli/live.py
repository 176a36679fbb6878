"""The live view of a search: trials by rung, the best so far, what is left, pool health.

On a terminal only; elsewhere the lines of the log say the same, one after the other.
"""

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ragsearch.cli.printing import cell
from ragsearch.search.standing import RunningRow, Standing, Watch

if TYPE_CHECKING:
    from ragsearch.retrieval.info import PoolInfo
    from ragsearch.search.budget import Use

_REFRESH_S = 0.5
_POOLS_S = 5.0  # between questions to replicas
_MOST_RUNNING = 12


@contextmanager
def live_view(standing: Standing) -> Iterator[None]:
    """Show how a search stands, below its log, while the block lasts."""
    console, health = Console(stderr=True), _PoolHealth(standing.pools)
    live = Live(
        get_renderable=lambda: render(standing, health.pools),
        console=console,
        refresh_per_second=1 / _REFRESH_S,
        transient=True,  # the table of trials takes its place
    )
    with health.watched(), live, _logging_above():
        yield


def watching() -> Watch | None:
    """Return the live view where a person looks on, else None."""
    return live_view if sys.stderr.isatty() else None


@contextmanager
def _logging_above() -> Iterator[None]:
    """Have log lines written above the view, which has taken stderr over."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if type(handler) is logging.StreamHandler and handler.stream is sys.__stderr__
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.__stderr__)


class _PoolHealth:
    """What replicas say of themselves, asked in a thread: a silent one takes time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.pools: Sequence[PoolInfo] = ()
        self._names, self._is_over = frozenset(names), threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask while the block lasts."""
        thread = threading.Thread(target=self._watch, daemon=True)
        if self._names:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            if self._names:
                thread.join(_POOLS_S)

    def _watch(self) -> None:
        from ragsearch.errors import PoolUnavailableError
        from ragsearch.retrieval.info import list_pools

        while not self._is_over.wait(_POOLS_S):
            try:
                found = list_pools(timeout_s=_POOLS_S)
            except PoolUnavailableError:  # the cluster is being left
                return
            self.pools = [pool for pool in found if pool.name in self._names]


def render(standing: Standing, pools: "Sequence[PoolInfo]") -> RenderableType:
    """Draw how a search stands.

    Args:
        standing: The search.
        pools: What is known of its pools.

    Returns:
        What rich prints.
    """
    parts: list[RenderableType] = [Text(), _head(standing), _rungs(standing)]
    if running := standing.running():
        parts.append(_running(standing, running))
    return Group(*parts, *map(_pool, pools))


def _head(standing: Standing) -> Text:
    parts = [standing.record.search, *map(_use, standing.budget.uses())]
    if (left_s := standing.budget.left_s) is not None:
        parts.append(f"about {_time(left_s)} left")
    if standing.best is not None:
        trial, value = standing.best
        parts.append(f"best {standing.record.metric} {cell(value)} (trial {trial})")
    return Text("  ·  ".join(parts), style="bold")


def _use(use: "Use") -> str:
    match use.what:
        case "trials":
            return f"{use.used:g} of {use.limit:g} trials ended"
        case "wall":
            return f"{_time(use.used)} of {_time(use.limit)}"
        case "gpu_hours":
            return f"{use.used:.2f} of {use.limit:g} GPU-hours"
        case "disk":
            return f"{use.used / 1e9:.2f} of {use.limit / 1e9:g} GB"
        case _:
            return f"{use.used:g} of {use.limit:g} trials in vain"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _rungs(standing: Standing) -> Table:
    table = _table("after epoch", "trials", "went on", f"best {standing.record.metric}")
    for rung in standing.rungs():
        table.add_row(str(rung.epoch), str(rung.reached), str(rung.went_on), cell(rung.best))
    return table


def _running(standing: Standing, rows: Sequence[RunningRow]) -> Table:
    metric = standing.record.metric
    table = _table("trial", "epoch", metric, "its best", "s an epoch")
    table.expand = True
    table.add_column("settings", no_wrap=True, ratio=1)
    for row in rows[:_MOST_RUNNING]:
        settings = ", ".join(f"{key}={cell(value)}" for key, value in row.params.items())
        table.add_row(
            str(row.trial), f"{row.epoch}/{row.n_epochs}", cell(row.last), cell(row.best),
            "" if row.epoch_s is None else f"{row.epoch_s:.0f}", settings or "the baseline",
        )  # fmt: skip
    if len(rows) > _MOST_RUNNING:
        table.add_row("", "", "", "", "", f"and {len(rows) - _MOST_RUNNING} more")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    return table


def _pool(pool: "PoolInfo") -> Text:
    whole = pool.answering == pool.replicas > 0
    what = f"pool {pool.name}: {pool.answering} of {pool.replicas} replicas answer"
    if pool.n_clients:
        what += f", {pool.queries_per_s:.0f} queries/s, p95 {pool.p95_ms:.1f} ms"
    if pool.n_restarts:
        what += f", {pool.n_restarts} restarts"
    return Text(what, style="" if whole else "bold red")
