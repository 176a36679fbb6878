import signal

import pytest

from ragsearch.search.progress import EndOfSearch


def test_a_search_without_a_wall_budget_goes_on():
    assert not EndOfSearch(None).stop_all()


def test_wall_time_over_ends_the_search_and_is_no_interruption():
    end = EndOfSearch(0.0)

    assert end.stop_all()
    assert not end.interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_search_and_the_second_the_program(number):
    end = EndOfSearch(None)

    with end.on_signals():
        signal.raise_signal(number)
        assert end.stop_all()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)

    with EndOfSearch(None).on_signals():
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
    trial, epoch, verdict, stops
):
    result = {"config": {"trial": trial}, "epoch": epoch, **verdict}

    assert EndOfSearch(None)("id", result) == stops
