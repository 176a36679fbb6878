"""The table of the bench of training."""

import pytest

from ragsearch.bench.train import Figures, Row
from ragsearch.bench.train_plan import Design, Device, Size
from ragsearch.bench.train_report import COLUMNS, limits, table


@pytest.fixture
def figures() -> Figures:
    seconds = {Design.BARE: 0.2, Design.ORIGINAL: 0.9, Design.RAGSEARCH: 0.3}
    rows = [
        Row(size, Device.CPU, design, step_s, 60 / step_s, 0.015, 900_000_000, 2 * step_s)
        for size in Size
        for design, step_s in seconds.items()
    ]
    return Figures(rows, {(size, Device.CPU): 0.05 for size in Size})


def test_the_table_compares_each_design_with_ragsearch(figures):
    lines = [dict(zip(COLUMNS, line, strict=True)) for line in table(figures)]

    assert [(line["model"], line["design"]) for line in lines[:3]] == [
        ("tiny", "bare"), ("tiny", "original"), ("tiny", "ragsearch"),
    ]  # fmt: skip
    original = lines[1]
    assert (original["ms a step"], original["x ragsearch"]) == (900.0, 3.0)
    assert (original["tokens/s"], original["% waiting"], original["peak MB"]) == (67, 1.5, 900)
    assert (original["ms a val example"], original["x ragsearch, val"]) == (1800.0, 3.0)


def test_the_limit_is_bare_and_question_encoder(figures):
    assert limits(figures)["base, cpu"] == (
        "ragsearch's step is 1.20 x bare (200.0 ms) and question encoder (50.0 ms)"
    )
