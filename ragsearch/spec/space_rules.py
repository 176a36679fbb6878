"""Whether what varies fits the trial: every value tried, every expression computed.

In: a `Draft`. Out: `Finding`s. What only some trials can be, as conditions and constraints have
it, is tried; what none can is not.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pydantic import ValidationError

from ragsearch.spec.document import Finding, KeyPath
from ragsearch.spec.draft import Draft
from ragsearch.spec.expressions import Expression, Lookup
from ragsearch.spec.grammar import ExpressionError
from ragsearch.spec.keys import suggestion
from ragsearch.spec.messages import findings_of, shown
from ragsearch.spec.space import Derived, Entry, Option, Parameter, over
from ragsearch.spec.trial import TrialSection


def unusable_values(draft: Draft) -> Iterator[Finding]:
    """Try what each entry can be in the trial; tell of the first value that it refuses.

    Yields:
        At most one finding an entry, and one a pair of keys that do not go together.
    """
    trial = draft.data.get("trial")
    before = refusals(trial)
    for entry in draft.space.entries:
        for settled in draft.space.reachable(draft.look_up, entry.paths):
            new = _refused_by(entry, settled, trial, before)
            if new:
                yield _holds([settled[path] for path in entry.paths], new)
                break
    yield from _unusable_pairs(draft, before)


def _refused_by(
    entry: Entry, settled: Mapping[str, Option], trial: object, before: Mapping[str, str]
) -> dict[str, str]:
    """Return what a trial refuses for an entry's values, and not for those of others."""
    if not settled.keys() >= set(entry.paths):
        return {}
    values = {path: option.value for path, option in settled.items()}
    after = refusals(merged(trial, values))
    new = {key: why for key, why in after.items() if key in entry.paths or key not in before}
    others = {path: value for path, value in values.items() if path not in entry.paths}
    if new and others:
        said = refusals(merged(trial, others)).keys() - set(entry.paths)
        new = {key: why for key, why in new.items() if key not in said}
    return new


# What two keys may be by themselves and not together.
_PAIRS = (
    ("model.freeze_question_encoder", "model.freeze_generator"),
    ("model.freeze_generator", "model.type"),
    ("optim.warmup_steps", "optim.warmup_share"),
)


def _unusable_pairs(draft: Draft, before: Mapping[str, str]) -> Iterator[Finding]:
    """Try two keys that both vary together, where each value alone may be right.

    Yields:
        At most one finding a pair.
    """
    trial = draft.data.get("trial")
    for pair in _PAIRS:
        if not set(draft.space.paths) >= set(pair) or _were_tried_together(draft, pair):
            continue
        said = before.keys() | {
            key
            for path in pair
            for option in draft.varied(path)
            for key in refusals(merged(trial, {path: option.value}))
        }
        for options in draft.combinations(*pair):
            values = {path: option.value for path, option in zip(pair, options, strict=True)}
            found = refusals(merged(trial, values))
            if new := {key: why for key, why in found.items() if key not in said}:
                yield _holds(options, new)
                break


def _were_tried_together(draft: Draft, pair: tuple[str, str]) -> bool:
    return any(draft.space.above([path]) >= set(pair) for path in pair)


def _holds(options: Iterable[Option], found: Mapping[str, str]) -> Finding:
    given = list(options)
    key, why = next(iter(found.items()))
    at = next((option for option in given if option.path[-1] == key), given[0])
    held = " and ".join(shown(option.value) for option in given)
    return Finding(at.path, f"holds {held}, but trial.{key} {why}")


def refusals(trial: object) -> dict[str, str]:
    """Return why a trial's plain data is refused, by dotted path in it."""
    try:
        TrialSection.model_validate(trial)
    except ValidationError as error:
        return {
            ".".join(map(str, one.path)): one.what for one in findings_of(error, TrialSection)
        }
    return {}


def merged(trial: object, values: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of a trial's plain data with dotted paths set to other values."""
    result = dict(trial) if isinstance(trial, Mapping) else {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        result[head] = merged(result.get(head), {rest: value}) if rest else value
    return result


def broken_expressions(draft: Draft) -> Iterator[Finding]:
    """Compute every expression for what its keys can be; tell of the first that has no value.

    Silent where the baseline is wrong by itself. Then, the baseline has to fulfil constraints,
    and to agree with what is derived.

    Yields:
        At most one finding an expression.
    """
    if refusals(draft.data.get("trial")):
        return
    for entry in draft.space.entries:
        if isinstance(entry, Derived):
            path: KeyPath = ("space", entry.name, "derive")
            broken = _without_value(draft, entry.expression, path, is_condition=False)
            yield from broken or _other_baseline(draft, entry)
        elif entry.when:
            path = ("space", entry.name, "when")
            broken = _without_value(draft, entry.when, path, is_condition=True)
            yield from broken or _never_holds(draft, entry)
    for place, constraint in _placed_constraints(draft):
        broken = _without_value(draft, constraint, place, is_condition=True)
        yield from broken or _broken_by_baseline(draft, constraint, place)


def _placed_constraints(draft: Draft) -> Iterator[tuple[KeyPath, Expression]]:
    """Give constraints that are expressions and could be read, with their keys.

    Yields:
        Key and expression.
    """
    raw = draft.data.get("constraints")
    places = {
        text: place
        for place, text in reversed(list(enumerate(raw if isinstance(raw, list) else ())))
        if isinstance(text, str)
    }
    for constraint in draft.space.constraints:
        yield ("constraints", places[constraint.text]), constraint


def _without_value(
    draft: Draft, expression: Expression, path: KeyPath, *, is_condition: bool
) -> list[Finding]:
    space = replace(draft.space, constraints=())
    nothing: dict[str, Option] = {}
    for settled in (nothing, *space.reachable(draft.look_up, expression.paths)):
        values = {name: option.value for name, option in settled.items()}
        lookup = over(values, draft.look_up)
        try:
            expression.holds(lookup) if is_condition else expression.scalar(lookup)
        except ExpressionError as error:
            there = _values_of(expression, lookup)
            return [Finding(path, f"{error}{there and f', where {there}'}")]
    return []


def _values_of(expression: Expression, lookup: Lookup) -> str:
    names = dict.fromkeys(name.path for name in expression.names())
    return " and ".join(f"{path} is {shown(lookup(path))}" for path in names)


def _other_baseline(draft: Draft, entry: Derived) -> Iterator[Finding]:
    computed = entry.expression.scalar(draft.look_up)
    given = draft.baseline(entry.name)
    is_refused = refusals(merged(draft.data.get("trial"), {entry.name: computed}))
    if given.value != computed and not is_refused:  # else the expression is told of already
        what = (
            f"is {shown(given.value)}, but space derives {shown(computed)} for the baseline; "
            "leave it out of trial"
        )
        yield Finding(given.path, what)


def _never_holds(draft: Draft, entry: Parameter) -> Iterator[Finding]:
    """Find a parameter that no trial varies.

    Yields:
        At most one finding.
    """
    assert entry.when is not None
    above = draft.space.above(entry.needs)
    deciding = [one for one in draft.space.parameters if above & set(one.paths)]
    if any(one.domain.values() is None for one in deciding):
        return  # it may hold between the values that were tried
    reachable = draft.space.reachable(draft.look_up, entry.paths)
    if not any(entry.paths[0] in settled for settled in reachable):
        yield Finding(("space", entry.name, "when"), "holds in no trial; drop the parameter")


def _broken_by_baseline(
    draft: Draft, constraint: Expression, path: KeyPath
) -> Iterator[Finding]:
    if not constraint.holds(draft.look_up):
        there = _values_of(constraint, draft.look_up)
        what = f"'{constraint.text}' is broken by the baseline, where {there}; change one"
        yield Finding(path, what)


def bad_points(draft: Draft) -> Iterator[Finding]:
    """Find points to try first that no searcher could propose.

    Yields:
        Findings for each point.
    """
    points = draft.data.get("try_first")
    for place, point in enumerate(points if isinstance(points, list) else ()):
        if isinstance(point, Mapping):
            found = list(_foreign_values(draft, ("try_first", place), point))
            yield from found or _unreachable_point(draft, ("try_first", place), point)


def _foreign_values(
    draft: Draft, place: KeyPath, point: Mapping[str, object]
) -> Iterator[Finding]:
    for path, value in point.items():
        entry = draft.entry(path)
        if isinstance(entry, Derived):
            yield Finding((*place, path), "is derived from others; leave it out")
        elif entry is None:
            known = [path for each in draft.space.parameters for path in each.paths]
            hint = suggestion(path, known) if known else "nothing does"
            yield Finding((*place, path), f"does not vary in space; {hint}")
        elif len(entry.paths) > 1:
            n = len(entry.matching(point))
            if n != 1:
                which = "no option" if n == 0 else "several options"
                what = f"{which} of bundle {entry.name} fit; give the keys of one"
                yield Finding((*place, path), what)
        elif not entry.domain.contains(value):
            yield Finding((*place, path), f"{shown(value)} is not in its domain in space")


def _unreachable_point(
    draft: Draft, place: KeyPath, point: Mapping[str, object]
) -> Iterator[Finding]:
    if refusals(draft.data.get("trial")):
        return
    full = draft.space.completed(point)
    chosen = draft.space.chosen(draft.look_up, full)
    for entry in draft.space.parameters:
        given = [path for path in entry.paths if path in point]
        if given and entry.name not in chosen:
            what = f"does not vary there, as '{entry.when.text if entry.when else ''}' is false"
            yield Finding((*place, given[0]), f"{what}; leave it out")
        if entry.name in chosen and not entry.domain.contains(chosen[entry.name]):
            what = f"leaves {entry.name} open, and the baseline's is not in its domain; give it"
            yield Finding(place, what)
    values = draft.space.resolve(draft.look_up, lambda entry: chosen[entry.name])
    lookup = over(values, draft.look_up)
    if (why := draft.space.why_not(lookup)) is not None:
        yield Finding(place, f"breaks '{why}'; change one")
    elif found := refusals(merged(draft.data.get("trial"), values)):
        key, what = next(iter(found.items()))
        yield Finding(place, f"gives a trial that is refused: trial.{key} {what}")
