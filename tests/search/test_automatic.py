import pytest

from ragsearch.search.automatic import (
    population,
    scheduler_of,
    searcher_of,
    startup_trials,
)

NUMBERS = {
    "optim.learning_rate": {"log": [1e-5, 1e-1]},
    "optim.weight_decay": {"uniform": [0.0, 0.1]},
}
FINITE = {"retrieval.n_docs": {"ordinal": [1, 2, 4]}}
CHOICE = {"model.type": {"choice": ["rag_sequence", "rag_token"]}}
TWO = [{"metric": "val/em"}, {"metric": "val/f1"}]
FOUR = [*TWO, {"metric": "val/rouge_l"}, {"metric": "val/mrr_at_10"}]
PBT = {"name": "pbt", "mutable": ["optim.learning_rate"]}


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"space": {}}, "grid, as nothing varies"),
        ({"space": FINITE}, "grid, as all 3 points of the space fit into the budget"),
        ({"space": NUMBERS}, "tpe, as 20 trials are to learn from each other"),
        (
            {"space": NUMBERS | CHOICE},
            "tpe, as model.type is a choice, and not all combinations fit",
        ),
        (
            {"space": NUMBERS, "resources": {"max_concurrent": 20}},
            "qmc, as all trials start before any has a result: they are spread evenly",
        ),
        (
            {"space": NUMBERS, "search": {"scheduler": PBT}},
            "random, as pbt draws all trials before any has a result",
        ),
        (
            {"space": NUMBERS, "objectives": TWO},
            "tpe, as 20 trials are too few generations for nsga2",
        ),
        (
            {"space": NUMBERS, "objectives": TWO, "budget": {"trials": 500}},
            "nsga2, as 500 trials are generations enough for 2 objectives",
        ),
        (
            {"space": NUMBERS, "objectives": FOUR, "budget": {"trials": 500}},
            "nsga3, as 500 trials are generations enough for 4 objectives",
        ),
        (
            {"space": NUMBERS, "budget": {"trials": 500}},
            "cma_es, as only numbers vary, over 500 trials",
        ),
    ],
)
def test_auto_takes_a_searcher_by_space_budget_and_parallelism(space_of, sections, line):
    spec = space_of(**{"budget": {"trials": 20}} | sections)

    assert str(searcher_of(spec)) == line


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({}, "asha, as the worse trials are known before their end"),
        ({"search": {"algorithm": "bohb"}}, "hyperband, as bohb is made of it"),
        (
            {"objectives": TWO},
            "none, as rungs by the first objective would cut the others' best trials",
        ),
        (
            {"trial": {"train": {"max_epochs": 1}}},
            "none, as no rung lies before the end of 1 epoch",
        ),
        (
            {"budget": {"trials": 3}},
            "none, as 3 trials are too few to let one in 3 go on",
        ),
        ({"search": {"scheduler": {"name": "median"}}}, "median"),
    ],
)
def test_auto_takes_a_scheduler_where_stopping_saves_something(space_of, sections, line):
    spec = space_of(**{"budget": {"trials": 20}, "space": NUMBERS} | sections)

    assert str(scheduler_of(spec)) == line


@pytest.mark.parametrize(("trials", "n_startup", "n"), [(4, 2, 4), (24, 6, 4), (400, 10, 50)])
def test_random_trials_and_generations_grow_with_the_budget(space_of, trials, n_startup, n):
    spec = space_of(budget={"trials": trials})

    assert (startup_trials(spec), population(spec)) == (n_startup, n)


def test_what_the_file_says_of_them_stands(space_of):
    asked = {"startup_trials": 0, "population": 7}

    spec = space_of(search=asked)

    assert (startup_trials(spec), population(spec)) == (0, 7)
