"""How long the oldest message waits, from what waits and what starts."""

from __future__ import annotations

import pytest

from greenfleet.status.waiting import MOST_ARRIVALS, WaitClock


def test_while_nothing_starts_the_oldest_message_grows_older_whatever_arrives_behind_it() -> None:
    clock = WaitClock()
    assert [clock.update(waiting, {"a": 0}, now) for now, waiting in ((0, 0), (2, 5), (60, 50), (300, 80))] == [
        0,
        0,
        58,
        298,
    ]


def test_what_starts_is_the_oldest() -> None:
    clock = WaitClock()
    clock.update(0, {"a": 100}, 0)
    clock.update(10, {"a": 100}, 10)
    clock.update(15, {"a": 105}, 20)  # ten more arrived, five started
    assert clock.update(10, {"a": 110}, 30) == pytest.approx(10), "those of 10 s have started, those of 20 s wait"
    assert clock.update(0, {"a": 120}, 40) == 0


def test_a_steady_load_waits_as_long_as_littles_law_says() -> None:
    clock, rate, wait = WaitClock(), 20.0, 30.0
    ages = [
        clock.update(rate * min(now, wait), {"a": rate * max(0.0, now - wait)}, float(now)) for now in range(0, 300, 2)
    ]
    assert ages[-1] == pytest.approx(wait, abs=4)


def test_counters_that_begin_again_and_workers_that_come_and_go_count_what_they_started() -> None:
    clock = WaitClock()
    clock.update(100, {"a": 1000}, 0)
    clock.update(100, {"a": 50}, 10)  # restarted: 50 of the old have started, 50 new have come
    assert clock.update(60, {"b": 40}, 20) == pytest.approx(20), "ten of the first moment are left"
    assert clock.update(50, {"b": 50}, 30) == pytest.approx(20), "and now none"


def test_a_worker_without_a_sample_for_once_has_not_started_everything_again() -> None:
    clock = WaitClock()
    clock.update(100, {"a": 1000, "b": 5}, 0)
    clock.update(100, {"b": 5}, 10)
    assert clock.update(90, {"a": 1010, "b": 5}, 20) == 20
    for number in range(1000):
        clock.update(90, {f"c-{number}": 0}, 30)
    assert clock._started is not None
    assert len(clock._started) < 200


def test_messages_that_vanish_without_a_start_are_the_oldest() -> None:
    clock = WaitClock()
    clock.update(100, {}, 0)
    clock.update(150, {}, 50)
    assert clock.update(50, {}, 60) == pytest.approx(10)
    assert clock.update(0, {}, 70) == 0


def test_a_long_wait_is_remembered_in_bounded_space_and_no_younger_than_it_is() -> None:
    clock = WaitClock()
    ages = [clock.update(float(now), {}, float(now)) for now in range(1, 5 * MOST_ARRIVALS)]
    assert ages[-1] == 5 * MOST_ARRIVALS - 2
    assert len(clock._arrivals) <= MOST_ARRIVALS
