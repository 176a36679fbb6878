import pytest

from ragsearch.search.cores import trials_at_once


@pytest.fixture
def at_once(space_of):
    """Return a function from cores and settings to how many trials run at a time."""

    def count(cores, *, pool=None, **resources):
        spec = space_of(pool=pool or {}, resources=resources, budget={"trials": 99})
        cpu = spec.file.resources.per_trial.cpu
        return trials_at_once(spec, int(cores / cpu), cores)

    return count


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_a_search_of_one_thread_has_the_core_of_the_trial_that_waits(at_once, replicas):
    assert at_once(2, pool={"replicas": replicas}) == (2, "")


def test_threads_beyond_the_waiting_trials_core_are_left_free(at_once):
    found = at_once(16, pool={"replicas": 2, "threads": 4})

    assert found.n_trials == 10  # and twice three threads more than a waiting trial leaves
    assert found.warning == (
        "a search takes 4 threads and the trial that waits for it leaves 1 CPU, so 16 trials "
        "at a time can keep 22 of 16 cores busy: 10 run instead; lower pool.threads, or set "
        "resources.max_concurrent"
    )


def test_trials_with_as_many_cores_as_a_search_has_threads_lose_none(at_once):
    pool = {"replicas": 2, "threads": 4}

    assert at_once(16, pool=pool, per_trial={"cpu": 4}) == (4, "")


def test_where_no_number_of_trials_leaves_enough_there_is_only_a_warning(at_once):
    found = at_once(2, pool={"replicas": 1, "threads": 8})

    assert found.n_trials == 2
    assert "can keep 9 of 2 cores busy; lower pool.threads, or expect slower" in found.warning


def test_what_the_user_asks_for_is_kept_and_warned_of(at_once):
    found = at_once(4, pool={"replicas": 4, "threads": 2}, max_concurrent=4)

    assert found.n_trials == 4
    assert "4 trials at a time can keep 8 of 4 cores busy" in found.warning
    assert at_once(4, max_concurrent=3) == (3, "")


def test_a_budget_smaller_than_the_machine_is_the_limit(space_of):
    assert trials_at_once(space_of(), 64, 64).n_trials == 3


def test_replicas_of_every_index_and_shard_are_counted(space_of, tiny):
    index = {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder)}
    spec = space_of(
        indexes={"one": index | {"shards": 3}, "two": index},
        trial={"retrieval": {"index": "one", "n_docs": 2}},
        space={"retrieval.index": {"choice": ["one", "two"]}},
        budget={"trials": 99},
    )

    # one search an index at a time, each on three shards: twice two threads beyond a trial's
    assert trials_at_once(spec, 8, 8).n_trials == 4
