"""A study whose domains have become wider: its trials told again, in the words of the new ones.

Optuna compares trials by equal distributions, and refuses categories that change, so a wider
domain is not added to: the study is written anew, and takes the place of the old one at once.
"""

from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial, FrozenTrial

from ragsearch.search.space import encoded, suggest
from ragsearch.search.study import (
    FIRST_ATTR,
    STUDY_FILE,
    VALUES_ATTR,
    directions,
    open_storage,
)
from ragsearch.spec import Domain, Spec


def widen_study(folder: Path, before: Spec, now: Spec) -> None:
    """Write the study of a search anew where domains have become wider.

    Args:
        folder: The search's, locked by this process.
        before: The search as its trials were drawn.
        now: The same with wider domains.
    """
    old = optuna.load_study(study_name=folder.name, storage=open_storage(folder))
    beside = f"{STUDY_FILE}.new"
    (folder / beside).unlink(missing_ok=True)
    new = optuna.create_study(
        storage=open_storage(folder, beside),
        study_name=folder.name,
        directions=directions(now.file.objectives),
    )
    changed = [path for path in now.domains if before.domains[path] != now.domains[path]]
    old_and_new = {path: (before.domains[path], now.domains[path]) for path in changed}
    new.add_trials([_told_again(trial, old_and_new) for trial in old.get_trials()])
    (folder / beside).replace(folder / STUDY_FILE)


def _told_again(
    trial: FrozenTrial, domains: Mapping[str, tuple[Domain, Domain]]
) -> FrozenTrial:
    fixed = dict(trial.system_attrs.get("fixed_params", {}))
    for path, (old, new) in domains.items():
        if trial.distributions.get(path) == _distribution(new):
            continue  # by a run that was killed before it had kept the wider domains
        value = _value(trial, path, old)
        if value is not None and new.contains(value):
            trial.distributions = {**trial.distributions, path: _distribution(new)}
            trial.params = {**trial.params, path: encoded(new, value)}
        if path in fixed:
            fixed[path] = encoded(new, _decode(old, fixed[path]))
    if fixed:
        trial.system_attrs = {**trial.system_attrs, "fixed_params": fixed}
    return trial


def _value(trial: FrozenTrial, path: str, domain: Domain) -> object:
    """Return what a trial was proposed, None if nothing was; the baseline may lie outside."""
    if path in trial.params:
        return _decode(domain, trial.params[path])
    is_baseline = trial.user_attrs.get(FIRST_ATTR) == 0
    return trial.user_attrs.get(VALUES_ATTR, {}).get(path) if is_baseline else None


def _decode(domain: Domain, said: object) -> object:
    return suggest(FixedTrial({"x": said}), "x", domain)


def _distribution(domain: Domain) -> BaseDistribution:
    trial = FixedTrial({"x": encoded(domain, domain.probes()[0])})
    suggest(trial, "x", domain)
    return trial.distributions["x"]
