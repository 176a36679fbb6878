"""Which ids stand twice in a file, in 16 bytes an id: for corpora of millions of rows.

Two different ids that share a 64-bit hash would be taken for one; among 21 million ids the
chance is 1 in 80,000.
"""

from array import array
from collections.abc import Iterator


class IdLedger:
    """Every id of a file and the row it stands in, kept as hashes."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._marks = array("q")

    def add(self, row_id: str, mark: int) -> None:
        """Enter an id with its line or row number."""
        self._hashes.append(hash(row_id))
        self._marks.append(mark)

    def repeated(self) -> Iterator[tuple[int, int]]:
        """Give (mark, mark of the first row with the same id) of every row but the first.

        Yields:
            Pairs in the order of the file.
        """
        import numpy as np

        if not self._hashes:
            return
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        is_again = np.diff(hashes[order], prepend=~hashes[order[:1]]) == 0
        first_of = np.maximum.accumulate(np.where(is_again, 0, np.arange(len(order))))
        firsts = order[first_of[is_again]].tolist()
        for again, first in sorted(zip(order[is_again].tolist(), firsts, strict=True)):
            yield self._marks[again], self._marks[first]
