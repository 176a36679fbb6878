"""The command that measures whole searches: bench sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ragsearch.cli.options import Json
from ragsearch.cli.printing import print_json, print_table, say
from ragsearch.cli.starter import shipped_spaces
from ragsearch.errors import BadInputError, Mistake

commands = typer.Typer()


@commands.command(epilog="Example: ragsearch bench sweep --bookkeeping --trials 1000 --json")
def sweep(  # noqa: PLR0913 - a bench has that many settings
    *,
    bookkeeping: Annotated[
        bool, typer.Option("--bookkeeping", help="Measure what a search costs beside trials.")
    ] = False,
    searchers: Annotated[
        bool, typer.Option("--searchers", help="Measure TPE with ASHA against random search.")
    ] = False,
    trials: Annotated[
        int | None,
        typer.Option(help="Trials [default: 4; bookkeeping 10000; searchers 27]."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial [default: 3].")] = None,
    n_train: Annotated[
        int | None, typer.Option(help="Questions to train on [default: 320].")
    ] = None,
    n_val: Annotated[
        int | None, typer.Option(help="Questions to validate on [default: 200].")
    ] = None,
    concurrent: Annotated[
        list[int] | None,
        typer.Option(
            help="Trials at a time [default: memory is measured at 1, 2 and 4, repeatable; "
            "bookkeeping 16; searchers 4]."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of what is drawn [default: 17; of searchers 1].")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many searches, with --searchers [default: 10].")
    ] = None,
    json: Json = False,
) -> None:
    """Measure whole searches in three designs, or parts of ours.

    loop: what one would write: a process for each configuration that random search draws, with
    an index of its own, stock Transformers, every epoch; one after the other.

    ray_mlflow: the same trainings as trials of Ray Tune, as many at a time as there are cores,
    with Ray's own MLflow callback on SQLite.

    ragsearch: `ragsearch run` of the quickstart: TPE and ASHA, one index for all trials.

    The first two get the same configurations, the baseline first; ragsearch starts with the
    baseline as well, and draws its own after it. The index is built beforehand for all. Time is
    from a design's start until a trial has the best val/em that all of them come to, and until
    one has the best of any; a design without has taken more than all its time. Weights are
    scored by one evaluation, after the clock has stopped. A trial that was stopped early
    counts among those an hour. Memory is the most PSS of all processes of a design, Ray's
    included, while so many trials train at a time. With all defaults it takes more than
    a quarter of an hour on two cores.

    With --bookkeeping trials sleep for a second, and report three times: what is left is what
    Ray Tune, searcher, scheduler, record and MLflow on SQLite take, against the ideal of trials
    x 1 s / concurrent. Time is from the first proposal, while workers start, until MLflow has
    everything; decisions are the searcher's proposals, the last tenth of them. 10,000 trials
    take twelve minutes or more.

    With --searchers nothing is trained: trials are looked up in measured learning curves of the
    quickstart (between them, interpolated), or score Hartmann's function of six variables or
    Branin's of two. Told is how many epochs random search without stopping and TPE with ASHA
    take to the same value: the median, over the seeds, of the best that random search finds in
    so many trials. Searcher and scheduler are those of `ragsearch run`.
    """
    quickstart = Path(str(shipped_spaces() / "quickstart.yaml"))
    if bookkeeping and searchers:
        raise BadInputError.single("--searchers", "and --bookkeeping are two benches; drop one")
    mine = {"--epochs": epochs, "--n-train": n_train, "--n-val": n_val}
    if bookkeeping:
        _refuse("--bookkeeping", mine | {"--seed": seed, "--seeds": seeds})
        given = _given(trials=trials, concurrent=_only(concurrent))
        _bookkeeping(quickstart, given, json=json)
    elif searchers:
        _refuse("--searchers", mine)
        given = _given(trials=trials, seed=seed, seeds=seeds, concurrent=_only(concurrent))
        _searchers(quickstart, given, json=json)
    else:
        _refuse("a sweep of three designs", {"--seeds": seeds})
        at_a_time = tuple(sorted(set(concurrent))) if concurrent else None
        sizes = {"trials": trials, "epochs": epochs, "n_train": n_train, "n_val": n_val}
        given = _given(**sizes, seed=seed, concurrent=at_a_time)
        _designs(quickstart, given, json=json)


def _given(**options: object) -> dict[str, Any]:  # Any: typer has checked them
    return {name: value for name, value in options.items() if value is not None}


def _only(concurrent: list[int] | None) -> int | None:
    if concurrent is None:
        return None
    if len(concurrent) > 1:
        raise BadInputError.single("--concurrent", "is given twice; give one number here")
    return concurrent[0]


def _refuse(bench: str, options: Mapping[str, int | None]) -> None:
    mistakes = [
        Mistake(option, "", f"has no meaning for {bench}; leave it out")
        for option, value in options.items()
        if value is not None
    ]
    if mistakes:
        raise BadInputError(mistakes)


def _designs(space: Path, given: dict[str, Any], *, json: bool) -> None:
    from ragsearch.bench.sweep_plan import SweepPlan

    plan = SweepPlan(space, **given)
    plan.check()
    from ragsearch.bench.sweep import measure
    from ragsearch.bench.sweep_report import design_columns, design_dict, design_table

    rows = measure(plan, say)
    if json:
        print_json({"rows": [design_dict(row) for row in rows]})
    else:
        print_table(design_columns(plan), design_table(rows))


def _bookkeeping(space: Path, given: dict[str, Any], *, json: bool) -> None:
    from ragsearch.bench.sweep_plan import BookkeepingPlan

    plan = BookkeepingPlan(space, **given)
    plan.check()
    from ragsearch.bench.bookkeeping import measure_bookkeeping
    from ragsearch.bench.sweep_report import MILESTONE_COLUMNS, milestone_table, overhead

    found = measure_bookkeeping(plan, say)
    if json:
        print_json({"bookkeeping": found.as_dict()})
    else:
        print_table(MILESTONE_COLUMNS, milestone_table(found))
        typer.echo(overhead(found))


def _searchers(space: Path, given: dict[str, Any], *, json: bool) -> None:
    from ragsearch.bench.sweep_plan import SearchersPlan

    plan = SearchersPlan(space, **given)
    plan.check()
    from ragsearch.bench.searchers import measure_searchers
    from ragsearch.bench.sweep_report import SEARCHER_COLUMNS, searcher_dict, searcher_table

    rows = measure_searchers(plan, say)
    if json:
        print_json({"searchers": [searcher_dict(row) for row in rows]})
    else:
        print_table(SEARCHER_COLUMNS, searcher_table(rows))
