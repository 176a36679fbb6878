"""How sure a mean score is, and a difference of two: paired bootstrap over questions and seeds.

In: scores of several models on the same questions, each trained with the same seeds. Out:
means with intervals. Pure: numpy, and nothing of trials or files.

Two things are left to chance. *Questions*: another sample of them would score otherwise. They
are drawn again with replacement, the same draw for all models, so that what is hard for all
cancels out in a difference (Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapters 6 and 13; paired, Koehn 2004, "Statistical Significance Tests for Machine Translation
Evaluation"). *Seeds*: training again would give another model. There are too few of them to
draw from: of 3, the mean of a draw never leaves their range, and the interval is far too
narrow. So the part of seeds is a parametric bootstrap (Efron and Tibshirani, section 6.5): a
draw from the t distribution of the mean of S seeds, with S - 1 degrees of freedom. The variance
between seeds holds some of the chance of questions, too, so intervals are rather too wide: in
simulations of 3 seeds and 200 questions 98 % of them hold the truth or more, and by drawing
questions alone between 96 % (seeds change nothing) and 44 % (they change much) would. With a
single seed that part is missing, and an interval speaks of questions alone.

Axes: C models, S seeds, Q questions, R resamples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
LEVEL = 0.95
_CELLS = 4_000_000  # numbers drawn at a time: 32 MB

Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """Scores of one configuration; its mean is sum / count, as of NLL a token."""

    sums: Floats
    """S x Q: of each seed and question."""
    counts: Floats
    """S x Q: what they are divided by; 1 where every question weighs the same."""


class Interval(NamedTuple):
    """A value and the limits that hold it with a probability of 95 %."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the value may as well be 0."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Resampled means of several configurations, drawn once for all comparisons of them."""

    by_seed: Mapping[int, Floats]
    """S means of each configuration."""
    _resampled: Mapping[int, Floats]
    """R x S: the same on questions drawn anew."""
    _seed: int

    def mean(self, one: int) -> Interval:
        """Return the mean of a configuration over seeds and questions."""
        return self._interval(self.by_seed[one], self._resampled[one])

    def difference(self, one: int, other: int) -> Interval:
        """Return the mean of a configuration minus that of another, paired."""
        return self._interval(
            self.by_seed[one] - self.by_seed[other],
            self._resampled[one] - self._resampled[other],
        )

    def _interval(self, by_seed: Floats, resampled: Floats) -> Interval:
        n_seeds, draws = len(by_seed), resampled.mean(axis=1)
        if n_seeds > 1:
            chance = np.random.default_rng([self._seed, 1])
            error = by_seed.std(ddof=1) / np.sqrt(n_seeds)
            draws += error * chance.standard_t(n_seeds - 1, size=len(draws))
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(by_seed.mean()), float(low), float(high))


def bootstrap(
    scores: Mapping[int, Scores], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Bootstrap:
    """Draw questions anew, and score every configuration on each draw.

    Args:
        scores: By configuration; all on the same questions and seeds, in the same order.
        seed: Of the draws.
        n_resamples: How many; each takes as many questions as there are.

    Returns:
        What means and differences are read from.
    """
    shapes = {array.shape for one in scores.values() for array in one}
    assert len(shapes) == 1, f"scores must be of the same seeds and questions, not {shapes}"
    ((_, n_questions),) = shapes
    chance = np.random.default_rng([seed, 0])
    drawn: dict[int, list[Floats]] = {number: [] for number in scores}
    for n_times in _draws(chance, n_questions, n_resamples):
        for number, one in scores.items():
            drawn[number].append((n_times @ one.sums.T) / (n_times @ one.counts.T))
    return Bootstrap(
        {number: one.sums.sum(1) / one.counts.sum(1) for number, one in scores.items()},
        {number: np.concatenate(parts) for number, parts in drawn.items()},
        seed,
    )


def _draws(chance: np.random.Generator, n_questions: int, n_resamples: int) -> Iterator[Floats]:
    """Yield how often each question is in each resample, some resamples at a time."""
    at_once = max(1, _CELLS // n_questions)
    for start in range(0, n_resamples, at_once):
        yield _counts(chance, n_questions, min(at_once, n_resamples - start))


def _counts(chance: np.random.Generator, n_questions: int, n_rows: int) -> Floats:
    drawn = chance.integers(n_questions, size=(n_rows, n_questions))
    drawn += np.arange(n_rows)[:, None] * n_questions
    counts = np.bincount(drawn.ravel(), minlength=n_rows * n_questions)
    return counts.reshape(n_rows, n_questions).astype(np.float64)
