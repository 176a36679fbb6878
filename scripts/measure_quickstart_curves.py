"""Measure the learning curves of quickstart trials that `ragsearch bench sweep` looks up.

Draws configurations over the space of the quickstart from a scrambled Sobol sequence, trains
each for more epochs than the quickstart does, one after the other in this process, and adds a
line a trial to the table. The place of a trial in the sequence says what it is, so that a later
run goes on where an earlier one ended.

    python scripts/measure_quickstart_curves.py --epochs 9 --minutes 30
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.quasirandom import SobolEngine

from ragsearch.bench.surrogate import CURVES, settings_at
from ragsearch.data.questions import read_questions
from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.retriever import InProcessRetriever
from ragsearch.search.run import build_indexes
from ragsearch.spec import Spec, load_spec
from ragsearch.training.fit import DivergedError, EpochReport, fit_trial

SPACE = Path(__file__).parents[1] / "search_spaces" / "quickstart.yaml"
KEPT = ("val/em", "val/f1", "val/nll")
SOBOL_SEED = 0


def main() -> None:
    """Add trials to the table until the time is over."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    spec = load_spec(SPACE, [f"trial.train.max_epochs={arguments.epochs}"])
    (index,) = build_indexes(spec, arguments.work).values()
    deadline = time.monotonic() + 60 * arguments.minutes
    n_there = len(CURVES.read_text().splitlines()) if CURVES.is_file() else 0
    for place in range(n_there, arguments.trials):
        if time.monotonic() > deadline:
            return
        row = _measured(spec, index, place)
        with CURVES.open("a", encoding="utf-8") as table:
            table.write(json.dumps(row) + "\n")
        print(row, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=9, help="of each trial")
    parser.add_argument("--trials", type=int, default=64, help="lines the table is to have")
    parser.add_argument("--minutes", type=float, default=30, help="after which none is begun")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="place of the index")
    return parser.parse_args()


def _measured(spec: Spec, index: PassageIndex, place: int) -> dict[str, object]:
    """Return what one trial tried, and what each of its epochs came to."""
    engine = SobolEngine(len(spec.domains), scramble=True, seed=SOBOL_SEED)
    shares = engine.draw(place + 1)[place].tolist() if place else [0.5] * len(spec.domains)
    params = settings_at(spec, shares) if place else {}
    reports: list[EpochReport] = []
    data = spec.file.data
    try:
        fit_trial(
            spec.trial_with(params),
            (
                read_questions(Path(data.train), data.n_train),
                read_questions(Path(data.val), data.n_val),
            ),
            InProcessRetriever(index),
            reports.append,
            objective=spec.file.objectives[0],
            seed=spec.file.seed,
        )
    except DivergedError as error:
        print(f"place {place}: {error}", flush=True)
    epochs = [{key: round(report.metrics[key], 5) for key in KEPT} for report in reports]
    return {"place": place, "params": params, "epochs": epochs}


if __name__ == "__main__":
    main()
