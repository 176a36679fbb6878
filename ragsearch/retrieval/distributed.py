"""A `Retriever` over a torch.distributed group: rank 0 gathers, searches, scatters.

In: one `Retriever` a rank; only rank 0's is searched with, the others' look passages up, so
they need not hold an index. Out: `Hits`, each rank its own. Knows torch.distributed; knows
nothing of Ray, models or trials.

Every call is a meeting: all ranks of the group call `retrieve` equally often, and all wait for
the slowest. What one rank may not ask is refused on that rank, and the others hear of it.

Axes: Q queries, K passages per query, D embedding size, N passages.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float32, Int64

from ragsearch.errors import RagsearchError
from ragsearch.index.hits import Hits, Knobs
from ragsearch.index.store import Passage
from ragsearch.retrieval.retriever import BadQueriesError, Retriever, check_queries

_UNSET = -1


class GroupUnavailableError(RagsearchError):
    """A rank of the group has died, or did not come to the meeting in time."""

    exit_code: ClassVar[int] = 3


class _Verdict(IntEnum):
    """What rank 0 tells the others before it sends hits."""

    FOUND = 0
    REFUSED = 1
    FAILED = 2


class _Asked(NamedTuple):
    """What a rank asks for, as numbers to send: the queries follow."""

    n_queries: int
    n_docs: int
    ef_search: int
    nprobe: int
    is_refused: int

    @property
    def search(self) -> tuple[int, Knobs]:
        """How to search: ranks that agree in it are searched for together."""
        ef_search, nprobe = (
            None if knob == _UNSET else knob for knob in (self.ef_search, self.nprobe)
        )
        return self.n_docs, Knobs(ef_search=ef_search, nprobe=nprobe)


@contextmanager
def gloo_group(
    place: str, rank: int, n_ranks: int, *, timeout_s: float = 60.0
) -> Iterator[dist.ProcessGroup]:
    """Be one of `n_ranks` processes that retrieve together, while the block lasts.

    Args:
        place: Where they meet: `tcp://host:port` or `file://path`, the same for all.
        rank: Which one this is, from 0.
        n_ranks: How many they are.
        timeout_s: How long one waits for the others, here and in every call.

    Yields:
        The group, for `DistributedRetriever`.

    Raises:
        GroupUnavailableError: If they do not all come in time.
    """
    length = timedelta(seconds=timeout_s)
    with _translated("cannot be joined"):
        dist.init_process_group(
            "gloo", init_method=place, rank=rank, world_size=n_ranks, timeout=length
        )
    try:
        group = dist.group.WORLD
        assert group is not None
        yield group
    finally:
        dist.destroy_process_group()


def gloo_among_all() -> dist.ProcessGroup:
    """Return a group of all processes that train together, for what lies in plain memory.

    All of them have to ask, in a process group that is there already.
    """
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


class DistributedRetriever:
    """A group of processes that search with the retriever of the first.

    Args:
        local: What rank 0 searches with, and every rank reads passages from.
        group: Gloo group of those who retrieve together; its timeout is how long they wait.
        who: Asker's name in error messages, such as `trial 7`.
    """

    def __init__(self, local: Retriever, group: dist.ProcessGroup, *, who: str = "") -> None:
        self._local = local
        self._group = group
        self._who = who

    @property
    def fingerprint(self) -> str:
        """Hash of the index."""
        return self._local.fingerprint

    @property
    def n_passages(self) -> int:
        """Passages in the index."""
        return self._local.n_passages

    @property
    def dimension(self) -> int:
        """Width a query must have."""
        return self._local.dimension

    def retrieve(
        self, queries: Float32[np.ndarray, "Q D"], n_docs: int, knobs: Knobs = Knobs()
    ) -> Hits:
        """Return the `n_docs` passages with the largest inner product, best first.

        Ranks may ask with different numbers of queries, none included, for different `n_docs`
        and with different knobs; but each of them has to ask.

        Raises:
            BadQueriesError: If what this rank or another one asks, no index can answer.
            GroupUnavailableError: If a rank has died or does not ask in time, or rank 0 cannot
                search; except after the last, the group is of no more use.
        """
        if self._group.size() == 1:
            return self._local.retrieve(queries, n_docs, knobs)
        refusal = self._refusal(queries)
        if refusal:
            queries = np.empty((0, self.dimension), np.float32)
        asked = _Asked(
            n_queries=len(queries),
            n_docs=n_docs,
            ef_search=_UNSET if knobs.ef_search is None else knobs.ef_search,
            nprobe=_UNSET if knobs.nprobe is None else knobs.nprobe,
            is_refused=bool(refusal),
        )
        try:
            if self._group.rank() == 0:
                return self._lead(queries, asked)
            return self._follow(queries, asked)
        except BadQueriesError as error:
            raise refusal or error from None

    def passages(self, ids: Int64[np.ndarray, " N"]) -> list[Passage]:
        """Return passages by id, in the order asked, from this rank's own retriever.

        Raises:
            BadQueriesError: If an id is out of range.
        """
        return self._local.passages(ids)

    def _refusal(self, queries: np.ndarray) -> BadQueriesError | None:
        """Return why these queries cannot be asked: raised only when the others know."""
        try:
            check_queries(queries, self.dimension, self._who)
        except BadQueriesError as error:
            return error
        return None

    def _lead(self, queries: np.ndarray, asked: _Asked) -> Hits:
        """Gather, search, scatter; whatever goes wrong, the others hear of it."""
        everyone = self._gather(asked)
        gathered = [queries]
        for rank, other in enumerate(everyone[1:], start=1):
            gathered.append(np.empty((other.n_queries, self.dimension), np.float32))
            self._receive(gathered[rank], rank)
        try:
            _check_none_refused(everyone)
            found = _search(self._local, gathered, everyone)
        except BadQueriesError as error:
            self._tell(_Verdict.REFUSED, str(error))
            raise
        except Exception as error:
            self._tell(_Verdict.FAILED, str(error))
            raise
        self._tell(_Verdict.FOUND, "")
        for rank, hits in enumerate(found[1:], start=1):
            for array in hits:
                self._send(array, rank)
        return found[0]

    def _follow(self, queries: np.ndarray, asked: _Asked) -> Hits:
        """Ask rank 0."""
        self._gather(asked)
        self._send(queries, 0)
        self._hear()
        hits = _room(len(queries), asked.n_docs, self.dimension)
        for array in hits:
            self._receive(array, 0)
        return hits

    def _gather(self, asked: _Asked) -> list[_Asked]:
        """Return what every rank asks, on rank 0; nothing elsewhere."""
        rows: list[torch.Tensor] | None = None
        if self._group.rank() == 0:
            rows = [
                torch.empty(len(asked), dtype=torch.int64) for _ in range(self._group.size())
            ]
        with _translated("does not answer"):
            dist.gather(torch.tensor(asked), rows, group=self._group, group_dst=0)
        return [_Asked(*row.tolist()) for row in rows or ()]

    def _tell(self, verdict: _Verdict, why: str) -> None:
        with _translated("does not answer"):
            dist.broadcast(torch.tensor(int(verdict)), group=self._group, group_src=0)
            if verdict is not _Verdict.FOUND:
                dist.broadcast_object_list([why], group=self._group, group_src=0)

    def _hear(self) -> None:
        verdict, why = torch.tensor(0), [""]
        with _translated("does not answer"):
            dist.broadcast(verdict, group=self._group, group_src=0)
            if verdict != _Verdict.FOUND:
                dist.broadcast_object_list(why, group=self._group, group_src=0)
        match _Verdict(int(verdict)):
            case _Verdict.REFUSED:
                raise BadQueriesError(why[0])
            case _Verdict.FAILED:
                raise GroupUnavailableError(
                    f"rank 0 of the retrieval group could not search ({why[0]}); see its log"
                )
            case _Verdict.FOUND:
                pass

    def _send(self, array: np.ndarray, rank: int) -> None:
        if array.size:  # gloo wants no empty messages, and the other side knows the shape
            copied = array if array.flags.writeable else array.copy()  # torch warns otherwise
            with _translated("does not answer"):
                dist.send(
                    torch.from_numpy(np.ascontiguousarray(copied)),
                    group=self._group,
                    group_dst=rank,
                )

    def _receive(self, array: np.ndarray, rank: int) -> None:
        if array.size:
            with _translated("does not answer"):
                dist.recv(torch.from_numpy(array), group=self._group, group_src=rank)


def _check_none_refused(everyone: Sequence[_Asked]) -> None:
    ranks = [str(rank) for rank, one in enumerate(everyone) if one.is_refused]
    if ranks:
        raise BadQueriesError(
            f"rank {', '.join(ranks)} of the retrieval group asked what no index can answer; "
            "its own error says what"
        )


def _search(
    local: Retriever, gathered: Sequence[np.ndarray], everyone: Sequence[_Asked]
) -> list[Hits]:
    """Return each rank's hits; those who ask alike are searched for together."""
    found = [_room(one.n_queries, one.n_docs, local.dimension) for one in everyone]
    for search in dict.fromkeys(one.search for one in everyone if one.n_queries):
        ranks = [rank for rank, one in enumerate(everyone) if one.search == search]
        n_docs, knobs = search
        hits = local.retrieve(np.concatenate([gathered[n] for n in ranks]), n_docs, knobs)
        ends = np.cumsum([len(gathered[rank]) for rank in ranks])[:-1]
        for rank, *arrays in zip(
            ranks, *(np.split(array, ends) for array in hits), strict=True
        ):
            found[rank] = Hits(*arrays)
    return found


def _room(n_queries: int, n_docs: int, dimension: int) -> Hits:
    """Return hits to be filled."""
    shape = (n_queries, n_docs)
    return Hits(
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
        np.empty((*shape, dimension), np.float32),
    )


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what gloo raises into one sentence with advice."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise GroupUnavailableError(
            f"the retrieval group {what} ({reason}); a rank has died, or was not there in "
            "time: see the logs of its processes, then start them all again"
        ) from error
