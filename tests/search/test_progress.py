import signal

import pytest

from ragsearch.search.budget import Budget
from ragsearch.search.progress import EndOfSearch
from ragsearch.search.record import SearchRecord
from ragsearch.spec.schema import BudgetSection


@pytest.fixture
def budget(tmp_path):
    record = SearchRecord(
        folder=tmp_path, name="kb", metric="val/em", goal="max", indexes={}, tracking_uri=""
    )
    return Budget(BudgetSection(trials=1, target=0.5), record)


def test_a_search_within_its_budget_goes_on(budget):
    assert not EndOfSearch(budget).stop_all()


def test_a_budget_that_is_over_ends_the_search_and_is_no_interruption(budget):
    end = EndOfSearch(budget)
    budget.validated(0, 0.6)

    assert end.stop_all()
    assert not end.interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_search_and_the_second_the_program(number, budget):
    end = EndOfSearch(budget)

    with end.on_signals():
        signal.raise_signal(number)
        assert end.stop_all()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_signal_handlers_are_put_back(budget):
    before = signal.getsignal(signal.SIGTERM)

    with EndOfSearch(budget).on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("trial", "epoch", "verdict", "stops"),
    [
        (1, 2, {}, False),
        (1, 2, {"verdict": "infeasible"}, True),
        (0, 2, {"verdict": "infeasible"}, False),
        (0, 0, {"verdict": "diverged"}, True),
    ],
)
def test_a_bad_trial_is_ended_and_the_baseline_only_where_it_cannot_go_on(
    trial, epoch, verdict, stops, budget
):
    result = {"config": {"trial": trial}, "epoch": epoch, **verdict}

    assert EndOfSearch(budget)("id", result) == stops
