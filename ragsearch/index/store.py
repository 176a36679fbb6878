"""Passages in one Arrow IPC file, memory-mapped: of 21 million only those asked for are read.

In: passages in the order of their vectors. Out: passages by number. Knows Arrow only.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa

from ragsearch.errors import BadInputError

_ROWS_A_BATCH = 4096
Item = TypeVar("Item")


class Passage(NamedTuple):
    """A piece of text that can be found."""

    id: str
    """Id of the text in the corpus, `id#n` where the text was cut into several."""
    source_id: str
    """Id of the text in the corpus."""
    title: str
    text: str


_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in Passage._fields])


class PassageStore:
    """Passages by number, from an open file."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = batches
        # a batch makes its columns anew each time it is asked: half the cost of a passage
        self._columns = [batch.columns for batch in batches]
        self._ends = list(accumulate(batch.num_rows for batch in batches))

    @classmethod
    def open(cls, path: Path) -> "PassageStore":
        """Return the passages of a file that `write_passages` wrote, mapped.

        Raises:
            BadInputError: If the file is not there or damaged.
        """
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            what = f"is no passage file ({error}); run `ragsearch index build` again"
            raise BadInputError.single(path, what) from error
        return cls(batches)

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Passage]:
        """Yield every passage in order."""
        for batch in self._batches:
            yield from map(Passage._make, zip(*(c.to_pylist() for c in batch), strict=True))

    def take(self, ids: Sequence[int]) -> list[Passage]:
        """Return passages by number, in the order asked; about 5 microseconds each."""
        return [self._one(number) for number in ids]

    def _one(self, number: int) -> Passage:
        # -1 marks a missing hit: it must never become the last passage
        assert 0 <= number < len(self), f"no passage {number}"
        place = bisect_right(self._ends, number)
        batch = self._batches[place]
        row = number - (self._ends[place] - batch.num_rows)
        return Passage._make([column[row].as_py() for column in self._columns[place]])


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write passages as they come, never all in memory, and return how many there were."""
    n_passages = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for rows in windows(passages, _ROWS_A_BATCH):
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            n_passages += len(rows)
    return n_passages


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a stream into lists of `size`, the last one shorter.

    Yields:
        Lists, none of them empty.
    """
    stream = iter(items)
    while window := list(islice(stream, size)):
        yield window
