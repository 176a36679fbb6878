"""Expressions over the keys of a trial: conditions, constraints and computed values.

In: text and a way to look keys up. Out: a value, or one sentence why there is none. Everything
is computed here from a tree; no text is ever run as Python.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from typing_extensions import TypeIs

from ragsearch.spec.grammar import (
    MAX_NUMBER,
    Apply,
    Comparison,
    Constant,
    ExpressionError,
    Listing,
    Name,
    Node,
    Scalar,
    parse_tree,
)

Lookup = Callable[[str], object]
"""Gives the value of a key by its dotted path in the trial."""

Value = Scalar | tuple[Scalar, ...]
Number = int | float


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that could be read."""

    text: str
    """As the user wrote it."""
    tree: Node

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Read an expression; raises `ExpressionError` if it is none."""
        return cls(text, parse_tree(text))

    def names(self) -> Iterator[Name]:
        """Give every key it looks up, in the order of the text.

        Yields:
            Names with their columns, repeated ones again.
        """
        yield from _names(self.tree)

    @property
    def paths(self) -> frozenset[str]:
        """Dotted paths of the keys it looks up."""
        return frozenset(name.path for name in self.names())

    def holds(self, lookup: Lookup) -> bool:
        """Return whether it is true.

        Raises:
            ExpressionError: If it is neither true nor false, or has no value.
        """
        value = _value(self.tree, lookup)
        if isinstance(value, bool):
            return value
        what = f"comes to {_kind(value)} and not to true or false; compare it with something"
        raise ExpressionError(what, self.tree.column)

    def scalar(self, lookup: Lookup) -> Scalar:
        """Return what it comes to.

        Raises:
            ExpressionError: If that is a list, or it has no value.
        """
        value = _value(self.tree, lookup)
        if isinstance(value, tuple):
            raise ExpressionError("it comes to a list, not to one value", self.tree.column)
        return value


def _names(node: Node) -> Iterator[Name]:
    match node:
        case Name():
            yield node
        case Listing(items):
            for item in items:
                yield from _names(item)
        case Apply() | Comparison():
            for operand in node.operands:
                yield from _names(operand)
        case Constant():
            pass


def _value(node: Node, lookup: Lookup) -> Value:
    match node:
        case Constant(value):
            return value
        case Name():
            return _looked_up(node, lookup)
        case Listing(items):
            return tuple(_item(item, lookup) for item in items)
        case Comparison():
            return _compared(node, lookup)
        case Apply("and" | "or" | "not"):
            return _logic(node, lookup)
        case Apply():
            return _arithmetic(node, lookup)


def _looked_up(name: Name, lookup: Lookup) -> Scalar:
    value = lookup(name.path)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExpressionError(f"{name.path} is {_kind(value)}, not one value", name.column)


def _item(node: Node, lookup: Lookup) -> Scalar:
    value = _value(node, lookup)
    if isinstance(value, tuple):
        raise ExpressionError("a list in a list has no meaning here", node.column)
    return value


def _logic(node: Apply, lookup: Lookup) -> bool:
    first, *rest = node.operands
    result = _truth(_value(first, lookup), node.operator, node.column)
    if node.operator == "not":
        return not result
    if result is (node.operator == "or"):
        return result
    return _truth(_value(rest[0], lookup), node.operator, node.column)


def _truth(value: Value, operator: str, column: int) -> bool:
    if isinstance(value, bool):
        return value
    what = f"'{operator}' wants true or false, not {_kind(value)}; compare it with something"
    raise ExpressionError(what, column)


def _compared(node: Comparison, lookup: Lookup) -> bool:
    left = _value(node.operands[0], lookup)
    for operator, operand, column in zip(
        node.operators, node.operands[1:], node.columns, strict=True
    ):
        right = _value(operand, lookup)
        if not _agrees(operator, left, right, column):
            return False
        left = right
    return True


def _agrees(operator: str, left: Value, right: Value, column: int) -> bool:
    if operator in {"in", "not in"}:
        if not isinstance(right, tuple):
            what = f"'in' wants a list such as [1, 2] on its right, not {_kind(right)}"
            raise ExpressionError(what, column)
        return any(_equal(left, item) for item in right) is (operator == "in")
    if operator in {"==", "!="}:
        return _equal(left, right) is (operator == "==")
    return _ORDERS[operator](_order(left, right, operator, column))


def _equal(left: Value, right: Value) -> bool:
    """Compare as domains do: 1 is 1.0 and not true."""
    return _kind(left) == _kind(right) and left == right


def _order(left: Value, right: Value, operator: str, column: int) -> int:
    """Return -1, 0 or 1 as the left is below, as large as or above the right."""
    if _is_number(left) and _is_number(right):
        return (left > right) - (left < right)
    if isinstance(left, str) and isinstance(right, str):
        return (left > right) - (left < right)
    what = f"{_kind(left)} and {_kind(right)} have no order, which {operator!r} asks for"
    raise ExpressionError(what, column)


_ORDERS: Mapping[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


def _arithmetic(node: Apply, lookup: Lookup) -> Number:
    numbers = [_number(operand, node, lookup) for operand in node.operands]
    if node.operator == "**":
        _bound_power(numbers[0], numbers[1], node.column)
    if node.operator == "round" and not all(isinstance(digits, int) for digits in numbers[1:]):
        raise ExpressionError("round wants a whole number of digits", node.column)
    try:
        result = _OPERATIONS[node.operator](*numbers)
    except ZeroDivisionError as error:
        raise ExpressionError("divides by zero", node.column) from error
    except (OverflowError, ValueError) as error:
        raise ExpressionError("comes to a number that is too large", node.column) from error
    if not abs(result) <= MAX_NUMBER:
        raise ExpressionError("comes to a number that is too large", node.column)
    return result


def _number(operand: Node, node: Apply, lookup: Lookup) -> Number:
    value = _value(operand, lookup)
    if _is_number(value):
        return value
    sign = {"neg": "-", "pos": "+"}.get(node.operator, node.operator)
    raise ExpressionError(f"'{sign}' wants numbers, not {_kind(value)}", node.column)


def _bound_power(base: Number, exponent: Number, column: int) -> None:
    if base < 0 and exponent != int(exponent):
        raise ExpressionError("takes a root of a negative number", column)
    # in digits, before it is computed: 9 ** 9 ** 9 has 370 million
    if abs(base) > 1 and exponent * math.log10(abs(base)) > math.log10(MAX_NUMBER):
        raise ExpressionError("comes to a number that is too large", column)


_OPERATIONS: Mapping[str, Callable[..., Number]] = {
    "neg": lambda value: -value,
    "pos": lambda value: +value,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: left // right,
    "%": lambda left, right: left % right,
    "**": lambda left, right: left**right,
    "min": min,
    "max": max,
    "round": round,
}


def _is_number(value: object) -> TypeIs[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, Mapping) else "a list"
