import re

import pytest

from ragsearch.data.check import check_inputs
from ragsearch.errors import BadInputError
from ragsearch.retrieval.memory import available_bytes
from ragsearch.search.plan import make_plan
from tests.tiny import tiny_dpr


def _plan(spec):
    return make_plan(spec, check_inputs(spec))


def test_the_plan_counts_trials_questions_and_passages(space_of):
    plan = _plan(space_of())

    assert (plan.trials, plan.n_train, plan.n_val) == (3, 24, 8)
    assert plan.indexes[0].n_passages == 40
    assert plan.varied == ("optim.learning_rate",)


def test_rungs_grow_by_eta_and_end_before_the_last_epoch(space_of):
    asha = {"scheduler": {"min": 1, "eta": 2}}

    assert _plan(space_of(search=asha)).rungs == (1, 2)
    assert _plan(space_of(search={"scheduler": {"name": "none"}})).rungs == ()


@pytest.mark.parametrize(
    ("faiss", "n_bytes"),
    [
        ("Flat", 40 * 32 * 4),
        ("SQfp16", 40 * 32 * 2),
        ("HNSW16", 40 * (32 * 4 + 16 * 2 * 4)),
        ("IVF4,PQ8", 40 * (8 + 8)),
    ],
)
def test_index_bytes_follow_from_the_factory_string(space_of, tiny, faiss, n_bytes):
    index = {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder), "faiss": faiss}

    assert _plan(space_of(indexes={"tiny": index})).indexes[0].index_bytes == n_bytes


def test_a_large_exact_index_is_counted_with_its_sketch_and_torch(space_of, tiny, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = tiny.corpus.read_text().splitlines()
    more = (
        f'{{"id": "x{n}", "title": "t", "text": "words"}}' for n in range(20_000 - len(rows))
    )
    corpus.write_text("\n".join([*rows, *more]))
    index = {"corpus": str(corpus), "encoder": str(tiny.context_encoder)}

    sketched = _plan(space_of(indexes={"tiny": index}))
    shards = _plan(space_of(indexes={"tiny": index | {"shards": 2}}))  # too small each

    assert sketched.indexes[0].index_bytes == 20_000 * 32 * 5
    assert shards.indexes[0].index_bytes == 20_000 * 32 * 4
    assert sketched.memory_bytes - shards.memory_bytes > 20_000 * 32


def test_replicas_share_the_index_but_not_their_process(space_of):
    one, two = (_plan(space_of(pool={"replicas": n})).memory_bytes for n in (1, 2))

    assert 0 < two - one < 200 << 20


def test_copies_in_memory_are_counted_each(space_of):
    mapped, copied = (
        _plan(space_of(pool={"per_node": 3, "memory": memory}))
        for memory in ("mapped", "in_memory")
    )

    (index,) = copied.indexes
    assert (index.replicas, index.copies) == (3, 3)
    assert copied.memory_bytes - mapped.memory_bytes == 2 * index.index_bytes
    assert any("3 copies" in line for line in copied.lines())


def test_a_trial_larger_than_this_machine_is_refused_with_its_line(space_of):
    spec = space_of(resources={"per_trial": {"cpu": 4096, "gpu": 1}})

    with pytest.raises(BadInputError, match=r"space\.yaml:\d+: resources\.per_trial\.cpu") as e:
        _plan(spec)
    assert "resources.per_trial.gpu: a trial asks for 1 and this machine has 0" in str(e.value)


def test_encoders_of_different_width_are_refused_with_their_line(space_of, tiny, tmp_path):
    wide = tiny_dpr(tmp_path / "wide", "context", dim=64)
    index = {"corpus": str(tiny.corpus), "encoder": str(wide)}

    with pytest.raises(BadInputError, match=r"yaml:\d+: indexes\.tiny\.encoder: .* 64 .* 32;"):
        _plan(space_of(indexes={"tiny": index}))


def test_the_plan_speaks_to_people(space_of):
    settings = {"scheduler": {"min": 1, "eta": 2}}
    plan = _plan(space_of(search=settings, resources={"max_concurrent": 1}))
    lines = "\n".join(plan.lines())

    assert "3 (trial 0 is the baseline)" in lines
    assert "compared after epoch 1, 2" in lines
    assert "tiny: 40 passages, 5.12 kB shared by 1 replica" in lines
    assert re.search(
        r"cores     1 of \d+ held by 1 trial, and busy with 1 search thread", lines
    )


def test_adafactor_is_counted_with_less_memory_than_adamw(space_of):
    kept = {
        name: _plan(
            space_of(trial={"optim": {"optimizer": name}}, resources={"max_concurrent": 1})
        ).memory_bytes
        for name in ("adamw", "adafactor")
    }

    assert kept["adamw"] > kept["adafactor"]


def test_a_search_without_retrieval_has_no_index_to_plan(space_of, tiny):
    model = {"type": "closed_book", "generator": str(tiny.bart)}
    trial = {"model": model, "retrieval": {}}

    plan = _plan(space_of(trial=trial, indexes={}, resources={"max_concurrent": 1}))

    assert (plan.indexes, plan.search_threads) == ((), 0)
    assert plan.memory_bytes
    assert "index " not in "\n".join(plan.lines())


@pytest.mark.parametrize(
    ("scheduler", "rungs"),
    [
        ({"name": "hyperband", "eta": 2}, (1, 2, 4)),
        ({"name": "pbt", "mutable": ["optim.learning_rate"], "interval": 3}, (3, 6)),
        ({"name": "median"}, ()),
    ],
)
def test_the_plan_says_where_other_schedulers_compare_trials(space_of, scheduler, rungs):
    search = {"algorithm": "random", "scheduler": scheduler}
    spec = space_of(search=search, trial={"train": {"max_epochs": 8}})

    assert _plan(spec).rungs == rungs


def test_trials_are_compared_up_to_the_longest_that_may_come(space_of):
    spec = space_of(
        search={"scheduler": {"name": "asha", "eta": 2}},
        space={"train.max_epochs": {"ordinal": [2, 9]}},
    )

    assert _plan(spec).max_epochs == 9
    assert _plan(spec).rungs == (1, 2, 4, 8)


def test_the_plan_names_searcher_and_scheduler_with_their_reasons(space_of):
    lines = _plan(space_of(search={"algorithm": "gp"})).lines()

    assert "searcher  gp" in lines
    assert "scheduler none, as 3 trials are too few to let one in 3 go on" in lines


def test_a_grid_smaller_than_the_budget_is_warned_of(space_of):
    space = {"retrieval.n_docs": {"ordinal": [2, 3]}}

    plan = _plan(space_of(space=space, budget={"trials": 5}))

    assert plan.trials == 2
    (warning,) = plan.warnings
    assert "budget.trials: the grid has 2 trials, so the search ends before 5" in warning


def test_without_a_scheduler_trials_are_compared_at_their_end(space_of):
    plan = _plan(space_of(search={"scheduler": {"name": "none"}}))

    assert "up to 4; compared at their end" in "\n".join(plan.lines())


def test_trials_that_search_by_themselves_need_no_replica(space_of):
    plan = _plan(space_of(trial={"retrieval": {"n_docs": 2, "backend": "in_process"}}))

    assert (plan.indexes[0].replicas, plan.search_threads) == (0, 0)
    assert "5.12 kB shared by all trials" in "\n".join(plan.lines())


@pytest.mark.parametrize(("warmup_steps", "warns"), [(8, True), (7, False)])
def test_a_warm_up_that_takes_the_whole_trial_is_told_of(space_of, warmup_steps, warns):
    optim = {"warmup_steps": warmup_steps, "effective_batch": 13}  # 24 questions, 4 epochs

    warnings = _plan(space_of(trial={"optim": optim})).warnings

    what = "space.yaml:.*optim.warmup_steps: 8 steps of warm-up are all of the 8 that"
    assert any(re.search(what, warning) for warning in warnings) == warns


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"trial": {"train": {"compile": True}}}, "trial.train.compile"),
        ({"space": {"train.compile": {"choice": [False, True]}}}, "space.train.compile"),
    ],
)
def test_what_is_compiled_needs_a_compiler_on_this_machine(
    space_of, monkeypatch, sections, where
):
    monkeypatch.setenv("CXX", "no-such-compiler")

    _plan(space_of())
    _plan(space_of(**sections, resources={"cluster": "auto"}))
    with pytest.raises(BadInputError, match=rf"space\.yaml:\d+: {where}: needs a C\+\+ comp"):
        _plan(space_of(**sections))


def test_the_plan_tells_in_which_turns_indexes_are_served_and_the_memory_of_the_largest(
    space_of, tiny
):
    size = 40 * 32 * 4
    copies = int(0.6 * available_bytes() / size)  # of one index, which leaves none for another
    index = {"corpus": str(tiny.corpus), "encoder": str(tiny.context_encoder)}
    two = {
        "indexes": {"tiny": index, "other": index | {"normalise": True}},
        "trial": {"retrieval": {"index": "tiny"}},
        "space": {"retrieval.index": {"choice": ["tiny", "other"]}},
    }
    pool = {"memory": "in_memory", "replicas": copies}

    in_turn = _plan(space_of(**two, pool=pool))
    together = _plan(space_of(**two))
    refused = _plan(space_of(**two, pool=pool, search={"scheduler": {"name": "hyperband"}}))

    (line,) = (line for line in in_turn.lines() if line.startswith("in turn"))
    assert re.fullmatch(
        r"in turn   other \(.*B\), then tiny \(.*B\), as they do not fit together into .*B of "
        r"free memory",
        line,
    )
    one = copies * (size + (120 << 20))
    assert one < in_turn.memory_bytes < 2 * one
    assert not any(line.startswith("in turn") for line in together.lines())
    assert together.turns == refused.turns == ""
    assert any("trials that hyperband pauses cannot wait" in one for one in refused.warnings)
