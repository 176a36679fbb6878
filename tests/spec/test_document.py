import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.errors import BadInputError
from ragsearch.spec.document import Finding, parse_value, read_document, write_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("3.0e-5", 3e-5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("017", 17),
        ("+3", 3),
        ("1_000", "1_000"),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:45", "12:30:45"),
        ("'5'", "5"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    read = parse_value(text)

    assert read == value
    assert type(read) is type(value)


def test_a_value_that_is_no_yaml_is_refused():
    with pytest.raises(BadInputError, match="is not YAML"):
        parse_value("[1")


def test_anchors_and_merge_keys_work_and_own_keys_win():
    text = "base: &base {a: 1, b: 2}\nmore: &more {c: 3}\nx:\n  b: 4\n  <<: [*base, *more]\n"
    document = read_document(text, "f")

    assert document.data["x"] == {"a": 1, "b": 4, "c": 3}
    assert document.findings == ()
    assert document.places.mistake(Finding(("x", "b"), "w")).place == "f:4"
    assert document.places.mistake(Finding(("x", "a"), "w")).place == "f:1"


def test_the_first_of_several_merged_mappings_wins():
    text = "one: &one {a: 1}\ntwo: &two {a: 2}\nx: {<<: [*one, *two]}\n"

    assert read_document(text, "f").data["x"] == {"a": 1}


def test_a_key_of_numbers_is_text():
    assert read_document("7: a\n", "f").data == {"7": "a"}


def test_a_finding_below_a_missing_key_stands_at_the_nearest_one():
    document = read_document("a:\n  b: {c: 1}\n", "f")

    assert document.places.mistake(Finding(("a", "b", "x", "y"), "w")).place == "f:2"
    assert document.places.mistake(Finding(("z",), "w")).place == "f:1"


def test_lines_after_a_repeated_key_are_those_of_the_last():
    document = read_document("a: {b: 1}\na:\n  c: 2\n", "f")

    assert document.data == {"a": {"c": 2}}
    assert document.places.mistake(Finding(("a", "b"), "w")).place == "f:2"
    assert document.findings == (Finding(("a",), "given twice, first in line 1; keep one", 2),)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text("aeé北☃01.:#-+'\"{}[]&*!|>%@`~, \n\t\x85\u2028\U0001f600", max_size=8)
    | st.sampled_from(["1e5", "yes", "~", "017", "<<", ".inf", "1_0", "- a", "2026-01-01", "="])
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab.<1e", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b.c", "1e5", "<<"]), PLAIN, max_size=3))
def test_what_is_written_is_read_as_the_same(data: dict[str, object]):
    assert read_document(write_document(data), "f").data == data


@given(st.text())
def test_any_text_is_read_or_refused(text: str):
    try:
        parse_value(text)
        mistakes = []
    except BadInputError as error:
        mistakes = [str(mistake) for mistake in error.mistakes]

    assert all(mistake.startswith("is not YAML: ") for mistake in mistakes)
