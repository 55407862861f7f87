"""Arrivals: an amount with a deadline and a rate."""

from __future__ import annotations

import pytest

from greenfleet.autoscaling.estimation.arrivals import Arrival, Arrivals


def stream(rate: float, seconds: int, start: float = 0.0) -> tuple[Arrival, ...]:
    return tuple(Arrival(start + t, start + t + 2, 2 * rate) for t in range(0, seconds, 2))


def test_a_steady_stream_is_its_rate() -> None:
    assert Arrivals(stream(50, 60)).rate(2.0) == pytest.approx(50)


def test_a_burst_is_out_of_the_present_rate_within_seconds() -> None:
    history = (*stream(5, 40), Arrival(40, 42, 20_000), *stream(5, 12, start=42))
    assert Arrivals(history).present_rate(2.0) < 8 < Arrivals(history).rate(2.0)


def test_a_rate_that_lasts_is_believed_within_the_window() -> None:
    history = (*stream(5, 40), *stream(60, 30, start=40))
    assert Arrivals(history).rate(2.0) == pytest.approx(60, rel=0.05)


def test_a_rate_that_has_fallen_is_seen_before_the_window_is_over_and_chance_is_no_fall() -> None:
    fallen = (*stream(60, 40), *stream(5, 14, start=40))
    assert Arrivals(fallen).present_rate(2.0) < 8 < Arrivals(fallen).rate(2.0)
    usual = tuple(Arrival(t, t + 2, 120 + (8 if t % 4 else -8)) for t in range(0, 60, 2))
    assert Arrivals(usual).present_rate(2.0) == Arrivals(usual).rate(2.0)
    risen = (*stream(5, 40), *stream(60, 14, start=40))
    assert Arrivals(risen).present_rate(2.0) == Arrivals(risen).rate(2.0)


def test_a_trickle_of_less_than_one_message_per_scrape_is_still_a_rate() -> None:
    history = tuple(Arrival(t, t + 2, 1.0 if t % 10 == 0 else 0.0) for t in range(0, 40, 2))
    assert Arrivals(history).rate(2.0) == pytest.approx(0.1, rel=0.5)


def test_arrivals_are_never_negative_and_skewed_scrapes_even_out() -> None:
    skewed = Arrivals().update(Arrival(0, 2, -30), 0.0, 2.0)
    assert (skewed.history[-1].amount, skewed.deficit) == (0.0, -30)
    even = skewed.update(Arrival(2, 4, 70), 0.0, 2.0)
    assert (even.history[-1].amount, even.deficit) == (40, 0.0)


def test_a_purge_is_forgotten_instead_of_hiding_later_arrivals() -> None:
    found = Arrivals().update(Arrival(0, 2, -20_000), 0.0, 2.0)
    for tick in range(1, 10):
        found = found.update(Arrival(2 * tick, 2 * tick + 2, 10), 0.0, 2.0)
    assert sum(arrival.amount for arrival in found.history) >= 40


def test_unstarted_messages_are_the_youngest() -> None:
    history = (Arrival(0, 2, 100), Arrival(2, 4, 100), Arrival(4, 6, 100))
    assert [(due.since, due.amount) for due in Arrivals(history).waiting(150)] == [(3.0, 50), (4.0, 150)]


def test_messages_from_before_our_time_are_as_old_as_our_memory() -> None:
    dues = Arrivals((Arrival(10, 10, 50),)).waiting(80)
    assert [(due.since, due.amount) for due in dues] == [(10, 30), (10, 80)]


def test_history_is_bounded_and_keeps_what_waits() -> None:
    found = Arrivals()
    for tick in range(2000):
        found = found.update(Arrival(2 * tick, 2 * tick + 2, 10), 10.0 * (tick + 1), 2.0)
    history = found.history
    assert len(history) < 100
    assert sum(arrival.amount for arrival in history) == pytest.approx(20_000)
    assert history[0].since == 0
