"""What a run of the bench is asked for, and whether this machine can give it.

Knows nothing of FAISS or Ray: checking a plan costs nothing.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.manifest import IndexManifest, read_manifest
from ragsearch.retrieval.memory import available_bytes

BATCH = 8
"""Queries a call, as the original's training batch."""
N_WARM = 3
"""Calls before those that are timed."""
_MOST_CLIENTS = 64
_TEXT_BYTES = 700  # of a passage
_LINK_BYTES = 300  # of a passage in HNSW32


class Kind(StrEnum):
    """How an index searches."""

    EXACT = "exact"
    HNSW = "hnsw"


def kind_of(manifest: IndexManifest, place: Path) -> Kind:
    """Return how an index searches.

    Raises:
        BadInputError: If it is neither exact nor HNSW.
    """
    if manifest.faiss == "Flat":
        return Kind.EXACT
    if manifest.faiss.startswith("HNSW"):
        return Kind.HNSW
    what = f"is of kind {manifest.faiss!r}; the bench compares Flat and HNSW indexes"
    raise BadInputError.single(place, what, key="--index")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    kinds: tuple[Kind, ...] = (Kind.EXACT, Kind.HNSW)
    clients: tuple[int, ...] = (1, 2, 3, 4, 8)
    """Numbers of clients, ascending."""
    n_passages: int = 100_000
    dimension: int = 768
    steps: int = 20
    """Timed calls of each client."""
    replicas: int = 2
    """Of the pool, and actors of the original Ray design."""
    threads: int = 1
    """Of a replica."""
    index: Path | None = None
    """An index folder to measure instead of one that is made."""
    work: Path | None = None
    """Where indexes stay for the next run; a folder that is removed by default."""

    @property
    def n_steps(self) -> int:
        """Calls of a client in all, with every number of clients: none repeats a query."""
        return len(self.clients) * self._n_steps_each

    def first_step(self, n_clients: int) -> int:
        """Return the number of the first call with so many clients."""
        return self.clients.index(n_clients) * self._n_steps_each

    @property
    def _n_steps_each(self) -> int:
        return 1 + N_WARM + self.steps

    def over_index(self, folder: Path) -> "Plan":
        """Return the same over an index that is there.

        Raises:
            BadInputError: If it is no index, or of a kind the bench does not compare.
        """
        manifest = read_manifest(folder)
        return replace(
            self,
            kinds=(kind_of(manifest, folder),),
            n_passages=manifest.n_passages,
            dimension=manifest.dimension,
            index=folder,
        )

    def check(self) -> None:
        """Refuse what cannot be measured, or not here.

        Raises:
            BadInputError: With every reason.
        """
        mistakes = [*self._out_of_range(), *self._no_room()]
        if mistakes:
            raise BadInputError(mistakes)

    def _out_of_range(self) -> Iterator[Mistake]:
        ranges = {
            "--passages" if self.index is None else "--index": (self.n_passages, 10, 10**9),
            "--dimension": (self.dimension, 2, 65_536),
            "--steps": (self.steps, 1, 100_000),
            "--replicas": (self.replicas, 1, 64),
            "--threads": (self.threads, 1, 1024),
        }
        yield from out_of_range(ranges)
        for number in self.clients:
            if not 1 <= number <= _MOST_CLIENTS:
                what = f"{number} is not between 1 and {_MOST_CLIENTS}"
                yield Mistake("--clients", "", what)

    def _no_room(self) -> Iterator[Mistake]:
        if not Path("/proc/self/smaps_rollup").exists():
            what = "memory is read from /proc/PID/smaps_rollup, which only Linux has"
            yield Mistake("bench retrieval", "", f"{what}; run it there")
            return
        index_bytes = self.n_passages * (4 * self.dimension + _LINK_BYTES)
        # the vectors stand in our index, in Transformers' copy of it, and in its dataset
        needed = 3 * index_bytes + 3 * _TEXT_BYTES * self.n_passages
        place = _existing(self.work or Path(tempfile.gettempdir()))
        free = shutil.disk_usage(place).free
        if needed > free:
            what = f"needs {needed / 1e9:.1f} GB on disk, {free / 1e9:.1f} are free"
            yield Mistake(str(place), "", f"{what}; choose fewer --passages or another --work")
        held = self.replicas * index_bytes
        if held > (memory := available_bytes()):
            what = f"holds {held / 1e9:.1f} GB in memory, {memory / 1e9:.1f} are available"
            yield Mistake("design ray_original", "", f"{what}; choose fewer --passages")


def out_of_range(ranges: Mapping[str, tuple[int, int, int]]) -> Iterator[Mistake]:
    """Yield what is wrong with options.

    Args:
        ranges: The value of each, the least and the most it may be.
    """
    for option, (value, least, most) in ranges.items():
        if not least <= value <= most:
            yield Mistake(option, "", f"{value} is not between {least} and {most}")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
