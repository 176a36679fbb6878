"""What is scored without training: the table of the quickstart, and two functions."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsearch.bench.surrogate import (
    CURVES,
    N_EPOCHS,
    branin,
    hartmann6,
    learning,
    place_of,
    settings_at,
    share_of,
    tabulated,
)
from ragsearch.spec import Int, Log, Ordinal, load_spec
from tests.bench.quickstart import QUICKSTART

SPEC = load_spec(QUICKSTART)
ROWS = [json.loads(line) for line in CURVES.read_text(encoding="utf-8").splitlines()]
BASELINE = {path: SPEC.look_up(path) for path in SPEC.domains}


def test_every_row_of_the_table_is_a_trial_of_the_quickstart():
    assert len(ROWS) >= 4
    for row in ROWS:
        for path, value in row["params"].items():
            assert SPEC.domains[path].contains(value)
        assert len(row["epochs"]) <= N_EPOCHS
    assert [row["place"] for row in ROWS] == [*range(len(ROWS))]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if len(row["epochs"]) == N_EPOCHS], ids=str
)
def test_a_measured_configuration_has_its_own_curve(row):
    curve = tabulated(SPEC)(BASELINE | row["params"])

    assert curve == [epoch["val/em"] for epoch in row["epochs"]]


shares = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@given(shares)
def test_no_configuration_is_better_than_the_best_or_worse_than_the_worst(at):
    measured = [epoch["val/em"] for row in ROWS for epoch in row["epochs"]]

    curve = tabulated(SPEC)(settings_at(SPEC, at))

    assert len(curve) == N_EPOCHS
    assert min(measured) - 1e-9 <= min(curve)
    assert max(curve) <= max(measured) + 1e-9


@given(shares)
def test_a_configuration_lies_where_it_was_taken_from(at):
    settings = settings_at(SPEC, at)

    found = place_of(SPEC, settings)

    assert place_of(SPEC, settings_at(SPEC, found.tolist())) == pytest.approx(found, abs=1e-3)
    assert np.abs(found[2:4] - at[2:4]).max() < 1e-3


@pytest.mark.parametrize(
    ("domain", "value", "share"),
    [
        (Log(1e-4, 1e-2), 1e-3, 0.5),
        (Int(1, 9), 3, 0.25),
        (Int(1, 64, log=True), 8, 0.5),
        (Int(8, 128, step=8, log=True), 32, 0.5),
        (Ordinal((1, 2, 50)), 2, 0.5),
    ],
)
def test_a_value_lies_at_its_share_of_a_domain(domain, value, share):
    assert share_of(domain, value) == pytest.approx(share)


@given(st.floats(0, 1))
def test_a_value_on_a_log_scale_is_the_nearest_to_its_share(share):
    spec = load_spec(
        QUICKSTART, ["space={train.batch_size: {int: [8, 64], step: 8, log: true}}"]
    )

    (value,) = settings_at(spec, [share]).values()

    assert abs(value - 8 ** (1 + share)) <= 4 + 1e-9
    assert settings_at(spec, place_of(spec, {"train.batch_size": value}).tolist()) == {
        "train.batch_size": value
    }


def test_both_functions_are_1_at_their_published_optima():
    best = np.array([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573])
    optima = np.array([[-np.pi, 12.275], [np.pi, 2.275], [9.42478, 2.475]])

    assert hartmann6(best) == pytest.approx(1.0, abs=1e-5)
    for first, second in optima:
        assert branin(np.array([(first + 5) / 15, second / 15])) == pytest.approx(1, abs=1e-3)
    assert branin(np.array([0.0, 0.0])) == pytest.approx(0.0, abs=1e-3)


def test_a_trial_learns_towards_the_value_of_the_function():
    curve = learning(lambda x: float(x.mean()), SPEC)(BASELINE)

    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(place_of(SPEC, BASELINE).mean())
    assert 0.4 <= curve[0] / curve[-1] <= 0.75
