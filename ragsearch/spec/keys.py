"""The tree of keys that a schema spans: what stands where, what is near a misspelt one.

In: sections and paths. Out: sections, fields, leaves, suggestions. Knows no data.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ragsearch.spec.document import KeyPath
from ragsearch.spec.section import Section


def section_at(root: type[Section], path: KeyPath) -> type[Section] | None:
    """Return the section that stands at a path, None where there is none."""
    here: object = root
    for part in path:
        here = _inside(_bare(here), part)
    here = _bare(here)
    return here if isinstance(here, type) and issubclass(here, Section) else None


def field_at(root: type[Section], path: KeyPath) -> FieldInfo | None:
    """Return the key of a section that a path leads to, None where there is none."""
    section = section_at(root, path[:-1])
    return section.model_fields.get(str(path[-1])) if section else None


def leaves(root: type[Section], above: str = "") -> Iterator[str]:
    """Give the dotted paths of all keys that hold values and not sections.

    Yields:
        Paths in the order of the schema.
    """
    for name in root.model_fields:
        section = section_at(root, (name,))
        if section is None:
            yield above + name
        else:
            yield from leaves(section, f"{above}{name}.")


def suggestion(key: str, known: Iterable[str]) -> str:
    """Return what to do about an unknown key: the nearest known one, else those around it."""
    names = list(known)
    above, _, last = key.rpartition(".")
    around = {_last(name): name for name in names if name.rpartition(".")[0] == above}
    near = [around[name] for name in get_close_matches(last, around, n=1)]
    alike = [name for name in names if last in {_last(name), _initials(name)}]
    near += sorted(alike, key=lambda name: name.count("."))
    near += get_close_matches(key, names, n=1, cutoff=0.8)
    known_here = ", ".join(around.values() or names)
    return f"did you mean '{near[0]}'?" if near else f"known are {known_here}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _initials(name: str) -> str:
    return "".join(word[:1] for word in _last(name).split("_"))


def _inside(annotation: object, part: str | int) -> object:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if get_origin(annotation) is tuple else None


def _bare(annotation: object) -> object:
    """Strip the None of an optional section, and what else may stand in the place of one."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) not in {Union, UnionType}:
        return annotation
    sections = [bare for one in get_args(annotation) if _is_section(bare := _bare(one))]
    return sections[0] if sections else annotation


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
