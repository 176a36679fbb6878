"""Commands over a finished search and its bundles: trials, final, export, eval, score, ask."""

import shlex
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragsearch.cli.options import IndexFolder, Json, Output, Overrides, Search
from ragsearch.cli.printing import cell, print_json, print_pairs, print_table, say
from ragsearch.errors import BadInputError

if TYPE_CHECKING:
    from ragsearch.data.gold import Gold
    from ragsearch.results.evaluate import Evaluation
    from ragsearch.search.record import SearchRecord

commands = typer.Typer()

GoldFormat = Literal["qa", "ans", "titles"]  # as in `data.gold`, which loads pydantic
Ks = Annotated[
    list[int] | None,
    typer.Option(
        "--k",
        min=1,
        help="Passages retrieval is scored at; may be repeated [default: 1, 5, 10].",
    ),
]
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


@commands.command(epilog="Example: ragsearch final -o final.top_k=2 -o data.test=test.jsonl")
def final(
    search: Search = None,
    *,
    override: Overrides = None,
    output: Output = Path("runs"),
    json: Json = False,
) -> None:
    """Train the best trials again with new seeds, and compare on test.

    The baseline is among them. Each model is scored once on the test questions, which nothing
    else reads, and the winner by validation is compared with the baseline and the runner-up: by
    how much it is better, with a 95 % interval over questions and seeds. What is there already
    is not done again. -o sets final.top_k and seeds, data.test and n_test, budget.disk,
    resources, pool.
    """
    from ragsearch.results.final import run_final_of
    from ragsearch.results.leaderboard import find_search

    record = find_search(search, output)
    comparison = run_final_of(record, override or ())
    if json:
        print_json({"search": record.search, "final": comparison.as_dict()})
    else:
        _show_final(record)


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
    name="eval",
    epilog="Example: ragsearch eval best --data data/test.jsonl --predictions said.jsonl",
)
def evaluate_bundles(  # noqa: PLR0913 - its options
    bundles: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Bundles that `export` wrote.")
    ],
    *,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Questions, answers.")],
    mode: Annotated[
        Literal["end_to_end", "retrieval"],
        typer.Option(help="Score answers, or only the passages found."),
    ] = "end_to_end",
    gold: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is right, where --data is a question a line."),
    ] = None,
    gold_format: Annotated[
        GoldFormat | None,
        typer.Option(
            help="What a line of gold is [default: qa; titles with --mode retrieval]."
        ),
    ] = None,
    k: Ks = None,
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
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write each answer and its passages: .jsonl, .parquet."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score bundles on questions with answers, one row each.

    Prints exact match, F1, ROUGE-L, NLL a token, recall and MRR of passages, and three signs of
    retrieval collapse, of the passages that are read: the share of different ones, the share of
    questions with the most frequent first one, and the mean entropy of their weights in nats.
    On the search's own validation questions they are what the search reported. With --mode
    retrieval only passages are looked for: precision (where the data has gold titles), recall,
    MRR and the signs.
    --n-docs, --ef-search and --nprobe ask the index in another way than the trial did, without
    training again.

    --data is jsonl, csv or parquet with question, answers and, where known, passage_ids and
    titles; or a .source file with a .target file beside it; or a question a line with --gold.
    A line of --gold is, by --gold-format: qa, question, tab, ['answer', ...] (then --data may
    be that file itself); ans, one answer; titles, titles of relevant passages parted by tabs.
    """
    from ragsearch.data.gold import read_judged
    from ragsearch.results.evaluate import evaluate, evaluate_all, evaluate_retrieval
    from ragsearch.results.predictions import require_new, write_predictions

    is_retrieval = mode == "retrieval"
    _refuse_idle(k, no_retrieval=no_retrieval, is_retrieval=is_retrieval)
    if predictions is not None:
        require_new(predictions)
    questions = read_judged(data, _gold(gold, gold_format, is_retrieval=is_retrieval), limit)
    asked = {"n_docs": n_docs, "ef_search": ef_search, "nprobe": nprobe}
    retrieval = {name: value for name, value in asked.items() if value is not None}
    evaluate_one: Callable[..., Evaluation] = (
        partial(evaluate_retrieval, index=index, retrieval=retrieval, at=k or ())
        if is_retrieval
        else partial(evaluate, index=index, retrieval=retrieval, no_retrieval=no_retrieval)
    )
    scored = evaluate_all(bundles, questions, evaluate_one)
    if predictions is not None:
        write_predictions(predictions, [row for one in scored for row in one.predictions()])
    _show_scores(scored, json=json)


@commands.command(epilog="Example: ragsearch score said.jsonl --json")
def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="FILE", help="Predictions that `eval` wrote.")
    ],
    *,
    k: Ks = None,
    json: Json = False,
) -> None:
    """Score predictions again, without model or index.

    EM, F1, ROUGE-L and the scores of retrieval are computed anew from the texts in the file;
    NLL is the one the model gave.
    """
    from ragsearch.results.evaluate import score_predictions

    _show_scores(score_predictions(predictions, k or ()), json=json)


def _refuse_idle(k: list[int] | None, *, no_retrieval: bool, is_retrieval: bool) -> None:
    if k and not is_retrieval:
        raise BadInputError.single("--k", "is for --mode retrieval; drop it, or set the mode")
    if no_retrieval and is_retrieval:
        what = "leaves nothing to score with --mode retrieval; drop one of them"
        raise BadInputError.single("--no-retrieval", what)


def _gold(
    path: Path | None, gold_format: GoldFormat | None, *, is_retrieval: bool
) -> "Gold | None":
    from ragsearch.data.gold import Gold

    if path is None and gold_format is None:
        return None
    return Gold(gold_format or ("titles" if is_retrieval else "qa"), path)


def _show_scores(scored: "list[Evaluation]", *, json: bool) -> None:
    rows = [evaluation.row() for evaluation in scored]
    if json:
        print_json({"rows": rows})
    elif len(rows) == 1:
        print_pairs(scored[0].summary)
    else:
        columns = list(dict.fromkeys(chain(*sorted(rows, key=len, reverse=True))))
        print_table(columns, [[row.get(column) for column in columns] for row in rows])


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
    _show_final(record)
    for line in _closing_lines(record):
        typer.echo(line)


def _show_final(record: "SearchRecord") -> None:
    from ragsearch.search.comparison import compare

    comparison = compare(record)
    if comparison is None:
        return
    from ragsearch.results.final import final_lines, final_rows

    table = final_rows(comparison)
    print_table(list(table[0]), [list(row.values()) for row in table])
    for line in final_lines(comparison):
        typer.echo(line)


def _closing_lines(record: "SearchRecord") -> list[str]:
    from ragsearch.search.front import chosen

    look = shlex.join(["mlflow", "ui", "--backend-store-uri", record.tracking_uri])
    lines = [f"search  {record.search}, {record.status}", f"look    {look}"]
    search = record.named
    if record.can_go_on:
        lines.append("resume  " + shlex.join(["ragsearch", "run", "--resume", search]))
    if (best := chosen(record)) is None:
        return lines
    scores = {0: ""}
    for trial in (best, record.trials.get(0)):
        if trial is not None and (epoch := record.metrics_of(trial)) is not None:
            scores[trial.trial] = cell(epoch[record.metric])
    baseline = f"; the baseline has {scores[0]}" if best.trial and scores[0] else ""
    export_it = shlex.join(["ragsearch", "export", search, "--to", "best"])
    return [
        lines[0],
        *_front_line(record),
        f"best    trial {best.trial}, {record.metric} {scores[best.trial]}{baseline}",
        *lines[1:],
        f"export  {export_it}",
    ]


def _front_line(record: "SearchRecord") -> list[str]:
    from ragsearch.search.front import front

    if len(record.objectives) == 1:
        return []
    numbers = ", ".join(str(trial.trial) for trial in front(record)) or "none has finished"
    return [f"front   trials {numbers}"]
