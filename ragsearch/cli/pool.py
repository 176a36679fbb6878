"""Commands over the pools of a running Ray cluster: ls, start, stop."""

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
    "passages",
    "replicas",
    "answering",
    "lifetime",
    "searches",
    "clients",
    "queries",
    "queries/s",
    "p50 ms",
    "p95 ms",
    "restarts",
    "folder",
)


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
    epilog="Example: ragsearch pool start runs/indexes/0123456789abcdef --replicas 2"
)
def start(
    index: Annotated[Path, typer.Argument(metavar="INDEX_DIR", help="Index folder.")],
    *,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas there should be.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads a replica searches with.")] = 1,
    address: Address = "auto",
) -> None:
    """Start a pool that stays until it is stopped, and print its name.

    Needs a cluster started with `ray start --head`. Searches over the same index join the pool
    and load nothing. Where it runs already, missing replicas are added.
    """
    from ragsearch.index.open import open_index
    from ragsearch.search.cluster import cluster

    fingerprint = open_index(index).manifest.fingerprint
    with cluster(address):
        from ragsearch.retrieval.pool import pool_name, start_pool

        start_pool(
            index.resolve(),
            fingerprint,
            replicas=replicas,
            threads=threads,
            lifetime="detached",
        )
    typer.echo(pool_name(fingerprint))


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


def _row(pool: "PoolInfo") -> tuple[object, ...]:
    sizes = (pool.n_passages, pool.replicas, pool.answering)
    used = (pool.n_leases, pool.n_clients, pool.n_queries)
    speed = (f"{pool.queries_per_s:.1f}", f"{pool.p50_ms:.1f}", f"{pool.p95_ms:.1f}")
    return (pool.name, *sizes, pool.lifetime, *used, *speed, pool.n_restarts, pool.folder)
