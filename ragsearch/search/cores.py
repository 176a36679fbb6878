"""How many trials run at a time: by the CPUs they hold, and by replicas' threads, holding none.

A replica that held CPUs could keep trials waiting without a word, so it takes none from Ray and
its threads are counted here. A trial computes nothing while its search runs: a search has the
cores of the trial that waits for it, and only the threads beyond those want cores of their own.
"""

from typing import NamedTuple

from ragsearch.spec import Spec


class AtOnce(NamedTuple):
    """How many trials run at a time, and what to say about it."""

    n_trials: int
    warning: str
    """Empty where there is nothing to warn of."""


class _Searches(NamedTuple):
    """What the replicas of a search can be busy with."""

    n: int
    """Searches that can run at a time."""
    threads: int
    """Threads of one."""


def trials_at_once(spec: Spec, n_fit: int, cores: float) -> AtOnce:
    """Return how many trials to run at a time.

    Fewer than fit are run where that leaves the threads of replicas their cores; where nothing
    would, or `resources.max_concurrent` asks for as many, there is only a warning.

    Args:
        spec: The search.
        n_fit: Trials that Ray would place at a time.
        cores: Cores of the machines they run on.
    """
    resources, asked = spec.file.resources, spec.file.resources.max_concurrent
    n_wanted = max(min(n_fit, spec.file.budget.trials, asked or n_fit), 1)
    searches, cpu = _searches(spec), resources.per_trial.all_cpu
    busy = _busy(n_wanted, cpu, searches)
    if busy <= cores:
        return AtOnce(n_wanted, "")
    what = (
        f"a search takes {searches.threads} threads and the trial that waits for it leaves "
        f"{cpu:g} CPU, so {n_wanted} trials at a time can keep {busy:g} of {cores:g} cores busy"
    )
    good = (n for n in range(n_wanted, 0, -1) if _busy(n, cpu, searches) <= cores)
    n_good = next(good, None)
    if n_good is None or asked is not None:
        return AtOnce(n_wanted, f"{what}; lower pool.threads, or expect slower trials")
    instead = f"{n_good} run instead; lower pool.threads, or set resources.max_concurrent"
    return AtOnce(n_good, f"{what}: {instead}")


def n_replicas(spec: Spec, index: str) -> int:
    """Return how many replicas an index gets; none where trials search by themselves."""
    if spec.file.trial.retrieval.backend != "pool":
        return 0
    return spec.file.pool.on_one_node * spec.file.indexes[index].shards


def _searches(spec: Spec) -> _Searches:
    """Return the most that can go on: one search a replica, on all shards of its index."""
    if spec.file.trial.retrieval.backend != "pool":
        return _Searches(0, 0)
    used, pool = spec.used_indexes, spec.file.pool
    n_shards = max((spec.file.indexes[name].shards for name in used), default=0)
    return _Searches(len(used) * pool.on_one_node, n_shards * pool.threads)


def _busy(n_trials: int, cpu: float, searches: _Searches) -> float:
    """Return the most cores that trials and their searches can keep busy together."""
    return n_trials * cpu + min(n_trials, searches.n) * max(0.0, searches.threads - cpu)
