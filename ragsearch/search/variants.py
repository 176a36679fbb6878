"""The variants of an index that a search varies: which are served now, by their pools.

In: a spec and its open indexes. All variants are served for the whole search where their pools
fit into memory together. Where they do not, they are served in turn: trials wait until theirs
is, and those that share one run together.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

from typing_extensions import override

from ragsearch.errors import BadInputError
from ragsearch.index.open import PassageIndex
from ragsearch.retrieval.actors import wait_until_gone
from ragsearch.retrieval.placement import Layout, PoolPlan, Prober, glance_at_nodes, probe_nodes
from ragsearch.retrieval.pool import serving
from ragsearch.retrieval.turns import Turns, divide
from ragsearch.search.trainable import IndexAddress
from ragsearch.search.turns import ADVICE, hindrance, in_words
from ragsearch.spec import Spec
from ragsearch.spec.trial import RAG_TYPES

log = logging.getLogger(__name__)

_LEAVE_S = 20.0  # a replica leaves in a tenth of a second, on a loaded machine in seconds

Work = TypeVar("Work")
Serve = Callable[[str], AbstractContextManager[object]]
"""Has the index of that name served while the block lasts."""


class Variants(AbstractContextManager["Variants"]):
    """Serves the variants of a search, all together or in turn, while the block lasts."""

    def __init__(
        self, turns: Sequence[Sequence[str]] = ((),), serve: Serve = lambda _: nullcontext()
    ) -> None:
        """Prepare; nothing is served yet.

        Args:
            turns: Names of the indexes that are served at the same time; a single turn is
                served from the beginning to the end.
            serve: Serves one.
        """
        self._turns, self._serve = [tuple(turn) for turn in turns], serve
        self._served = tuple[str, ...]()
        self._pools = ExitStack()

    @override
    def __enter__(self) -> "Variants":  # noqa: PYI034 (not with the shape checks of tests)
        if not self.take_turns:
            self._open(self._turns[0])
        return self

    @override
    def __exit__(self, *error: object) -> None:
        self._served = ()
        self._pools.close()

    @property
    def take_turns(self) -> bool:
        """Whether they do not fit into memory together."""
        return len(self._turns) > 1

    def has(self, index: str | None) -> bool:
        """Tell whether a trial of an index, or of none, can run now."""
        return index is None or not self.take_turns or index in self._served

    def turn_of(self, index: str) -> tuple[str, ...]:
        """Return the indexes that are served together with one."""
        return next(turn for turn in self._turns if index in turn)

    def bring(self, index: str, what: str) -> None:
        """Serve an index and those of its turn, in the place of what is served now.

        Args:
            index: Its name.
            what: What waits for it, in words, such as `3 trials`.

        Raises:
            BadInputError: If there is no memory for it after all.
            PoolUnavailableError: If it cannot be served.
        """
        if self.has(index):
            return
        before, turn = self._served, self.turn_of(index)
        instead = f" in the place of {', '.join(before)}" if before else ""
        self._served = ()
        self._pools.close()
        log.info("index %s%s, for %s", ", ".join(turn), instead, what)
        self._open(turn)

    def stretches(
        self, work: Sequence[Work], index_of: Callable[[Work], str | None], what: str
    ) -> Iterator[list[Work]]:
        """Divide work by the variants it asks, and serve these for each part of it.

        Args:
            work: Of all variants.
            index_of: Tells which one some work asks; None where it asks none.
            what: What it is, in words, such as `final runs`.

        Yields:
            What can be done now; first what is served already.
        """
        if not self.take_turns:
            yield list(work)
            return
        asked = [(one, index_of(one)) for one in work]
        if now := [one for one, index in asked if self.has(index)]:
            yield now
        served = self._served
        for turn in self._turns:
            part = [one for one, index in asked if index in turn and turn != served]
            if part:
                self.bring(turn[0], f"{len(part)} {what}")
                yield part

    def _open(self, turn: tuple[str, ...]) -> None:
        with ExitStack() as pools:  # none stays open where one fails
            for name in turn:
                pools.enter_context(self._serve(name))
            self._pools = pools.pop_all()
        self._served = turn


def variants_of(
    spec: Spec,
    indexes: Mapping[str, PassageIndex],
    search: str,
    prober: Prober | None = None,
) -> Variants:
    """Return the variants of a search, its cluster being there.

    Args:
        spec: The search.
        indexes: Those its trials can ask for, by name.
        search: Its name.
        prober: Asks the nodes of the cluster what they have, if it is not the usual one.

    Raises:
        BadInputError: If they do not fit together and cannot be served in turn, or one does
            not fit alone.
    """
    if spec.file.trial.retrieval.backend != "pool":
        return Variants([tuple(indexes)])
    plans = {name: pool_plan(spec, index) for name, index in indexes.items()}
    turns = _possible(spec, divide(plans, prober or glance_at_nodes))

    def serve(name: str) -> AbstractContextManager[None]:
        return _served(name, plans[name], search, prober or probe_nodes, waits=len(turns) > 1)

    return Variants(turns, serve)


def pool_plan(spec: Spec, index: PassageIndex) -> PoolPlan:
    """Return the pool that serves an index to the trials of a search."""
    pool = spec.file.pool
    layout = Layout(pool.replicas, pool.per_node, pool.memory)
    fingerprint = index.manifest.fingerprint
    return PoolPlan(index.folder, fingerprint, layout, pool.threads, pool.lifetime)


def address_of(spec: Spec, index: PassageIndex, search: str) -> IndexAddress:
    """Return how trials reach an index, by its pool where they ask for one."""
    folder, fingerprint = str(index.folder), index.manifest.fingerprint
    if spec.file.trial.retrieval.backend != "pool":
        return IndexAddress(folder, fingerprint)
    return IndexAddress(folder, fingerprint, pool_plan(spec, index).pool, search)


def index_asked(spec: Spec, values: Mapping[str, object]) -> str | None:
    """Return the index that a trial with these values asks; None if it reads no passages."""
    trial = spec.trial_with(values)
    return trial.retrieval.index if trial.model.type in RAG_TYPES else None


def _possible(spec: Spec, found: Turns) -> Sequence[Sequence[str]]:
    """Return the turns that a search can take; a single one where mapped indexes must do.

    Raises:
        BadInputError: If it can take none, and all together would be killed for want of memory.
    """
    if len(found.turns) == 1:
        return found.turns
    why, hindered = in_words(*found), hindrance(spec)
    if hindered is None:
        log.info("indexes are served in turn: %s", why)
        return found.turns
    key, reason = hindered
    if spec.file.pool.memory == "mapped":
        log.warning(
            "indexes would be served in turn (%s), but %s: searches will read from disk; %s",
            why, reason, ADVICE,
        )  # fmt: skip
        return [[name for turn in found.turns for name in turn]]
    what = f"{reason}, and indexes would have to take turns: {why}; {ADVICE}"
    instead = "search" if key == "pool.lifetime" else "asha, median or none"
    raise BadInputError([spec.mistake(key, f"{what}, or set it to {instead}")])


@contextmanager
def _served(
    name: str, plan: PoolPlan, search: str, prober: Prober, *, waits: bool
) -> Iterator[None]:
    """Serve an index while the block lasts; at the end, wait until its memory is free."""
    with serving(plan, search, prober=prober):
        yield
    if waits and not wait_until_gone(plan.pool, _LEAVE_S):
        log.warning(
            "index %s stays in memory, as others hold its pool; see `ragsearch pool ls`", name
        )
