"""Commands over a space file: init, validate, run."""

from pathlib import Path
from typing import Annotated

import typer

from ragsearch.cli.options import Json, Output, Overrides
from ragsearch.cli.printing import print_json, progress_bar, say
from ragsearch.cli.results import show_trials

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
def run(space: SpacePath, override: Overrides = None, *, output: Output = Path("runs")) -> None:
    """Run a search and end with the table of its trials.

    The space file is validated first. Indexes that are missing are built, the others are
    reused; each is served to every trial by one pool. Ctrl-C ends the trials cleanly and keeps
    what was finished.
    """
    from ragsearch.spec import load_spec

    spec = load_spec(space, override or ())
    from ragsearch.search.run import run_search  # heavy: a mistyped key is told at once

    show_trials(run_search(spec, output=output, progress=progress_bar).record)
