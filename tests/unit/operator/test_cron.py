"""Schedules open when a person who reads the cron line and the time zone would expect it."""

from __future__ import annotations

import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from greenfleet.cron import LONGEST_SECONDS, opened_at, parse

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def open_at(cron: str, hours: float, moment: float, zone: str = "Europe/Berlin") -> bool:
    return opened_at(cron, zone, int(hours * 3600), moment) is not None


def test_office_hours_open_on_weekdays_only() -> None:
    for text, expected in [
        ("2026-11-20T07:59", False),
        ("2026-11-20T08:00", True),
        ("2026-11-20T17:59", True),
        ("2026-11-20T18:00", False),
        ("2026-11-21T09:00", False),
    ]:
        assert open_at("0 8 * * mon-fri", 10, at(text)) is expected, text


def test_a_window_may_last_beyond_midnight_and_beyond_a_day() -> None:
    assert open_at("0 22 * * *", 4, at("2026-11-20T01:59"))
    assert open_at("0 6 * * sat", 48, at("2026-11-23T05:59"))
    assert not open_at("0 6 * * sat", 48, at("2026-11-23T06:00"))


def test_local_time_means_local_time_on_both_sides_of_a_clock_change() -> None:
    for day in ("2026-03-28", "2026-03-30", "2026-10-24", "2026-10-26"):
        assert open_at("0 8 * * *", 1, at(f"{day}T08:30")), day
        assert not open_at("0 8 * * *", 1, at(f"{day}T07:30")), day


def test_a_time_that_the_clocks_skip_opens_when_they_have_been_put_forward() -> None:
    assert not open_at("30 2 29 3 *", 1, at("2026-03-29T01:59"))
    assert open_at("30 2 29 3 *", 1, at("2026-03-29T03:30"))


def test_a_time_that_comes_twice_opens_once() -> None:
    assert open_at("30 2 25 10 *", 0.5, at("2026-10-25T02:45", fold=0))
    assert not open_at("30 2 25 10 *", 0.5, at("2026-10-25T02:45", fold=1))


def test_day_of_month_or_weekday_is_enough_when_both_are_given() -> None:
    assert open_at("0 0 13 * fri", 24, at("2026-11-13T12:00"))
    assert open_at("0 0 13 * fri", 24, at("2026-11-20T12:00"))
    assert not open_at("0 0 13 * fri", 24, at("2026-11-18T12:00"))


def test_sunday_is_zero_and_seven_and_sun() -> None:
    for day in ("0", "7", "sun"):
        assert open_at(f"0 0 * * {day}", 24, at("2026-11-22T12:00")), day
        assert not open_at(f"0 0 * * {day}", 24, at("2026-11-23T12:00")), day


def test_steps_lists_ranges_and_nicknames() -> None:
    assert parse("*/15 8-10,20 * jan,dec *").minutes == {0, 15, 30, 45}
    assert parse("*/15 8-10,20 * jan,dec *").hours == {8, 9, 10, 20}
    assert parse("5/20 * * * *").minutes == {5, 25, 45}
    assert parse("@daily").parts == parse("0 0 * * *").parts


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "a * * * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "*/ * * * *",
        "0 0 31 2 *",
        "0 0 30,31 feb *",
        "0 0 31 4,6,9,11 *",
    ],
)
def test_a_bad_expression_is_refused_with_a_sentence(bad: str) -> None:
    with pytest.raises(ValueError, match="cron"):
        parse(bad)


@pytest.mark.parametrize("never", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6 *"])
def test_days_that_no_month_of_the_expression_has_are_said_to_be_that(never: str) -> None:
    with pytest.raises(ValueError, match="never opens"):
        parse(never)


@pytest.mark.parametrize("cron", ["* * */31 4 sun", "0 0 29 2 *", "0 0 */30 2 mon", "* * * * *", "59 23 29 2 *"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_the_work_of_an_evaluation_has_a_bound_whatever_the_spec_says(cron: str, zone: str) -> None:
    """Counted in calls, not in seconds: at most the days of 31 days, and the times of one of them, are looked at."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    longest = cron, zone, 166_000 * 86_400
    opened_at(*longest, at("2026-04-20T12:00", zone))  # the time zone and the expression are read
    sys.setprofile(count)
    try:
        opened_at(*longest, at("2026-11-20T12:00", zone))
    finally:
        sys.setprofile(None)
    assert calls < 34 * 20


def test_a_window_is_never_longer_than_31_days() -> None:
    opened = at("2026-01-01T00:00", "UTC")
    schedule = "0 0 1 1 *", "UTC", 166_000 * 86_400
    assert opened_at(*schedule, opened + LONGEST_SECONDS - 1) is not None
    assert opened_at(*schedule, opened + LONGEST_SECONDS) is None
