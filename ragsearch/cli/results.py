"""Commands over a finished search and its bundle: trials, export, eval, ask."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragsearch.cli.options import IndexFolder, Json, Output, Search
from ragsearch.cli.printing import cell, print_json, print_pairs, print_table, say
from ragsearch.errors import BadInputError

if TYPE_CHECKING:
    from ragsearch.search.record import SearchRecord

commands = typer.Typer()

Bundle = Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that `export` wrote.")]


@commands.command(epilog="Example: ragsearch trials --json")
def trials(search: Search = None, *, output: Output = Path("runs"), json: Json = False) -> None:
    """Show the trials of a search, best first; works while it runs."""
    from ragsearch.results.leaderboard import find_search, leaderboard

    record = find_search(search, output)
    if json:
        print_json(leaderboard(record))
    else:
        show_trials(record)


@commands.command(epilog="Example: ragsearch export quickstart-20260102-030405 --to best")
def export(
    search: Search = None,
    *,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="New folder to write.")],
    trial: Annotated[
        int | None, typer.Option(min=0, help="Export this trial, not the best one.")
    ] = None,
    hf_retriever: Annotated[
        bool,
        typer.Option("--hf-retriever", help="Also write the index as Transformers reads it."),
    ] = False,
    output: Output = Path("runs"),
) -> None:
    """Write the best checkpoint as a folder Transformers opens.

    The folder also holds a manifest (what was searched, scores, index, versions, checksums) and
    a model card.
    """
    from ragsearch.results.export import export_best

    bundle = export_best(search, to, trial=trial, hf_retriever=hf_retriever, output=output)
    manifest = bundle.manifest
    say(f"trial {manifest.trial} of {manifest.search}; next: ragsearch ask {to} 'a question'")
    typer.echo(bundle.folder)


@commands.command(
    name="eval", epilog="Example: ragsearch eval best --data data/test.jsonl --n-docs 10"
)
def evaluate_bundle(  # noqa: PLR0913 - its options
    bundle: Bundle,
    *,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Questions, answers.")],
    index: IndexFolder = None,
    no_retrieval: Annotated[
        bool, typer.Option("--no-retrieval", help="Answer from the question alone.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many questions.")
    ] = None,
    n_docs: Annotated[
        int | None, typer.Option(min=1, help="Passages a question, not the trial's number.")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(min=1, help="Effort of a search in an HNSW index.")
    ] = None,
    nprobe: Annotated[
        int | None, typer.Option(min=1, help="Cells a search looks into in an IVF index.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write each answer, as JSON lines.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a bundle on questions with answers.

    Prints exact match, F1, NLL a token and recall of passages. On the search's own validation
    questions they are what the search reported. --n-docs, --ef-search and --nprobe ask the
    index in another way than the trial did, without training again.
    """
    from ragsearch.results.evaluate import evaluate

    if predictions is not None and predictions.exists():
        raise BadInputError.single(predictions, "exists already; choose another file")
    asked = {"n_docs": n_docs, "ef_search": ef_search, "nprobe": nprobe}
    found = evaluate(
        bundle,
        data,
        index=index,
        no_retrieval=no_retrieval,
        limit=limit,
        retrieval={name: value for name, value in asked.items() if value is not None},
    )
    if predictions is not None:
        found.write_predictions(predictions)
    if json:
        print_json(found.summary)
    else:
        print_pairs(found.summary)


@commands.command(epilog="Example: ragsearch ask best 'What is the capital of Fiji?'")
def ask(
    bundle: Bundle,
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What to ask.")],
    *,
    index: IndexFolder = None,
    json: Json = False,
) -> None:
    """Answer questions, each with the passages the answer comes from.

    A passage's weight is its share in the answer. With --json, one document a question.
    """
    from ragsearch.results.ask import Answerer

    answerer = Answerer(bundle, index)
    for question in questions:
        answer = answerer.ask(question)
        if json:
            print_json(answer.as_dict())
            continue
        typer.echo(f"{answer.answer}\n")
        rows = [(p.weight, p.title, p.text) for p in answer.passages]
        if rows:
            print_table(("weight", "title", "text"), rows)


def show_trials(record: "SearchRecord") -> None:
    """Print the table of a search, the best trial and what can be done next."""
    from ragsearch.results.leaderboard import rows

    table = rows(record)
    columns = list(table[0]) if table else ["trial", "status"]
    print_table(columns, [list(row.values()) for row in table])
    for line in _closing_lines(record):
        typer.echo(line)


def _closing_lines(record: "SearchRecord") -> list[str]:
    look = shlex.join(["mlflow", "ui", "--backend-store-uri", record.tracking_uri])
    lines = [f"search  {record.search}, {record.status}", f"look    {look}"]
    ranked = record.ranked()
    if not ranked:
        return lines
    best, scores = ranked[0], {0: ""}
    for trial in (best, record.trials.get(0)):
        if trial is not None and (epoch := record.best_epoch(trial)) is not None:
            scores[trial.trial] = cell(epoch[record.metric])
    baseline = f"; the baseline has {scores[0]}" if best.trial and scores[0] else ""
    is_near = record.folder.parent == Path("runs").resolve()  # where `export` looks itself
    search = record.search if is_near else str(record.folder)
    export_it = shlex.join(["ragsearch", "export", search, "--to", "best"])
    return [
        lines[0],
        f"best    trial {best.trial}, {record.metric} {scores[best.trial]}{baseline}",
        lines[1],
        f"export  {export_it}",
    ]
