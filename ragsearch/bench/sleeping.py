"""A trial that computes nothing, for a worker that has nothing but Ray to import.

In: a Tune config and the `TrialJob` of the search. Out: as many reports, of as many metrics,
as a trial of the quickstart gives, evenly over one second.
"""

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragsearch.search.trainable import TrialJob

TRIAL_S = 1.0
N_REPORTS = 3

_METRICS = (
    "retrieval/p95_ms", "time/epoch_s", "time/retrieval_share", "train/loss",
    "train/question_encoder_grad_norm", "val/em", "val/f1", "val/hit_overlap",
    "val/mrr_at_10", "val/nll", "val/posterior_entropy", "val/prior_entropy",
    "val/recall_at_1", "val/recall_at_5", "val/recall_at_10", "val/rouge_l",
    "val/top1_concentration", "val/unique_passage_ratio",
)  # fmt: skip
"""What a trial of the quickstart reports."""


def sleep_through(config: dict[str, object], job: "TrialJob") -> None:
    """Be a trial that computes nothing: sleep, and report what one reports."""
    from ray import tune

    from ragsearch.search.space import LAST_KEY
    from ragsearch.search.trainable import MODEL_KEY

    objective, last = job.spec.file.objectives[0].metric, N_REPORTS
    for epoch in range(1, last + 1):
        time.sleep(TRIAL_S / N_REPORTS)
        result = dict.fromkeys((*_METRICS, objective), 0.5)
        if epoch == last:
            result[objective] = score(config)
        tune.report(result | {"epoch": epoch, LAST_KEY: epoch == last, MODEL_KEY: 0})


def score(config: dict[str, Any]) -> float:
    """Return a value that a searcher can learn from: 1 at best, in the middle of each log."""
    rates = [float(v) for v in config.values() if isinstance(v, float) and v > 0]
    return 1.0 / (1.0 + sum(abs(math.log10(rate)) for rate in rates))
