"""The small cron evaluator against the definition, minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from greenfleet.cron import LONGEST_SECONDS, opened_at, openings, parse

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
moments = st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
crons = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["0", "30", "*/20", "15,45"]),
    st.sampled_from(["*", "2", "0", "8-18", "23", "1,2,3"]),
    st.sampled_from(["*", "29", "1"]),
    st.sampled_from(["*", "sun", "mon-fri"]),
)


def fires(cron: CronSim, day: date) -> bool:
    return day.month in cron.months and cron.match_day(day)


def wall_clock_matches(expression: str, local: datetime) -> bool:
    cron = parse(expression)
    return local.minute in cron.minutes and local.hour in cron.hours and fires(cron, local.date())


@given(crons, st.sampled_from(ZONES), moments, st.integers(5, 300))
def test_a_window_is_open_exactly_after_a_matching_minute(cron: str, zone: str, moment: datetime, minutes: int) -> None:
    """Minutes within three hours of a clock change have tests of their own."""
    tz = ZoneInfo(zone)
    nearby = [moment + timedelta(hours=h) for h in range(-9, 10)]
    if len({m.astimezone(tz).utcoffset() for m in nearby}) > 1:
        return
    whole = moment.replace(second=0, microsecond=0)
    fired = any(wall_clock_matches(cron, (whole - timedelta(minutes=back)).astimezone(tz)) for back in range(minutes))
    assert (opened_at(cron, zone, minutes * 60, moment.timestamp()) is not None) is fired


@given(crons, st.sampled_from(ZONES), moments, st.integers(60, 200_000))
def test_an_open_window_was_opened_within_its_duration(cron: str, zone: str, moment: datetime, seconds: int) -> None:
    now = moment.timestamp()
    opened = opened_at(cron, zone, seconds, now)
    assert opened is None or now - seconds < opened <= now


changes = st.builds(
    lambda day, minutes: day + timedelta(minutes=minutes),
    st.sampled_from(
        [datetime(2026, *day, tzinfo=UTC) for day in ((3, 8), (3, 29), (4, 4), (10, 3), (10, 25), (11, 1))]
    ),
    st.integers(0, 3000),
)


@given(crons, st.sampled_from(ZONES), moments | changes)
def test_the_last_opening_is_the_last_of_all_that_were_until_now(cron: str, zone: str, moment: datetime) -> None:
    """Also where clocks change: every opening of the last 33 days, one by one, against the shorter way there."""
    now, tz, parsed = moment.timestamp(), ZoneInfo(zone), parse(cron)
    days = [moment.astimezone(tz).date() - timedelta(days=back) for back in range(33)]
    every = [at for day in days if fires(parsed, day) for at in openings(parsed, tz, day) if at <= now]
    last = max(every, default=None)
    held = last is not None and now < last + LONGEST_SECONDS
    assert opened_at(cron, zone, LONGEST_SECONDS, now) == (last if held else None)
