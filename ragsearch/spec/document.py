"""YAML text as plain data, with the line of every key.

In: text. Out: a `Document`, or every mistake of syntax. Numbers and booleans follow YAML
1.2 (`1e-5` is a number, `no` is text, `017` is seventeen); anchors and merge keys work.
Knows nothing of what the keys mean.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml
from typing_extensions import override

from ragsearch.errors import BadInputError, Mistake

KeyPath = tuple[str | int, ...]
"""Where something stands in a document: keys of mappings, positions in lists."""

# 20,000: a hundred times the largest space file; aliases of aliases reach it in no time.
MAX_NODES = 20_000


class Finding(NamedTuple):
    """Something wrong at a key; `Places` makes a mistake of it."""

    path: KeyPath
    what: str
    line: int | None = None
    """Only where the path has several lines: a key given twice."""
    cause: KeyPath = ()
    """The key whose value makes this one wrong, if there is one."""
    unset: str = ""
    """The value, as YAML has it, by which an option can take this key back then."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where each key came from: a line of the file, or a command-line option."""

    file: str
    lines: Mapping[KeyPath, int]
    options: tuple[KeyPath, ...] = ()
    """Keys that an override on the command line gave or changed."""
    files: Mapping[KeyPath, str] = field(default_factory=dict)
    """The file of each key, where the file extends others."""

    def file_of(self, path: KeyPath) -> str:
        """Return the file that has a key, or else the nearest one above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.files.get(path, self.file)

    def mistakes(self, findings: Iterator[Finding]) -> list[Mistake]:
        """Return each finding once with its place: by line, then those of options."""
        ranked = sorted({(self._rank(finding), finding) for finding in findings}, key=_order)
        return [self.mistake(finding) for _, finding in ranked]

    def mistake(self, finding: Finding) -> Mistake:
        """Return a finding with its place, the line of the nearest key that is there."""
        option = self._option(finding.path)
        if option is None:
            line = self._line(finding)
            file = self.file if finding.line is not None else self.file_of(finding.path)
            what = f"{finding.what}{self._way_out(finding)}"
            return Mistake(f"{file}:{line}", dotted(finding.path), what)
        # the option names the key already: not `-o seed: seed: must be …`
        key = "" if option == finding.path else dotted(finding.path)
        return Mistake(f"-o {dotted(option)}", key, finding.what)

    def _way_out(self, finding: Finding) -> str:
        """Return what to say instead of editing a file that is right without the options."""
        if not finding.unset or self._option(finding.cause) is None:
            return ""
        return f", or say -o {dotted(finding.path)}={finding.unset}"

    def _option(self, path: KeyPath) -> KeyPath | None:
        given = [option for option in self.options if path[: len(option)] == option]
        if not given and path not in self.lines:  # a section that only the option made
            given = [option for option in self.options if option[: len(path)] == path]
        return max(given, key=len, default=None)

    def _line(self, finding: Finding) -> int:
        if finding.line is not None:
            return finding.line
        path = finding.path
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def _rank(self, finding: Finding) -> "_Rank":
        if self._option(finding.path) is not None:
            return True, "", 0
        file = self.file_of(finding.path)
        return False, "" if file == self.file else file, self._line(finding)


_Rank = tuple[bool, str, int]
"""Whether an option, which other file, which line."""


def _order(ranked: tuple[_Rank, Finding]) -> tuple[_Rank, str, str]:
    rank, finding = ranked
    return rank, dotted(finding.path), finding.what


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `objectives.0.metric`."""
    return ".".join(str(part) for part in path)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping as plain data."""

    data: dict[str, object]
    places: Places
    findings: tuple[Finding, ...]
    """Keys given twice; the data holds the last."""


def read_document(text: str, file: str) -> Document:
    """Parse a YAML file that holds one mapping.

    Args:
        text: Its contents.
        file: Its name, for messages.

    Returns:
        Its data; keys are always text.

    Raises:
        BadInputError: If the text is not YAML or holds no mapping at its top.
    """
    walk = _Walk()
    try:
        data = walk.read(text)
    except yaml.YAMLError as error:
        raise BadInputError([_syntax_mistake(error, file)]) from error
    if not isinstance(data, dict):
        what = "holds no mapping of keys; start with `version: 1`"
        raise BadInputError([Mistake(file, "", what)])
    return Document(data, Places(file, walk.lines), tuple(walk.findings))


def parse_value(text: str) -> object:
    """Parse what stands after the `=` of an override, in YAML.

    Returns:
        A scalar, list or mapping.

    Raises:
        BadInputError: If the text is not YAML; its mistake has no place.
    """
    try:
        return _Walk().read(text)
    except yaml.YAMLError as error:
        raise BadInputError([Mistake("", "", _syntax_message(error))]) from error


def write_document(data: Mapping[str, object]) -> str:
    """Write plain data as YAML that `read_document` reads as the same data."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)


class _Walk:
    """One parse: builds plain data from nodes and notes lines and repeated keys."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.findings: list[Finding] = []
        self._n_nodes = 0

    def read(self, text: str) -> object:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else self._plain(loader, node, ())
        except RecursionError as error:
            raise yaml.YAMLError("nested too deeply") from error
        finally:
            loader.dispose()

    def _plain(self, loader: "_Loader", node: yaml.Node, path: KeyPath) -> object:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise yaml.YAMLError(
                f"holds more than {MAX_NODES} values once anchors are expanded"
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return loader.construct_object(node)
        except (ValueError, KeyError) as error:  # `!!int x`, or an integer of 5,000 digits
            what = f"{node.value[:60]!r} is not what its tag says"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from error

    def _mapping(
        self, loader: "_Loader", node: yaml.MappingNode, path: KeyPath
    ) -> dict[str, object]:
        mapping: dict[str, object] = {}
        own: dict[str, int] = {}
        for key_node, value_node, is_merged in _pairs(node):
            key, line = _key_text(key_node), key_node.start_mark.line + 1
            if key in own and not is_merged:
                what = f"given twice, first in line {own[key]}; keep one"
                self.findings.append(Finding((*path, key), what, line))
            if not is_merged:
                own[key] = line
            if key in mapping:
                self._forget((*path, key))
            self.lines[(*path, key)] = line
            mapping[key] = self._plain(loader, value_node, (*path, key))
        return mapping

    def _forget(self, path: KeyPath) -> None:
        for known in [known for known in self.lines if known[: len(path)] == path]:
            del self.lines[known]


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
    """Give key, value and whether they were merged in; own keys last, so that they win.

    Yields:
        Pairs of nodes.
    """
    merges = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    for merged in merges:
        sources = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                mark = merged.start_mark
                raise yaml.MarkedYAMLError(problem="'<<' wants a mapping", problem_mark=mark)
            yield from ((key, value, True) for key, value, _ in _pairs(source))
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            yield key, value, False


def _key_text(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=node.start_mark)


def _syntax_mistake(error: yaml.YAMLError, file: str) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    place = file if mark is None else f"{file}:{mark.line + 1}"
    return Mistake(place, "", _syntax_message(error))


def _syntax_message(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        context = f" {error.context}" if error.context else ""
        return f"is not YAML:{context} {error.problem}".replace("\n", " ")
    first_line = str(error).partition("\n")[0]
    return f"is not YAML: {first_line}"


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 10)


_TAGS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_signs in _TAGS:
        entry = (f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"))
        for sign in (*first_signs, *([""] if tag == "null" else [])):
            table.setdefault(sign, []).append(entry)
    return table


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = _resolvers()


_Loader.add_constructor("tag:yaml.org,2002:int", _number)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the texts that `_Loader` would not read as text."""

    yaml_implicit_resolvers = _resolvers()

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # only between double quotes does PyYAML escape the line breaks that are not \n
    has_odd_break = re.search("[\x85\u2028\u2029\ufeff]", text)
    style = '"' if has_odd_break else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)
