"""Which questions an epoch is validated on: some of them before the last epoch, then all.

The same questions in every trial of a search, so that trials can be compared at a rung. In the
last epoch the scores on those same questions are told too: by them epochs are compared, and so
the best one is chosen among equals.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ragsearch.data.questions import Question

Batches = Iterable[list[Question]]

_SHORT, _LONG = 1, 3  # words of an answer


def stratified(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """Return `n` questions of all kinds, each in its proportion to within one.

    A kind is how a question begins, whether its answer has a number in it, and how long the
    answer is. Questions are put in the order of their kinds, by chance within a kind, and every
    so manieth is taken (systematic sampling: Cochran 1977, "Sampling Techniques", chapter 8).

    Args:
        questions: In any order; those taken keep it.
        n: All are taken where there are no more.
        seed: Of chance.
    """
    if n >= len(questions):
        return list(questions)
    chance = random.Random(seed)  # noqa: S311 (it hides nothing)
    order = sorted(
        range(len(questions)),
        key=lambda number: (kind_of(questions[number]), chance.random()),
    )
    step = len(questions) / n
    start = chance.random() * step
    taken = {order[int(start + place * step)] for place in range(n)}
    return [question for number, question in enumerate(questions) if number in taken]


def kind_of(question: Question) -> tuple[str, bool, int]:
    """Return how a question begins, whether its answer has a number, and how long that is."""
    answer = question.answers[0]
    n_words = len(answer.split())
    length = 0 if n_words <= _SHORT else 1 if n_words <= _LONG else 2
    first, *_ = question.question.lower().split()
    return first, any(sign.isdigit() for sign in answer), length


class Rungs(NamedTuple):
    """What validations ask before the last one."""

    some: Batches
    """A worker's share."""
    compared: frozenset[str]
    """Ids of these questions, which every validation asks."""
    ids: Sequence[str]
    """Ids of all questions to validate on, in their order."""


class Validations:
    """A worker's share of what each validation asks; `is_last` is set before the last one."""

    def __init__(self, whole: Batches, rungs: Rungs | None = None) -> None:
        self.whole = whole
        """Of all questions."""
        self.rungs = rungs
        """None where every validation asks all."""
        self.is_last = False

    @property
    def is_partial(self) -> bool:
        """Whether the next validation may leave questions out."""
        return self.rungs is not None and not self.is_last

    def __iter__(self) -> Iterator[list[Question]]:
        """Yield the batches of the next validation."""
        yield from self.whole if self.rungs is None or self.is_last else self.rungs.some
