"""The table and the plot of a bench."""

import pytest

from ragsearch.bench.costs import Costs
from ragsearch.bench.designs import Name
from ragsearch.bench.plan import Kind
from ragsearch.bench.report import COLUMNS, check_plot, draw, floor, table
from ragsearch.bench.retrieval import Figures, Row
from ragsearch.errors import BadInputError


@pytest.fixture
def figures() -> Figures:
    seconds = {
        Name.FAISS: 0.01,
        Name.TORCH_DISTRIBUTED: 0.4,
        Name.RAY_ORIGINAL: 0.3,
        Name.POOL: 0.1,
    }
    rows = [
        Row(name, kind, clients, mean, mean, 2 * mean, 8 * clients / mean, 500_000_000)
        for kind in Kind
        for name, mean in seconds.items()
        for clients in (1, 4)
    ]  # fmt: skip
    sizes = {Kind.EXACT: 250_000_000, Kind.HNSW: 400_000_000}
    return Figures(rows, sizes, Costs(0.0006, 75_000_000))


def test_the_table_compares_each_design_with_the_pool_and_with_faiss(figures):
    lines = [dict(zip(COLUMNS, line, strict=True)) for line in table(figures)]

    assert len(lines) == 16
    (line,) = [
        line
        for line in lines
        if (line["kind"], line["design"], line["clients"]) == ("exact", "torch_distributed", 4)
    ]
    assert (line["mean ms"], line["p95 ms"], line["x pool"]) == (400.0, 800.0, 4.0)
    assert (line["queries/s"], line["% of faiss"]) == (80, 2)
    assert (line["memory MB"], line["indexes"]) == (500, 2.0)


def test_the_floor_says_what_ray_and_a_process_cost(figures):
    assert floor(figures) == {
        "index, exact": "250 MB",
        "index, hnsw": "400 MB",
        "Ray round trip": "0.60 ms, an actor that does nothing",
        "empty process": "75 MB, a client before it joins a pool",
    }


@pytest.mark.parametrize("name", ["bench.png", "bench.svg"])
def test_the_plot_is_drawn(figures, tmp_path, name):
    draw(figures, tmp_path / name)

    assert (tmp_path / name).stat().st_size > 1000


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path, figures):
    with pytest.raises(BadInputError, match=r"--plot: ends in none of \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "bench.gif")
    with pytest.raises(BadInputError, match="--plot: its folder is not there; make it"):
        check_plot(tmp_path / "missing/bench.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(
        BadInputError, match=r"--plot: cannot be written .* choose another place"
    ):
        draw(figures, tmp_path / "taken.png")
