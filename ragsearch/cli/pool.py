"""Commands over the pools of a running Ray cluster: ls, start, alias, stop."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragsearch.cli.options import Address, Json
from ragsearch.cli.printing import print_json, print_table
from ragsearch.errors import BadInputError

if TYPE_CHECKING:
    from ragsearch.retrieval.pool import PoolInfo

commands = typer.Typer(
    help="Look after pools that outlive a search.",
    epilog="Example: ragsearch pool ls",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_COLUMNS = (
    "name",
    "aliases",
    "index",
    "passages",
    "shards",
    "replicas",
    "nodes",
    "lifetime",
    "memory",
    "searches",
    "joined",
    "clients",
    "queries",
    "queries/s",
    "p50 ms",
    "p95 ms",
    "restarts",
    "folder",
)

Index = Annotated[Path, typer.Argument(metavar="INDEX_DIR", help="Index folder.")]
Replicas = Annotated[int, typer.Option(min=1, help="Replicas of each shard.")]
PerNode = Annotated[
    int | None,
    typer.Option(
        min=1, help="Replicas on every node that has the folder, instead of --replicas."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads a replica searches with.")]
InMemory = Annotated[
    bool,
    typer.Option("--in-memory", help="A copy for each replica, instead of mapping the files."),
]


@commands.command(epilog="Example: ragsearch pool ls --json")
def ls(*, address: Address = "auto", json: Json = False) -> None:
    """List the pools of a cluster."""
    from ragsearch.search.cluster import cluster

    with cluster(address):
        from ragsearch.retrieval.pool import list_pools

        pools = list_pools()
    if json:
        print_json([asdict(pool) for pool in pools])
        return
    print_table(_COLUMNS, [_row(pool) for pool in pools])


@commands.command(
    epilog="Example: ragsearch pool start runs/indexes/0123456789abcdef --per-node 1"
)
def start(
    index: Index,
    *,
    replicas: Replicas = 1,
    per_node: PerNode = None,
    threads: Threads = 1,
    in_memory: InMemory = False,
    address: Address = "auto",
) -> None:
    """Start a pool that stays until it is stopped, and print its name.

    Needs a cluster started with `ray start --head`. Searches over the same index join the pool
    and load nothing. Where it runs already, missing replicas are added.
    """
    from ragsearch.search.cluster import cluster

    fingerprint = _fingerprint(index)
    with cluster(address):
        from ragsearch.retrieval.pool import pool_name, start_pool

        start_pool(
            index.resolve(),
            fingerprint,
            replicas=replicas,
            per_node=per_node,
            memory="in_memory" if in_memory else "mapped",
            threads=threads,
            lifetime="detached",
        )
    typer.echo(pool_name(fingerprint))


@commands.command(epilog="Example: ragsearch pool alias kb runs/indexes/0123456789abcdef")
def alias(  # noqa: PLR0913 - a pool has that many settings
    name: Annotated[str, typer.Argument(help="Alias that clients join by.")],
    index: Index,
    *,
    replicas: Replicas = 1,
    per_node: PerNode = None,
    threads: Threads = 1,
    in_memory: InMemory = False,
    address: Address = "auto",
) -> None:
    """Point an alias at an index, and print the name of its pool.

    The pool is started where it is not there, and stays until the alias moves on. Who joined
    by the alias before goes on with the index it has; the old pool ends when the last search
    and the last client of it have ended.
    """
    from ragsearch.search.cluster import cluster

    fingerprint = _fingerprint(index)
    with cluster(address):
        from ragsearch.retrieval.pool import Layout, PoolPlan, move_alias

        layout = Layout(replicas, per_node, "in_memory" if in_memory else "mapped")
        plan = PoolPlan(index.resolve(), fingerprint, layout, threads)
        move_alias(name, plan)
    typer.echo(plan.pool)


@commands.command(epilog="Example: ragsearch pool stop --all")
def stop(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name, from `ragsearch pool ls`.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Stop every pool.")] = False,
    address: Address = "auto",
) -> None:
    """End a pool, whoever uses it, and free its memory."""
    from ragsearch.search.cluster import cluster

    if (name is None) != every:
        raise BadInputError.single("pool stop", "give the name of a pool, or --all")
    with cluster(address):
        from ragsearch.retrieval.pool import list_pools, stop_pool

        names = [pool.name for pool in list_pools()]
        if name is not None and name not in names:
            there = ", ".join(names) or "none"
            raise BadInputError.single("pool stop", f"no pool {name!r}; there are: {there}")
        for each in [name] if name is not None else names:
            typer.echo(f"{each}: {stop_pool(each)} replicas ended")


def _fingerprint(index: Path) -> str:
    from ragsearch.index.manifest import read_manifest

    return read_manifest(index).fingerprint


def _row(pool: "PoolInfo") -> tuple[object, ...]:
    from ragsearch.retrieval.memory import readable

    answering = "" if pool.answering == pool.replicas else f" ({pool.answering} answer)"
    nodes = [f"{name} {count}" for name, count in sorted(Counter(pool.nodes).items())]
    return (
        pool.name,
        " ".join(pool.aliases),
        pool.fingerprint[:16],
        pool.n_passages,
        pool.n_shards,
        f"{pool.replicas}{answering}",
        ", ".join(nodes),
        pool.lifetime,
        readable(pool.pss_bytes),
        pool.n_leases,
        pool.n_joined,
        pool.n_clients,
        pool.n_queries,
        f"{pool.queries_per_s:.1f}",
        f"{pool.p50_ms:.1f}",
        f"{pool.p95_ms:.1f}",
        pool.n_restarts,
        pool.folder,
    )
