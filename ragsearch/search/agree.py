"""Whether a space file is still that of a search: what may change when it goes on.

Budgets, resources, the pool, the algorithms, `choose` and what follows the trials may change
at any time; a domain may become wider. All else would make the trials to come incomparable with
those there are, and is refused.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ragsearch.errors import BadInputError, Mistake
from ragsearch.index.fingerprint import index_fingerprint
from ragsearch.index.manifest import read_manifest
from ragsearch.search.afterwards import is_something_left
from ragsearch.search.inputs import data_digests, model_digests
from ragsearch.search.journal import write_whole
from ragsearch.search.record import SearchRecord
from ragsearch.spec import Bundle, Domain, Spec, load_spec
from ragsearch.spec.document import KeyPath

log = logging.getLogger(__name__)

RESOLVED_FILE = "resolved.json"
_MAY_CHANGE = {"budget", "choose", "final", "pool", "rescore", "resources", "search"}
_MAY_NOT = ("search", "scheduler", "rung_examples")
_OF_TEST = {("data", "test"), ("data", "n_test")}
_INCOMPARABLE = "trials would not be comparable; set it back, or start a new search"


def keep_resolved(spec: Spec, folder: Path) -> None:
    """Write what a space file came to into the folder of its search."""
    write_whole(folder / RESOLVED_FILE, json.dumps(spec.resolved(), indent=2) + "\n")


def agreed_spec(
    record: SearchRecord, space: Path | None, overrides: Sequence[str], add_trials: int
) -> Spec:
    """Return the spec with which a search goes on, and keep it in the search's folder.

    Args:
        record: The search.
        space: A space file to compare with the one kept; None takes that one.
        overrides: Over either.
        add_trials: Added to the budget of trials as the search had it.

    Raises:
        BadInputError: With everything that differs and must not, or if nothing is left to do.
    """
    if not record.id:
        what = "was made by an older ragsearch, and does not say enough to go on; run it anew"
        raise BadInputError.single(record.folder, what)
    kept = load_spec(record.folder / RESOLVED_FILE)
    if add_trials:
        overrides = [*overrides, f"budget.trials={kept.file.budget.trials + add_trials}"]
    spec = load_spec(space or record.folder / RESOLVED_FILE, overrides)
    mistakes = [*_different(kept, spec, is_tested=any(run.test for run in record.final))]
    models = model_digests(spec)
    mistakes = mistakes or [
        *_other_data(record, spec),
        *other_models(record, models),
        *_other_indexes(record, spec),
    ]
    if mistakes:
        raise BadInputError(mistakes)
    record.models |= models  # those of a domain that became wider are new
    _require_work(record, spec)
    for line in changes(kept, spec):
        log.info("changed   %s", line)
    if kept.domains != spec.domains:
        from ragsearch.search.widen import widen_study  # imports Optuna

        widen_study(record.folder, kept, spec)
    keep_resolved(spec, record.folder)
    return spec


def _different(kept: Spec, spec: Spec, *, is_tested: bool) -> Iterator[Mistake]:
    for path, (before, now) in _differences(kept, spec).items():
        if path[0] == "space":
            name = str(path[1])
            what = _unlike(kept.domains.get(name), spec.domains.get(name))
            if what or _rule(before) != _rule(now):
                yield spec.mistake(path, what or f"is {now} and was {before}: {_INCOMPARABLE}")
        elif path in _OF_TEST and not is_tested:
            continue
        elif path == _MAY_NOT or not (path[0] in _MAY_CHANGE or _is_new_index(path, before)):
            what = f"is {now!r} and was {before!r} when the search began: {_INCOMPARABLE}"
            yield spec.mistake(path, what)


def _is_new_index(path: KeyPath, before: object) -> bool:
    return path[0] == "indexes" and before is None


def _rule(entry: object) -> tuple[object, object]:
    """Return by what an entry of `space` is not free to vary: its condition, its expression."""
    plain = entry if isinstance(entry, Mapping) else {}
    return plain.get("when"), plain.get("derive")


def _unlike(before: Domain | None, now: Domain | None) -> str | None:
    """Return what is wrong with a domain in the place of another; None if it is wider."""
    if before is None and now is None:
        return None
    if before is None:
        return "was not varied when the search began; start a new search to vary it"
    if now is None:
        return "was varied when the search began; set it back, or start a new search"
    if covers(now, before):
        return None
    return (
        f"is {now.to_plain()} and was {before.to_plain()}: a domain can become wider, not lose "
        "values that trials may have; set it back, or start a new search"
    )


def covers(domain: Domain, other: Domain) -> bool:
    """Return whether a domain has every value of another one."""
    if isinstance(domain, Bundle) and isinstance(other, Bundle) and domain.paths != other.paths:
        return False
    is_dense = other.values() is None
    if is_dense and domain.values() is not None:
        return False
    return all(map(domain.contains, other.probes()))


def changes(kept: Spec, spec: Spec) -> list[str]:
    """Say what is different in a space file that was found to agree, a line a key."""
    return [
        f"{'.'.join(map(str, path))}: {before} -> {now}"
        for path, (before, now) in _differences(kept, spec).items()
    ]


def _differences(kept: Spec, spec: Spec) -> dict[KeyPath, tuple[object, object]]:
    before, now = _leaves(kept), _leaves(spec)
    return {
        path: (before.get(path), now.get(path))
        for path in before | now
        if before.get(path) != now.get(path)
    }


def _leaves(spec: Spec) -> dict[KeyPath, object]:
    """Return a space file's keys and values; a domain is one value."""
    plain = spec.resolved()
    space = plain.pop("space")
    assert isinstance(space, Mapping)
    leaves: dict[KeyPath, object] = {("space", path): domain for path, domain in space.items()}
    return leaves | {tuple(path.split(".")): value for path, value in flatten(plain).items()}


def _other_data(record: SearchRecord, spec: Spec) -> Iterator[Mistake]:
    for use, digest in data_digests(spec).items():
        if record.data[use] != digest:
            what = f"the file holds other questions than when the search began: {_INCOMPARABLE}"
            yield spec.mistake(f"data.{use}", what)


def other_models(record: SearchRecord, models: Mapping[str, str]) -> Iterator[Mistake]:
    """Find model folders that hold another model than when the search began."""
    for folder, digest in models.items():
        if record.models.get(folder, digest) != digest:  # a search of old knows none
            what = f"holds another model than when the search began: {_INCOMPARABLE}"
            yield Mistake(folder, "", what)


def _other_indexes(record: SearchRecord, spec: Spec) -> Iterator[Mistake]:
    for name, used in record.indexes.items():
        settings = spec.file.indexes[name]
        if settings.folder is None:
            found = index_fingerprint(settings)
        else:
            found = read_manifest(Path(settings.folder)).fingerprint
        if found != used.fingerprint:
            what = (
                f"is index {found[:16]} now and was {used.fingerprint[:16]} when the search "
                f"began, as its corpus or its encoder changed: {_INCOMPARABLE}"
            )
            yield spec.mistake(f"indexes.{name}", what)


def _require_work(record: SearchRecord, spec: Spec) -> None:
    """Refuse to go on where no trial is left or no time, nor anything that follows trials."""
    is_unsaid = not record.status.has_ended and record.ended_by is not None
    if is_unsaid or is_something_left(record, spec):  # it was killed in its last moments
        return
    budget, n_trials = spec.file.budget, len(record.trials)
    name = record.named
    ended = [trial for trial in record.trials.values() if trial.status.has_ended]
    if len(ended) >= budget.trials:
        what = (
            f"all {n_trials} trials have ended, and the budget is {budget.trials}; add some "
            f"with `ragsearch run --add-trials 10 {name}`"
        )
        raise BadInputError.single(record.folder, what)
    if budget.wall_s is not None and record.wall_s >= budget.wall_s:
        what = (
            f"its {budget.wall} of wall time are used up ({record.wall_s:.0f} s); give it more "
            f"with `ragsearch run --resume {name} -o budget.wall=...`"
        )
        raise BadInputError.single(record.folder, what)


def flatten(section: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Write nested settings under dotted names."""
    flat: dict[str, object] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat
