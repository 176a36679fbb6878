"""The commands, gathered into one application."""

from typing import Annotated

import typer

from ragsearch.cli.bench import commands as bench_commands
from ragsearch.cli.index import commands as index_commands
from ragsearch.cli.pool import commands as pool_commands
from ragsearch.cli.results import commands as results_commands
from ragsearch.cli.space import commands as space_commands
from ragsearch.cli.sweep import commands as sweep_commands

app = typer.Typer(
    epilog="Example: ragsearch init kb",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (space_commands, results_commands):
    app.registered_commands.extend(commands.registered_commands)
app.add_typer(index_commands, name="index")
app.add_typer(pool_commands, name="pool")
bench_commands.registered_commands.extend(sweep_commands.registered_commands)
app.add_typer(bench_commands, name="bench")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if wanted:
        from ragsearch import __version__

        typer.echo(f"ragsearch {__version__}")
        raise typer.Exit


@app.callback()
def about(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, exit."
        ),
    ] = False,
) -> None:
    """Find hyperparameters for retrieval-augmented generation.

    Many fine-tuning trials, one index in memory. A search goes: init a space file, validate
    it, run it, look at the trials, export the best, ask it something.

    Exit codes: 0 done, 1 our fault, 2 bad input, 3 pool or cluster unavailable, 4 every
    trial failed, 130 interrupted.
    """
