"""Commands that measure: bench retrieval, bench train."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ragsearch.cli.options import Json
from ragsearch.cli.printing import print_json, print_pairs, print_table, say
from ragsearch.errors import BadInputError, Mistake

if TYPE_CHECKING:
    from ragsearch.bench.plan import Plan

Choice = TypeVar("Choice", bound=StrEnum)

commands = typer.Typer(
    help="Measure what ragsearch costs, against what it replaces.",
    epilog="Example: ragsearch bench retrieval --kind exact --clients 4",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="exact or hnsw; both by default.")
]
Clients = Annotated[
    list[int] | None,
    typer.Option("--clients", help="How many call at once; repeatable; 1 2 3 4 8 by default."),
]
Index = Annotated[
    Path | None,
    typer.Option("--index", metavar="DIR", help="Measure this index instead of a made one."),
]
Work = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="Keep made indexes here for the next run."),
]


@commands.command(
    epilog="Example: ragsearch bench retrieval --kind hnsw --clients 1 --clients 4 --plot b.png"
)
def retrieval(  # noqa: PLR0913 - a bench has that many settings
    *,
    kind: Kinds = None,
    clients: Clients = None,
    passages: Annotated[
        int | None, typer.Option(help="Passages of a made index [default: 100000].")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Width of its vectors [default: 768].")
    ] = None,
    steps: Annotated[int, typer.Option(help="Timed calls of each client.")] = 20,
    replicas: Annotated[
        int, typer.Option(help="Replicas of the pool, and actors of ray_original.")
    ] = 2,
    threads: Annotated[int, typer.Option(help="Threads each of them searches with.")] = 1,
    index: Index = None,
    work: Work = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a plot: .png, .svg or .pdf.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a retrieval call in four designs.

    faiss: bare FAISS in one process, given the queries of all clients in one batch: the limit.
    It finds ids and scores only.

    torch_distributed: a gloo group of as many processes as clients; rank 0 gathers the
    queries, searches with stock Transformers, eight at a time, and scatters.

    ray_original: actors that each hold a copy of the index in stock Transformers; every call
    goes to a random one.

    pool: ragsearch's own.

    A call asks for the 5 passages nearest to each of 8 queries. In the last three designs it
    gives their ids, scores, vectors and texts, as the original's retriever did. Clients are
    processes that call in a closed loop, without a pause; no query is asked twice. All designs
    have equal numbers of searching threads, and are checked to find the same passages.

    Memory is the sum of PSS over the processes of a design, clients included, Ray's own
    excluded. Made indexes hold random vectors in clusters of about a hundred, as passages on
    one topic are. They and their copies for Transformers take three times their size on disk;
    a run with all defaults takes about ten minutes on two cores.
    """
    from ragsearch.bench.plan import Kind, Plan

    plan = Plan(
        clients=tuple(sorted(set(clients or (1, 2, 3, 4, 8)))),
        steps=steps,
        replicas=replicas,
        threads=threads,
        index=index,
        work=work,
    )
    if index is None:
        plan = replace(
            plan,
            kinds=_chosen("--kind", Kind, kind or []) or plan.kinds,
            n_passages=plan.n_passages if passages is None else passages,
            dimension=plan.dimension if dimension is None else dimension,
        )
    else:
        _refuse({"--kind": kind, "--passages": passages, "--dimension": dimension})
        plan = plan.over_index(index)
    _measure(plan, plot, json=json)


@commands.command(epilog="Example: ragsearch bench train --model tiny --steps 10 --prefetch 1")
def train(  # noqa: PLR0913 - a bench has that many settings
    *,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="tiny or base; both by default.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="cpu or cuda; by default cpu, and cuda with a GPU."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Timed steps [default: 20 of tiny, 4 of base].")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Questions a step [default: 8 of tiny, 2 of base].")
    ] = None,
    n_docs: Annotated[int, typer.Option(help="Passages a question.")] = 5,
    passages: Annotated[int, typer.Option(help="Passages of the made index.")] = 10_000,
    prefetch: Annotated[
        int, typer.Option(help="retrieval.prefetch of ragsearch's design: 0 or 1.")
    ] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="train.compile of ragsearch's design.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure training and validation in three designs.

    bare: the generator alone, on contexts that are there already: the limit.

    original: stock Transformers: RagRetriever over an HNSW index in the same process, contexts
    padded to 300 tokens, RagSequenceForGeneration; validation generates, and then computes once
    more for the loss.

    ragsearch: a trial, its passages from a pool of one replica.

    All start from the same random weights and train on the same questions in the same batches;
    the last two are checked to find the same passages and compute the same loss. base has the
    shapes of BERT-base and BART-base, in float32 on a CPU and in bfloat16 on a GPU. Answers are
    written greedily, and as long as they may be: models with random weights hardly end them.

    A step is forward, backward and optimiser; tokens are those of contexts and answers, padding
    not counted. Memory is the process' peak, on a GPU the GPU's. A run with all defaults takes
    about four minutes on two cores.
    """
    from ragsearch.bench.train_plan import Device, Size, TrainPlan

    sizes = _chosen("--model", Size, model or [])
    plan = TrainPlan(
        sizes=sizes or tuple(Size),
        devices=_chosen("--device", Device, device or []),
        steps=steps,
        batch=batch,
        n_docs=n_docs,
        n_passages=passages,
        prefetch=prefetch,
        compile=compiled,
    )
    plan.check()
    from ragsearch.bench.train import measure
    from ragsearch.bench.train_report import COLUMNS, limits, table

    figures = measure(plan, say)
    if json:
        print_json({"rows": [asdict(row) for row in figures.rows]})
        return
    print_table(COLUMNS, table(figures))
    print_pairs(limits(figures))


def _chosen(option: str, kind: type[Choice], asked: list[str]) -> tuple[Choice, ...]:
    """Return what was asked for, each once."""
    known = [str(one) for one in kind]
    mistakes = [
        Mistake(option, "", f"{one!r} is not one of {', '.join(known)}")
        for one in asked
        if one not in known
    ]
    if mistakes:
        raise BadInputError(mistakes)
    return tuple(kind(one) for one in dict.fromkeys(asked))


def _refuse(options: Mapping[str, object]) -> None:
    mistakes = [
        Mistake(option, "", "is for a made index; leave it out, or --index")
        for option, value in options.items()
        if value is not None and value != []
    ]
    if mistakes:
        raise BadInputError(mistakes)


def _measure(plan: "Plan", plot: Path | None, *, json: bool) -> None:
    plan.check()
    from ragsearch.bench.report import COLUMNS, check_plot, draw, floor, table
    from ragsearch.bench.retrieval import measure

    if plot is not None:
        check_plot(plot)
    figures = measure(plan, say)
    if plot is not None:
        draw(figures, plot)
    if json:
        print_json({"rows": [asdict(row) for row in figures.rows]})
        return
    print_table(COLUMNS, table(figures))
    print_pairs(floor(figures))
