import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ragsearch.spec.expressions import Expression
from ragsearch.spec.grammar import FUNCTIONS, ExpressionError

VALUES = {
    "retrieval.n_docs": 5,
    "optim.learning_rate": 3e-5,
    "model.type": "rag_token",
    "model.normalise": True,
    "optim.max_grad_norm": None,
    "optim.zero": 0,
    "model.lora": {"rank": 8},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 // 2 - 7 % 4", 0),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("2 ** -1", 0.5),
        ("1 - 2 - 3", -4),
        ("+.5e1", 5.0),
        ("retrieval.n_docs * 2", 10),
        ("retrieval.n_docs\n  * 2", 10),
        ("1 < 2 < 3", True),
        ("1 < 2 > 3", False),
        ("not 1 == 2 and true", True),
        ("false and 1 / 0 == 1", False),
        ("true or 1 / 0 == 1", True),
        ("not (true or false) or 'a' < 'b'", True),
        ("retrieval.n_docs in [3, 5]", True),
        ("retrieval.n_docs not in [3, 5,]", False),
        ("model.type in []", False),
        ("model.type == 'rag_token' and model.type != \"rag_sequence\"", True),
        ("optim.max_grad_norm == null", True),
        ("1 == 1.0 and 1 in [1.0]", True),
        ("1 == true or '1' == 1 or null == false", False),
        ("min(3, 1, 2) + max(1, 2)", 3),
        ("round(2.6) + round(1.26, 1)", 4.3),
        ("round(0.1 * 250)", 25),
        ("model.type", "rag_token"),
        ("null", None),
    ],
)
def test_an_expression_comes_to_what_it_says(text: str, value: object):
    found = Expression.parse(text).scalar(VALUES.__getitem__)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("", 1, "ends too early"),
        ("1 +", 4, "ends too early"),
        ("1 = 1", 3, "'=' has no meaning here; write =="),
        ("true && true", 6, "'&' has no meaning here; write and"),
        ("model.type == 'a", 15, "a text has no closing quote"),
        ("1 $ 1", 3, "'$' has no meaning here"),
        ("1 2", 3, "'2' does not belong here"),
        ("3 + not true", 5, "'not' does not belong here; put parentheses around it"),
        ("(1 + 2", 7, "ends too early; a ')' belongs here"),
        ("[1 2]", 4, "'2' does not belong here; a ']' belongs here"),
        ("model.normalise == True", 20, "'True' has no meaning here; write true"),
        ("eval('1')", 1, "'eval' is no function; known are max, min, round"),
        ("min()", 1, "min takes some values, not 0"),
        ("round(1, 2, 3)", 1, "round takes one or two values, not 3"),
        ("1e999", 1, "this number is too large"),
        ("9" * 400, 1, "this number is too large"),
        ("(" * 40 + "1" + ")" * 40, 31, "is nested too deeply"),
        ("+".join(["1"] * 200), 201, "has more than 200 words"),
        ("9" * 5000, 2000, "is longer than 2000 signs"),
        ("a.b.__class__[0]", 14, "'[' does not belong here"),
        ("x if y else z", 3, "'if' does not belong here"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_column(text: str, column: int, what: str):
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text)

    assert str(caught.value).startswith(f"column {column}: {what}")


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("model.type < 3", 12, "text and a number have no order, which '<' asks for"),
        ("1 < model.type", 3, "a number and text have no order"),
        ("null < 3", 6, "null and a number have no order"),
        ("1 / optim.zero", 3, "divides by zero"),
        ("1 // 0", 3, "divides by zero"),
        ("1 % 0.0", 3, "divides by zero"),
        ("0 ** -1", 3, "divides by zero"),
        ("9 ** 9 ** 9", 3, "comes to a number that is too large"),
        ("1e-200 ** -3", 8, "comes to a number that is too large"),
        ("1e299 * 1e299", 7, "comes to a number that is too large"),
        ("(-8) ** 0.5", 6, "takes a root of a negative number"),
        ("model.type + 1", 12, "'+' wants numbers, not text"),
        ("-model.normalise", 1, "'-' wants numbers, not true or false"),
        ("min(1, 'a')", 1, "'min' wants numbers, not text"),
        ("round(1.5, 0.5)", 1, "round wants a whole number of digits"),
        ("not retrieval.n_docs", 1, "'not' wants true or false, not a number; compare it"),
        ("1 and true", 3, "'and' wants true or false, not a number"),
        ("true and null", 6, "'and' wants true or false, not null"),
        ("model.type in 'rag'", 12, "'in' wants a list such as [1, 2] on its right, not text"),
        ("[[1]] == 1", 2, "a list in a list has no meaning here"),
        ("model.lora == 1", 1, "model.lora is a mapping, not one value"),
        ("[1, 2]", 1, "it comes to a list, not to one value"),
    ],
)
def test_an_expression_without_a_value_says_why_and_where(text: str, column: int, what: str):
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text).scalar(VALUES.__getitem__)

    assert str(caught.value).startswith(f"column {column}: {what}")


def test_a_condition_that_is_neither_true_nor_false_is_refused():
    assert Expression.parse("1 < 2").holds(VALUES.__getitem__)
    with pytest.raises(ExpressionError, match="column 3: comes to a number and not to true or"):
        Expression.parse("1 + 1").holds(VALUES.__getitem__)


def test_the_names_of_an_expression_are_known():
    expression = Expression.parse("a.b + min(c.d, [e] == 1) < a.b")

    assert expression.paths == {"a.b", "c.d", "e"}
    assert [name.column for name in expression.names()] == [1, 11, 17, 28]


PIECES = st.sampled_from([
    *"()[],.+-*/%<>='\"!&x 1", "**", "==", "<=", "not ", " and ", " or ", " in ", "true",
    "null", "9" * 30, "1e300", "retrieval.n_docs", "model.type", *FUNCTIONS, "round(", "\n",
])  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=30))
def test_any_text_has_a_value_or_an_error_of_ours(text: str):
    try:
        value = Expression.parse(text).scalar(VALUES.get)
    except ExpressionError:
        return

    assert value is None or isinstance(value, bool | int | float | str)
    assert not isinstance(value, float) or math.isfinite(value)


NUMBERS = st.integers(0, 20).map(str) | st.floats(0, 9).map(repr) | st.just("n.docs")


def _numeric(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    return (
        st.tuples(inner, operators, inner).map(" ".join)
        | inner.map("({})".format)
        | inner.map("-{}".format)
        | inner.map("round({})".format)
        | pair.map(lambda two: f"min({two[0]}, {two[1]})")
        | pair.map(lambda two: f"max({two[0]}, {two[1]})")
        | NUMBERS.map("({}) ** 2".format)
    )


NUMERIC = st.recursive(NUMBERS, _numeric, max_leaves=8)
COMPARED = st.lists(NUMERIC, min_size=2, max_size=3).flatmap(
    lambda parts: st.sampled_from(["<", "<=", ">", ">=", "==", "!="]).map(
        lambda sign: f" {sign} ".join(parts)
    )
) | st.tuples(NUMERIC, st.lists(NUMERIC, min_size=1, max_size=3)).map(
    lambda two: f"{two[0]} in [{', '.join(two[1])}]"
)
LOGICAL = st.recursive(
    COMPARED,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join)
        | inner.map("not {}".format)
        | inner.map("({})".format)
    ),
    max_leaves=4,
)


def _found(text: str) -> object:
    """The value, or what is wrong."""
    try:
        return Expression.parse(text).scalar({"n.docs": 3}.__getitem__)
    except ExpressionError as error:
        return error.what


def _by_python(text: str) -> object:
    try:
        value = eval(text.replace("n.docs", "3"))
    except ZeroDivisionError:
        return "divides by zero"
    return value


@given(NUMERIC | LOGICAL)
def test_a_value_is_the_one_that_python_would_find(text: str):
    found = _found(text)
    assume(found != "comes to a number that is too large")  # on the way, maybe
    assert found == _by_python(text)
