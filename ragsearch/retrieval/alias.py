"""Aliases: names that point at an index, and can move to another while trials go on.

Kept in the cluster, beside the pools: in Ray's own store of keys and values, which lives as
long as the cluster. An alias is looked up once, when a client joins.
"""

import json
from dataclasses import asdict, dataclass

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

from ragsearch.retrieval.actors import NAMESPACE

_PREFIX = "alias/"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name and what it points at."""

    name: str
    pool: str
    fingerprint: str


def find_alias(name: str) -> Alias | None:
    """Return what an alias points at; None if there is no such alias."""
    said = _internal_kv_get(_PREFIX + name, namespace=NAMESPACE)
    return None if said is None else Alias(**json.loads(said))


def list_aliases() -> list[Alias]:
    """Return every alias of the cluster by name."""
    keys = _internal_kv_list(_PREFIX, namespace=NAMESPACE)
    names = sorted(key.decode().removeprefix(_PREFIX) for key in keys)
    found = (find_alias(name) for name in names)
    return [alias for alias in found if alias is not None]


def put_alias(alias: Alias) -> None:
    """Point an alias at an index, whatever it pointed at before."""
    _internal_kv_put(
        _PREFIX + alias.name, json.dumps(asdict(alias)).encode(), namespace=NAMESPACE
    )


def drop_aliases(pool: str) -> None:
    """Forget the aliases that point at a pool."""
    for alias in list_aliases():
        if alias.pool == pool:
            _internal_kv_del(_PREFIX + alias.name, namespace=NAMESPACE)
