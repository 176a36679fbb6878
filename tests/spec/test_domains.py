import math
from collections import Counter
from itertools import pairwise
from random import Random
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.spec.domain_parser import parse_domain
from ragsearch.spec.domains import (
    BadDomainError,
    Bundle,
    Choice,
    Domain,
    Int,
    Log,
    Normal,
    Ordinal,
    Uniform,
)


@pytest.mark.parametrize(
    ("raw", "domain"),
    [
        ({"log": [1e-5, 1]}, Log(1e-5, 1.0)),
        ({"log": [1e-5, 1e-3], "step": 10}, Log(1e-5, 1e-3, 10.0)),
        ({"normal": [0.1, 0.05], "bounds": [0, 0.3]}, Normal(0.1, 0.05, 0.0, 0.3)),
        (
            {"bundle": [{"a.b": 1, "c": "x"}, {"c": "y", "a.b": None}]},
            Bundle(("a.b", "c"), ((1, "x"), (None, "y"))),
        ),
        ({"uniform": [0, 1]}, Uniform(0.0, 1.0)),
        ({"uniform": [0.0, 0.3], "step": 0.05}, Uniform(0.0, 0.3, 0.05)),
        ({"int": [1, 9]}, Int(1, 9)),
        ({"int": [1, 9], "step": 4}, Int(1, 9, step=4)),
        ({"int": [1, 64], "log": True}, Int(1, 64, log=True)),
        ({"int": [8, 64], "step": 8, "log": True}, Int(8, 64, 8, log=True)),
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
        ({}, "", "is an empty domain; give one of bundle, choice, int, log, normal, ord"),
        ({"choise": [1, 2]}, "choise", "unknown key; did you mean 'choice'?"),
        ({"gauss": [0, 1]}, "gauss", "unknown key; known are bundle, choice, int, log, normal"),
        ({"log": [1, 2], "uniform": [1, 2]}, "", "has several domains, log and uniform; keep"),
        ({"log": [1, 2], "step": 1}, "step", "step must be above 1, as a step of log multipl"),
        ({"log": [1, 3], "step": 2}, "step", "times 2.0 does not lead from 1.0 to 3.0 evenly"),
        ({"log": [1, 3], "step": "x"}, "step", "step must be a number, not 'x'"),
        ({"choice": [1, 2], "step": 1}, "step", "unknown key; known are choice"),
        ({"normal": 3}, "normal", "normal must be [mean, deviation], two numbers, not 3"),
        ({"normal": [1, 0]}, "normal", "deviation must be above 0, not 0"),
        ({"normal": [1, 1], "bounds": 2}, "bounds", "bounds must be [low, high], two numbers"),
        ({"normal": [1, 1], "bounds": [2, 1]}, "", "low 2.0 must be below high 1.0"),
        ({"normal": [0, 1], "bounds": [6, 9]}, "bounds", "bounds hold less than a thousandth"),
        ({"bundle": {"a": 1}}, "bundle", "bundle must be a list of mappings"),
        ({"bundle": []}, "bundle", "a bundle couples at least 2 keys; one alone is a choice"),
        ({"bundle": [{"a": 1}, {"a": 2}]}, "bundle", "a bundle couples at least 2 keys"),
        ({"bundle": [{"a": 1, "b": 2}]}, "bundle", "needs at least 2 options; fixed values"),
        (
            {"bundle": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]},
            "bundle",
            "options must have the same keys, but 0 and 1 differ in b, c",
        ),
        (
            {"bundle": [{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]},
            "bundle",
            "options 0 and 1 are the same; keep one",
        ),
        (
            {"bundle": [{"a": 1, "b": [2]}, {"a": 1, "b": 3}]},
            "bundle",
            "values must be numbers or text, not [2]",
        ),
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
        ({"int": [1, 4], "log": True, "step": 2}, "step", "step 2 does not divide 1 to 4"),
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
        (Log(1e-5, 1e-3, 10), [1e-5, 1e-4, 0.00010000000000000002], [2e-5, 1e-2, "1"]),
        (Normal(0, 1, -2, 2), [0, -2, 2.0], [2.1, None, True]),
        (Bundle(("a", "b"), ((1, "x"), (2, "y"))), [(1, "x"), (2.0, "y")], [(1, "y"), 1]),
        (Int(1, 9, step=4), [1, 5, 9], [2, 0, 13, 5.0, True]),
        (Int(8, 32, step=8, log=True), [8, 16, 24, 32], [4, 12, 40, 16.0, True]),
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


EACH = [
    Log(1e-5, 1e-3),
    Log(1e-5, 1e-3, 10.0),
    Uniform(0, 1),
    Uniform(0.0, 0.3, 0.1),
    Int(1, 9, step=4),
    Int(1, 64, log=True),
    Int(1, 65, step=16, log=True),
    Normal(0.1, 0.05, 0.0, 0.3),
    Choice(("a", None, True)),
    Ordinal((1, 5, 9)),
    Bundle(("a", "b"), ((1, "x"), (2, "y"))),
]


@pytest.mark.parametrize("domain", EACH, ids=lambda domain: type(domain).__name__)
def test_what_is_drawn_lies_in_the_domain(domain: Domain):
    random = Random(1)
    drawn = [domain.sample(random) for _ in range(300)]

    assert all(map(domain.contains, drawn))
    assert parse_domain(domain.to_plain()) == domain
    if (values := domain.values()) is not None:
        assert drawn
        assert str(values[0]) in map(str, drawn)


@pytest.mark.parametrize(
    ("domain", "lower"),
    [
        (Int(1, 4, log=True), 0.5),
        (Int(8, 32, step=8, log=True), 4.0),
        (Int(16, 32, step=8, log=True), 12.0),
        (Int(1, 97, step=32, log=True), 0.5),  # half a step lower would be below 0
    ],
)
def test_a_whole_number_on_a_log_scale_is_as_likely_as_the_stretch_around_it(
    domain: Int, lower: float
):
    middles = [value + domain.step / 2 for value in domain.values()]
    widths = [math.log(b / a) for a, b in pairwise([lower, *middles])]
    random = Random(2)

    counts = Counter(domain.sample(random) for _ in range(20_000))

    assert domain.edges() == (lower, middles[-1])
    for value, width in zip(domain.values(), widths, strict=True):
        assert counts[value] / 20_000 == pytest.approx(width / sum(widths), abs=0.015)


@given(st.integers(1, 500), st.integers(1, 30), st.integers(1, 60), st.floats(0, 1))
def test_a_number_between_the_edges_stands_for_a_value_next_to_it(
    low: int, n_steps: int, step: int, share: float
):
    domain = Int(low, low + n_steps * step, step, log=True)
    lower, upper = domain.edges()
    number = lower + share * (upper - lower)

    assert 0 < lower < low
    assert domain.contains(domain.nearest(number))
    assert abs(domain.nearest(number) - number) <= step / 2 + 1e-9
    assert [domain.nearest(value) for value in domain.values()] == [*domain.values()]


def test_a_normal_domain_without_bounds_ends_where_next_to_nothing_lies():
    assert parse_domain({"normal": [1, 2]}) == Normal(1.0, 2.0, -9.0, 11.0)


def test_uniform_quantiles_of_a_normal_domain_are_distributed_as_it_says():
    domain = Normal(3.0, 2.0, -7.0, 13.0)
    values = [domain.at((i + 0.5) / 1000) for i in range(1000)]

    assert fmean(values) == pytest.approx(3.0)
    assert stdev(values) == pytest.approx(2.0, rel=0.01)


@given(st.floats(0, 1), st.floats(-2, 2), st.floats(0.5, 6))
def test_quantiles_of_a_truncated_normal_domain_are_those_of_the_curve_between_its_ends(
    quantile: float, low: float, width: float
):
    domain = Normal(0.0, 1.0, low, low + width)
    value = domain.at(quantile)
    curve = NormalDist()
    share = (curve.cdf(value) - curve.cdf(low)) / (curve.cdf(low + width) - curve.cdf(low))

    assert low <= value <= low + width
    assert share == pytest.approx(quantile, abs=1e-9)
    assert domain.quantile(value) == pytest.approx(quantile, abs=1e-9)


def test_bounds_far_out_on_one_side_keep_every_value_between_them():
    domain = Normal(0.0, 1.0, -50.0, 50.0)

    assert (domain.at(0.0), domain.at(1.0)) == (-50.0, 50.0)
