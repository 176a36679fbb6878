"""What the bench of training found, for people: a table, and how far each goal is.

In: `Figures`. Out: cells.
"""

from collections.abc import Mapping

from ragsearch.bench.train import Figures, Row
from ragsearch.bench.train_plan import Design

COLUMNS = (
    "model",
    "device",
    "design",
    "ms a step",
    "x ragsearch",
    "tokens/s",
    "% waiting",
    "peak MB",
    "ms a val example",
    "x ragsearch, val",
)
"""`x ragsearch`: how many times ragsearch's time; `% waiting`: share of a step spent waiting
for hits and passages."""


def table(figures: Figures) -> list[tuple[object, ...]]:
    """Return the cells under `COLUMNS`, designs below each other."""
    ours = {
        (row.model, row.device): row for row in figures.rows if row.design is Design.RAGSEARCH
    }
    return [_line(row, ours[row.model, row.device]) for row in figures.rows]


def _line(row: Row, ours: Row) -> tuple[object, ...]:
    return (
        row.model,
        row.device,
        row.design,
        round(1000 * row.step_s, 1),
        round(row.step_s / ours.step_s, 2),
        round(row.tokens_per_s),
        round(100 * row.retrieval_share, 1),
        round(row.peak_bytes / 1e6),
        round(1000 * row.val_s_per_example, 1),
        round(row.val_s_per_example / ours.val_s_per_example, 2),
    )


def limits(figures: Figures) -> Mapping[str, str]:
    """Return ragsearch's step over what it cannot do without, by model and device."""
    steps = {(row.model, row.device, row.design): row.step_s for row in figures.rows}
    told = {}
    for (model, device), encoder_s in figures.question_encoder_s.items():
        bare_s = steps[model, device, Design.BARE]
        share = steps[model, device, Design.RAGSEARCH] / (bare_s + encoder_s)
        told[f"{model}, {device}"] = (
            f"ragsearch's step is {share:.2f} x bare ({1000 * bare_s:.1f} ms) and question "
            f"encoder ({1000 * encoder_s:.1f} ms)"
        )
    return told
