import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.spec.domains import (
    BadDomainError,
    Choice,
    Domain,
    Int,
    Log,
    Ordinal,
    Uniform,
    parse_domain,
)


@pytest.mark.parametrize(
    ("raw", "domain"),
    [
        ({"log": [1e-5, 1]}, Log(1e-5, 1.0)),
        ({"uniform": [0, 1]}, Uniform(0.0, 1.0)),
        ({"uniform": [0.0, 0.3], "step": 0.05}, Uniform(0.0, 0.3, 0.05)),
        ({"int": [1, 9]}, Int(1, 9)),
        ({"int": [1, 9], "step": 4}, Int(1, 9, step=4)),
        ({"int": [1, 64], "log": True}, Int(1, 64, log=True)),
        ({"choice": ["a", 1, None, True]}, Choice(("a", 1, None, True))),
        ({"ordinal": [3, 5, 10]}, Ordinal((3, 5, 10))),
        ({"ordinal": ["small", "large"]}, Ordinal(("small", "large"))),
    ],
)
def test_a_domain_is_read_and_written_as_the_file_has_it(
    raw: dict[str, object], domain: Domain
):
    assert parse_domain(raw) == domain
    assert domain.to_plain() == raw


@pytest.mark.parametrize(
    ("raw", "key", "message"),
    [
        (3, "", "must be a domain such as {choice: [1, 2]}, not 3"),
        ({}, "", "is an empty domain; give one of choice, int, log, ordinal, uniform"),
        ({"choise": [1, 2]}, "choise", "unknown key; did you mean 'choice'?"),
        ({"gauss": [0, 1]}, "gauss", "unknown key; known are choice, int, log, ordinal"),
        ({"log": [1, 2], "uniform": [1, 2]}, "", "has several domains, log and uniform; keep"),
        ({"log": [1, 2], "step": 1}, "step", "unknown key; known are log"),
        ({"int": [1, 2], "stp": 1}, "stp", "unknown key; did you mean 'step'?"),
        ({"log": [1]}, "log", "log must be [low, high], two numbers, not [1]"),
        ({"log": "1-2"}, "log", "log must be [low, high], two numbers, not '1-2'"),
        ({"log": [True, 2]}, "log", "log must be [low, high], two numbers"),
        ({"uniform": [0, math.inf]}, "uniform", "uniform must be [low, high], two numbers"),
        ({"log": [0, 1]}, "", "log needs ends above 0, not 0.0; use uniform"),
        ({"log": [-1, 1]}, "", "log needs ends above 0, not -1.0; use uniform"),
        ({"uniform": [1, 1]}, "", "low 1.0 must be below high 1.0; a fixed value goes in"),
        ({"uniform": [0, 1], "step": 0}, "step", "step must be above 0, not 0.0"),
        ({"uniform": [0, 1], "step": "x"}, "step", "step must be a number, not 'x'"),
        ({"uniform": [0, 1], "step": 0.3}, "step", "step 0.3 does not divide 0.0 to 1.0 even"),
        ({"uniform": [0, 1], "step": 2}, "step", "step 2.0 does not divide 0.0 to 1.0 evenly"),
        ({"int": [1.0, 2]}, "int", "ends must be whole numbers, not 1.0 and 2"),
        ({"int": [1, 4], "step": 0.5}, "step", "step must be a whole number, not 0.5"),
        ({"int": [1, 4], "step": 0}, "step", "step must be at least 1, not 0"),
        ({"int": [1, 4], "step": 2}, "step", "step 2 does not divide 1 to 4 evenly"),
        ({"int": [1, 4], "log": "yes"}, "log", "log must be true or false, not 'yes'"),
        ({"int": [0, 4], "log": True}, "log", "log needs a low end of at least 1, not 0"),
        ({"int": [1, 5], "log": True, "step": 2}, "log", "log and step exclude each other"),
        ({"choice": "ab"}, "choice", "choice must be a list of values, not 'ab'"),
        ({"choice": [[1], [2]]}, "choice", "values must be numbers or text, not [1]"),
        ({"choice": []}, "", "needs at least 2 values; a fixed value goes in trial"),
        ({"choice": [1]}, "", "needs at least 2 values; a fixed value goes in trial"),
        ({"choice": [1, 2, 1.0]}, "", "lists 1.0 twice; keep one"),
        ({"ordinal": [3, 1]}, "ordinal", "ordinal numbers must ascend, not run 3, 1"),
    ],
)
def test_what_is_no_domain_is_refused_with_the_part_that_is_wrong(
    raw: object, key: str, message: str
):
    with pytest.raises(BadDomainError) as caught:
        parse_domain(raw)

    assert caught.value.key == key
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Log(0.1, 10), [0.1, 1, 10.0], [0.09, 11, True, "1", None, math.nan]),
        (Uniform(0, 1), [0, 0.3, 1], [-0.1, 1.1, False]),
        (Uniform(0, 0.3, 0.1), [0, 0.1, 0.2, 0.30000000000000004 - 1e-17], [0.15, 0.05]),
        (Int(1, 9, step=4), [1, 5, 9], [2, 0, 13, 5.0, True]),
        (Choice((1, "a", None)), [1, 1.0, "a", None], [True, "b", 2]),
        (Choice((True, False)), [True, False], [1, 0, None]),
        (Ordinal((1, 5)), [1, 5], [3, "1"]),
    ],
)
def test_a_domain_knows_its_values(domain: Domain, inside: list[object], outside: list[object]):
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


def test_values_of_a_grid_are_written_as_a_person_would():
    assert Uniform(0.0, 0.3, 0.1).values() == (0.0, 0.1, 0.2, 0.3)


def test_a_continuous_domain_has_no_list_of_values_and_its_ends_stand_for_it():
    assert Log(1, 10).values() is None
    assert Uniform(0, 1).values() is None
    assert Log(1, 10).probes() == (1, 10)
    assert Uniform(0, 1).probes() == (0, 1)


def test_of_a_large_domain_only_the_ends_are_probed():
    assert Int(1, 10**9).probes() == (1, 10**9)
    assert Int(1, 10**30).probes() == (1, 10**30)
    assert Uniform(0, 1, 1e-6).probes() == (0, 1)
    assert len(Int(1, 50).probes()) == 50


@given(st.integers(-50, 50), st.integers(1, 30), st.integers(1, 7))
def test_every_value_of_a_finite_domain_is_contained(low: int, n_steps: int, step: int):
    whole = Int(low, low + n_steps * step, step)
    grid = Uniform(low / 10, low / 10 + n_steps * step / 10, step / 10)

    assert all(map(whole.contains, whole.values()))
    assert all(map(grid.contains, grid.values() or ()))
    assert len(grid.values() or ()) == len(whole.values()) == n_steps + 1
