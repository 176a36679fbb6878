"""What the bench found, for people: a table and a plot.

In: `Figures`. Out: cells, or an image file. Knows matplotlib, imported when a plot is drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ragsearch.bench.designs import Name
from ragsearch.bench.retrieval import Figures, Row
from ragsearch.errors import BadInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "kind",
    "clients",
    "design",
    "mean ms",
    "p50 ms",
    "p95 ms",
    "x pool",
    "queries/s",
    "% of faiss",
    "memory MB",
    "indexes",
)
"""`x pool`: how many times the pool's mean; `% of faiss`: throughput as a share of the limit;
`indexes`: memory in sizes of the index."""

_SUFFIXES = (".png", ".svg", ".pdf")
_PANEL_INCHES = (5.0, 3.6)


def table(figures: Figures) -> list[tuple[object, ...]]:
    """Return the cells under `COLUMNS`, designs below each other."""
    by_place = {(row.kind, row.clients, row.design): row for row in figures.rows}
    places = dict.fromkeys((row.kind, row.clients) for row in figures.rows)
    return [
        _line(
            by_place[*place, design],
            pool=by_place[*place, Name.POOL],
            limit=by_place[*place, Name.FAISS],
            index_bytes=figures.faiss_bytes[place[0]],
        )
        for place in places
        for design in Name
    ]


def _line(row: Row, *, pool: Row, limit: Row, index_bytes: int) -> tuple[object, ...]:
    return (
        row.kind,
        row.clients,
        row.design,
        *(round(1000 * seconds, 2) for seconds in (row.mean_s, row.p50_s, row.p95_s)),
        round(row.mean_s / pool.mean_s, 2),
        round(row.queries_per_s),
        round(100 * row.queries_per_s / limit.queries_per_s),
        round(row.pss_bytes / 1e6),
        round(row.pss_bytes / index_bytes, 2),
    )


def floor(figures: Figures) -> Mapping[str, str]:
    """Return what the figures are to be read against, by name."""
    costs = figures.costs
    sizes = {
        f"index, {kind}": f"{size / 1e6:.0f} MB" for kind, size in figures.faiss_bytes.items()
    }
    return sizes | {
        "Ray round trip": f"{1000 * costs.round_trip_s:.2f} ms, an actor that does nothing",
        "empty process": f"{costs.process_bytes / 1e6:.0f} MB, a client before it joins a pool",
    }


def check_plot(file: Path) -> None:
    """Refuse a place for a plot before anything is measured.

    Raises:
        BadInputError: If it cannot be drawn there.
    """
    if file.suffix.lower() not in _SUFFIXES:
        what = f"ends in none of {', '.join(_SUFFIXES)}; choose a name that does"
        raise BadInputError.single(file, what, key="--plot")
    if not file.absolute().parent.is_dir():
        raise BadInputError.single(file, "its folder is not there; make it", key="--plot")


def draw(figures: Figures, file: Path) -> None:
    """Write a plot: time and memory over clients, a column of panels for each kind.

    Raises:
        BadInputError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    kinds = list(figures.faiss_bytes)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(kinds), 2 * height), layout="constrained")
    panels = figure.subplots(2, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        rows = [row for row in figures.rows if row.kind == kind]
        times, memory = panels[:, column]
        _lines(times, rows, {row: 1000 * row.mean_s for row in rows})
        times.set(title=f"{kind}", ylabel="ms a call, mean", yscale="log")
        _lines(memory, rows, {row: row.pss_bytes / figures.faiss_bytes[kind] for row in rows})
        memory.set(xlabel="clients", ylabel="memory, sizes of the index", ylim=(0, None))
    panels[0, 0].legend()
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error}); choose another place"
        raise BadInputError.single(file, what, key="--plot") from error


def _lines(panel: "Axes", rows: Sequence[Row], values: Mapping[Row, float]) -> None:
    """Draw a line for each design."""
    for design in Name:
        line = [row for row in rows if row.design == design]
        panel.plot(
            [row.clients for row in line],
            [values[row] for row in line],
            marker="o",
            label=str(design),
        )
    panel.set_xticks(sorted({row.clients for row in rows}))
    panel.grid(alpha=0.3)
