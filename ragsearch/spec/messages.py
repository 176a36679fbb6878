"""What pydantic found, said in our words: what is wrong, the value, what to do.

In: a `ValidationError`. Out: `Finding`s. Knows the schema only through `keys`.
"""

from collections.abc import Callable, Iterator, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ragsearch.spec.document import Finding, KeyPath
from ragsearch.spec.keys import field_at, section_at, suggestion
from ragsearch.spec.section import Section

Context = Mapping[str, object]

_NOT_KEYS = ("[key]", "[outcome]", "[expression]")  # what pydantic puts among keys
MAX_SHOWN = 60  # fits a line beside the place and the key


def findings_of(error: ValidationError, root: type[Section]) -> Iterator[Finding]:
    """Give one finding for each mistake in a validated section.

    Args:
        error: What pydantic raised.
        root: The section that was validated; paths are relative to it.

    Yields:
        Findings in pydantic's order.
    """
    for details in error.errors(include_url=False):
        path = tuple(part for part in details["loc"] if part not in _NOT_KEYS)
        yield Finding(path, _what(details, path, root))


def _what(details: ErrorDetails, path: KeyPath, root: type[Section]) -> str:
    if details["type"] == "extra_forbidden":
        section = section_at(root, path[:-1])
        known = section.model_fields if section else ()
        return f"unknown key; {suggestion(str(path[-1]), known)}"
    if details["type"] == "missing":
        return f"is missing; it gives: {_description(root, path)}"
    return _about_value(details)


def _about_value(details: ErrorDetails) -> str:
    context, given = details.get("ctx", {}), details["input"]
    if details["type"] == "value_error":
        return str(context["error"])
    if details["type"] == "literal_error":
        wanted = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        return f"must be one of {wanted}, not {shown(given)}{_hint(given, wanted.split(', '))}"
    write = _WORDS.get(details["type"])
    wanted = write(context) if write else f"is refused: {details['msg']}"
    return f"{wanted}, not {shown(given)}"


def _hint(given: object, known: list[str]) -> str:
    hint = suggestion(str(given), known)
    return f"; {hint}" if hint.startswith("did") else ""


def _description(root: type[Section], path: KeyPath) -> str:
    field, section = field_at(root, path), section_at(root, path)
    text = field.description if field else None
    text = text or (section.__doc__ if section else None) or "a value"
    return " ".join(text.split()).rstrip(".")


def shown(value: object) -> str:
    """Return a value as a message shows it: short, and as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 2]}…'"


_WORDS: Mapping[str, Callable[[Context], str]] = {
    "bool_type": lambda _: "must be true or false",
    "dict_type": lambda _: "must be a mapping of names",
    "finite_number": lambda _: "must be a finite number",
    "float_type": lambda _: "must be a number",
    "greater_than": lambda context: f"must be above {context['gt']}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "int_type": lambda _: "must be a whole number",
    "less_than": lambda context: f"must be below {context['lt']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "model_type": lambda _: "must be a section with keys of its own",
    "string_type": lambda _: "must be text",
    "tuple_type": lambda _: "must be a list",
}
