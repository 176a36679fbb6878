"""The text of an expression as a tree: a grammar of its own, so that nothing is ever run.

In: text such as `retrieval.n_docs * optim.effective_batch <= 320`. Out: nodes, or one sentence
with the column that is wrong. Precedence is Python's. Knows no keys and no values of a trial.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ragsearch.errors import RagsearchError

Scalar = bool | int | float | str | None

MAX_LENGTH = 2000  # and Python reads no number of more than 4,300 digits
MAX_TOKENS = 200  # a tree this large is still evaluated within Python's depth of calls
MAX_DEPTH = 30
MAX_NUMBER = 10**300
"""Largest number that an expression may hold or come to; floats end a little above."""

FUNCTIONS = ("max", "min", "round")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")


class ExpressionError(RagsearchError):
    """An expression that cannot be read, or has no value: a sentence and the column."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, column: int) -> None:
        super().__init__(f"column {column}: {what}")
        self.what, self.column = what, column


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a text, true, false or null."""

    value: Scalar
    column: int


@dataclass(frozen=True, slots=True)
class Name:
    """A key of the trial, by its dotted path."""

    path: str
    column: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Values between brackets."""

    items: tuple["Node", ...]
    column: int


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or a function over operands; `neg` and `pos` are the signs of numbers."""

    operator: str
    operands: tuple["Node", ...]
    column: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Values compared one after the other, as in `1 <= retrieval.n_docs < 8`."""

    operands: tuple["Node", ...]
    operators: tuple[str, ...]
    """One fewer than operands."""
    columns: tuple[int, ...]
    """Of the operators."""

    @property
    def column(self) -> int:
        """Column of the first operator."""
        return self.columns[0]


Node = Constant | Name | Listing | Apply | Comparison


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<text>'[^']*'|"[^"]*")
    | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<sign>\*\*|//|<=|>=|==|!=|[-+*/%<>()\[\],])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII,
)
_WORDS = ("and", "or", "not", "in")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_PYTHONS = {"True": "true", "False": "false", "None": "null"}
_INSTEAD = {"=": "==", "&": "and", "|": "or", "!": "not", "^": "**"}
_NOT, _COMPARED, _SIGNED = 3, 4, 7
_POWERS = {
    "or": 1, "and": 2, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8,
} | dict.fromkeys(COMPARISONS, _COMPARED)  # fmt: skip


def parse_tree(text: str) -> Node:
    """Read an expression.

    Args:
        text: What the user wrote, on one line or several.

    Returns:
        The root of its tree.

    Raises:
        ExpressionError: If it is none.
    """
    return _Parser(text).whole()


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} signs", MAX_LENGTH)
    found: list[_Token] = []
    at = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        kind = str(match.lastgroup)
        word = match[kind]
        if kind == "name" and word in _WORDS:
            kind = "sign"
        found.append(_Token(kind, word, match.start(match.lastgroup or 0) + 1))
        at = match.end()
        if len(found) > MAX_TOKENS:
            raise ExpressionError(f"has more than {MAX_TOKENS} words", at)
    return found


def _unreadable(text: str, at: int) -> ExpressionError:
    at += len(text[at:]) - len(text[at:].lstrip(" \t\n\r\f\v"))  # what `_TOKEN` passes over
    sign = text[at]
    if sign in "'\"":
        return ExpressionError("a text has no closing quote", at + 1)
    hint = f"; write {_INSTEAD[sign]}" if sign in _INSTEAD else ""
    return ExpressionError(f"{sign!r} has no meaning here{hint}", at + 1)


class _Parser:
    """Reads by binding power (Pratt 1973)."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._expression(0)
        if self._next.kind != "end":
            raise self._unexpected()
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _expect(self, sign: str) -> None:
        if self._next[:2] != ("sign", sign):
            raise self._unexpected(f"; a '{sign}' belongs here")
        self._take()

    def _unexpected(self, hint: str = "") -> ExpressionError:
        token = self._next
        if token.kind == "end":
            return ExpressionError(f"ends too early{hint}", token.column)
        return ExpressionError(f"{token.text!r} does not belong here{hint}", token.column)

    def _expression(self, power: int) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("is nested too deeply", self._next.column)
        node = self._prefixed(power)
        while (sign := self._infix()) is not None and _POWERS[sign] >= power:
            node = self._continued(node, sign)
        self._depth -= 1
        return node

    def _infix(self) -> str | None:
        """Return the operator that comes next, `not in` as one."""
        if self._next.kind != "sign":
            return None
        if self._next.text == "not" and self._tokens[self._at + 1].text == "in":
            return "not in"
        return self._next.text if self._next.text in _POWERS else None

    def _continued(self, left: Node, sign: str) -> Node:
        if sign in COMPARISONS:
            return self._compared(left)
        column, power = self._take().column, _POWERS[sign]
        # of equal ones the left binds first, but 2 ** 3 ** 2 is 2 ** 9
        right = self._expression(power if sign == "**" else power + 1)
        return Apply(sign, (left, right), column)

    def _compared(self, left: Node) -> Comparison:
        operands, signs, columns = [left], [], []
        while (sign := self._infix()) in COMPARISONS:
            columns.append(self._take().column)
            if sign == "not in":
                self._take()
            signs.append(str(sign))
            operands.append(self._expression(_COMPARED + 1))
        return Comparison(tuple(operands), tuple(signs), tuple(columns))

    def _prefixed(self, power: int) -> Node:
        token = self._next
        if token[:2] == ("sign", "not"):
            if power > _NOT:
                raise self._unexpected("; put parentheses around it")
            self._take()
            return Apply("not", (self._expression(_NOT),), token.column)
        if token.kind == "sign" and token.text in "+-":
            self._take()
            operand = self._expression(_SIGNED)
            return Apply("neg" if token.text == "-" else "pos", (operand,), token.column)
        return self._atom()

    def _atom(self) -> Node:
        token = self._next
        if token.kind == "number":
            return Constant(_number(self._take()), token.column)
        if token.kind == "text":
            return Constant(self._take().text[1:-1], token.column)
        if token.kind == "name":
            return self._named(self._take())
        if token.text == "[":
            self._take()
            return Listing(self._items("]"), token.column)
        if token.text == "(":
            self._take()
            node = self._expression(0)
            self._expect(")")
            return node
        raise self._unexpected()

    def _named(self, token: _Token) -> Node:
        if token.text in _CONSTANTS:
            return Constant(_CONSTANTS[token.text], token.column)
        if token.text in _PYTHONS:
            what = f"{token.text!r} has no meaning here; write {_PYTHONS[token.text]}"
            raise ExpressionError(what, token.column)
        if self._next.text != "(":
            return Name(token.text, token.column)
        if token.text not in FUNCTIONS:
            what = f"{token.text!r} is no function; known are {', '.join(FUNCTIONS)}"
            raise ExpressionError(what, token.column)
        self._take()
        operands = self._items(")")
        most = 2 if token.text == "round" else MAX_TOKENS
        if not 1 <= len(operands) <= most:
            what = f"{token.text} takes {'one or two' if most == 2 else 'some'} values"  # noqa: PLR2004
            raise ExpressionError(f"{what}, not {len(operands)}", token.column)
        return Apply(token.text, operands, token.column)

    def _items(self, close: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while self._next.text != close or self._next.kind != "sign":
            items.append(self._expression(0))
            if self._next[:2] != ("sign", ","):
                break
            self._take()
        self._expect(close)
        return tuple(items)


def _number(token: _Token) -> int | float:
    value = int(token.text) if token.text.isdecimal() else float(token.text)
    if value > MAX_NUMBER:
        raise ExpressionError("this number is too large", token.column)
    return value
