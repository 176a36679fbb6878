"""Commands over a space file: init, validate, run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragsearch.cli.options import Json, Output, Overrides, Search
from ragsearch.cli.printing import print_json, progress_bar, say
from ragsearch.cli.results import show_trials
from ragsearch.errors import BadInputError

if TYPE_CHECKING:
    from ragsearch.search.run import SearchResult

commands = typer.Typer()

SpacePath = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The space file.")]


@commands.command(epilog="Example: ragsearch init kb --quickstart")
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it.")] = Path(),
    *,
    quickstart: Annotated[
        bool,
        typer.Option("--quickstart", help="Also copy the sample data and models to look into."),
    ] = False,
) -> None:
    """Copy a commented space file to start from; it runs as it is.

    The file searches over the small sample data and models that ragsearch ships. Put your
    own corpus, questions and models in their place, one after the other. Existing files are
    never overwritten.
    """
    from ragsearch.cli.starter import copy_starter

    for path in copy_starter(folder, with_sample=quickstart):
        typer.echo(path)
    say(f"next: ragsearch validate {folder / 'space.yaml'}")


@commands.command(epilog="Example: ragsearch validate kb/space.yaml -o budget.trials=20")
def validate(space: SpacePath, override: Overrides = None, *, json: Json = False) -> None:
    """Check a space file and what it points to; show the plan.

    Every mistake is reported at once, each with its file and line. Nothing is built, nothing
    is written, no cluster is started.
    """
    from ragsearch.data.check import check_inputs
    from ragsearch.search.plan import make_plan
    from ragsearch.spec import load_spec

    spec = load_spec(space, override or ())
    plan = make_plan(spec, check_inputs(spec))
    if json:
        print_json(plan.as_dict())
        return
    for line in plan.lines():
        typer.echo(line)


@commands.command(epilog="Example: ragsearch schema")
def schema() -> None:
    """Print the JSON Schema of space files, for editors.

    A file whose first line is `# yaml-language-server: $schema=space.schema.json` is completed
    and checked by it. `ragsearch init` writes both.
    """
    from ragsearch.spec.json_schema import json_schema

    print_json(json_schema())


@commands.command(epilog="Example: ragsearch run kb/space.yaml -o budget.trials=20")
def run(
    space: Annotated[
        Path | None, typer.Argument(metavar="[SPACE.yaml]", help="The space file.")
    ] = None,
    search: Search = None,
    *,
    override: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search that was interrupted.")
    ] = False,
    add_trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Give a search, ended or not, N more trials."),
    ] = None,
    output: Output = Path("runs"),
) -> None:
    """Run a search and end with the table of its trials.

    The space file is validated first. Indexes that are missing are built, the others are
    reused; each is served to every trial by one pool. Ctrl-C ends the trials cleanly and keeps
    what was finished; a second one leaves at once.

    Nothing is lost, even where the process was killed: --resume goes on with the newest
    search, or with SEARCH. Trials that have ended keep their results, the others go on from
    their last epoch, in the same MLflow runs. --add-trials extends a search; so does --resume
    with a larger budget (-o budget.trials=40, -o budget.wall=8h). No space file is needed then;
    one that is given must be the search's own: budget, resources, pool and algorithm may have
    changed, and domains may be wider. Two examples:

    ragsearch run --resume

    ragsearch run --add-trials 10 kb-20260102-030405
    """
    if resume or add_trials is not None:
        result = _go_on(space, search, override or (), add_trials or 0, output)
    else:
        result = _begin(space, search, override or (), output)
    show_trials(result.record)


def _begin(
    space: Path | None, search: str | None, overrides: Sequence[str], output: Path
) -> "SearchResult":
    if space is None:
        what = "is missing; give a space file, or go on with a search by --resume"
        raise BadInputError.single("SPACE.yaml", what)
    if search is not None:
        what = "is for --resume and --add-trials; a new search gets a name of its own"
        raise BadInputError.single(search, what)
    from ragsearch.spec import load_spec

    spec = load_spec(space, overrides)
    from ragsearch.cli.live import watching
    from ragsearch.search.run import run_search  # heavy: a mistyped key is told at once

    return run_search(spec, output=output, progress=progress_bar, watch=watching())


def _go_on(
    space: Path | None, search: str | None, overrides: Sequence[str], n: int, output: Path
) -> "SearchResult":
    from ragsearch.results.leaderboard import find_search

    if space is not None and search is None and not space.is_file():
        space, search = None, str(space)  # the only argument may be either
    folder = find_search(search, output).folder
    from ragsearch.cli.live import watching
    from ragsearch.search.run import resume_search

    return resume_search(
        folder,
        space=space,
        overrides=overrides,
        add_trials=n,
        progress=progress_bar,
        watch=watching(),
    )
