"""What may go wrong on purpose, and the exit code each kind ends the program with.

Knows nothing of the rest of ragsearch. Exit codes: 0 done, 1 our fault, 2 bad input,
3 pool, cluster or disk space unavailable, 4 every trial failed, or too many, 130 interrupted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override


class RagsearchError(Exception):
    """Anything ragsearch raises on purpose; its message is meant for the user."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in the user's input: the place, the key, and what to do about it."""

    place: str
    """`file`, `file:line`, a folder or a command-line option."""
    key: str
    """Dotted path in a space file, a column of a data file; empty where there is none."""
    what: str
    """What was wrong, with the value, and what to do."""

    @override
    def __str__(self) -> str:
        """Write the mistake as `place: key: what`."""
        return ": ".join(part for part in (self.place, self.key, self.what) if part)


class BadInputError(RagsearchError):
    """The user's input cannot be used; carries every mistake found, not only the first."""

    exit_code: ClassVar[int] = 2

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))

    @classmethod
    def single(cls, place: object, what: str, *, key: str = "") -> "BadInputError":
        """Make the error of one mistake."""
        return cls([Mistake(str(place), key, what)])


class PoolMismatchError(RagsearchError):
    """A pool of that name serves another index, or speaks another protocol."""

    exit_code: ClassVar[int] = 3


class PoolUnavailableError(RagsearchError):
    """No replica of the pool answered within the deadline."""

    exit_code: ClassVar[int] = 3


class ClusterUnavailableError(RagsearchError):
    """The Ray cluster asked for cannot be reached or started."""

    exit_code: ClassVar[int] = 3


class DiskFullError(RagsearchError):
    """A search ended because the disk took no more; what was written is kept."""

    exit_code: ClassVar[int] = 3


class EveryTrialFailedError(RagsearchError):
    """A search ended without one trial that reported its objective."""

    exit_code: ClassVar[int] = 4


class TooManyFailedError(RagsearchError):
    """A search was given up since too many of its trials crashed; the others are kept."""

    exit_code: ClassVar[int] = 4


class SearchInterruptedError(RagsearchError):
    """The user stopped a search; finished trials are kept."""

    exit_code: ClassVar[int] = 130
