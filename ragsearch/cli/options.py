"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Output = Annotated[
    Path, typer.Option("--output", help="Folder that keeps searches and indexes.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Replace one value of the space file, by its dotted path; may be repeated.",
    ),
]
Search = Annotated[
    str | None,
    typer.Argument(metavar="[SEARCH]", help="Name or folder; the newest by default."),
]
IndexFolder = Annotated[
    Path | None,
    typer.Option("--index", help="Where the bundle's index lies, if it was moved."),
]
Address = Annotated[
    str,
    typer.Option(
        "--address", help="Ray cluster: host:port, or auto for the one started on this machine."
    ),
]
