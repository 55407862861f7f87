"""Cron: windows that open at the times of an expression in a time zone and stay open for a duration. Pure.

cronsim reads the expression and knows its days. The search for the last opening is ours, because every pool shares one
event loop and the work needs a bound whatever a spec says: cronsim's own search goes on for fifty years, this one looks
at the days of the longest duration, and at the times of one of them. Daylight saving time as in cron(8): a time that
the clocks skip opens when they have been put forward, a time that comes twice opens once, and the duration is elapsed
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LONGEST_SECONDS = 31 * 86_400
"""A window closes after so long at the latest, whatever its duration says."""

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_BOUNDS = {"minute": "0-59", "hour": "0-23", "day-of-month": "1-31", "month": "1-12", "day-of-week": "0-7"}


@lru_cache(maxsize=1024)
def parse(expression: str) -> CronSim:
    """The expression, or a ValueError that names the field, its value and what would be right."""
    fields = _NICKNAMES.get(expression.strip().lower(), expression).split()
    if len(fields) != 5:
        raise ValueError(f"cron {expression!r} has {len(fields)} fields; it needs five: minute hour day month weekday")
    try:
        return CronSim(" ".join(fields), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        if name == "day-of-month" and fields[3] != "*" and _is_cron([*fields[:3], "*", fields[4]]):
            raise ValueError(
                f"cron {expression!r} never opens: no month of {fields[3]!r} has a day of {fields[2]!r}; choose "
                "days that it has"
            ) from None
        index = list(_BOUNDS).index(name) if name in _BOUNDS else 0
        raise ValueError(
            f"cron field {name} {fields[index]!r} is outside {_BOUNDS.get(name, 'its bounds')}, or no number, "
            "range, list or step; "
            f"write for example */2 or 1-5"
        ) from None


def _is_cron(fields: list[str]) -> bool:
    try:
        CronSim(" ".join(fields), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def opened_at(expression: str, timezone: str, duration_seconds: int, now: float) -> float | None:
    """When the window that is open now was opened; None when none is open."""
    duration_seconds = min(duration_seconds, LONGEST_SECONDS)
    latest = _latest(expression, timezone, duration_seconds, int(now // 60))
    return latest if latest is not None and latest <= now < latest + duration_seconds else None


@lru_cache(maxsize=8192)
def _latest(expression: str, timezone: str, duration_seconds: int, minute: int) -> float | None:
    """The last opening up to this minute, as far back as it could still matter. Cron has no seconds, so minutes do."""
    cron, zone, end = parse(expression), ZoneInfo(timezone), minute * 60.0
    local = datetime.fromtimestamp(end, zone)
    for back in range(duration_seconds // 86_400 + 3):
        day = local.date() - timedelta(days=back)
        if day.month in cron.months and cron.match_day(day):
            opening = _last_opening(cron, zone, day, end, None if back else local.time())
            if opening is not None:
                return opening
    return None


def _last_opening(cron: CronSim, zone: ZoneInfo, day: date, end: float, until: time | None) -> float | None:
    """The last opening on a day on which `cron` fires, not after `end`, which is `until` on that day's clocks."""
    midnights = (datetime.combine(day + timedelta(days=further), time(), zone) for further in (0, 1))
    if len({midnight.utcoffset() for midnight in midnights}) > 1:  # the clocks change: a later time may come first
        return max((at for at in openings(cron, zone, day) if at <= end), default=None)
    hours, minutes = sorted(cron.hours, reverse=True), sorted(cron.minutes, reverse=True)
    for hour in hours:
        minute = next((each for each in minutes if until is None or (hour, each) <= (until.hour, until.minute)), None)
        if minute is not None:
            return _moment(zone, day, time(hour, minute))
    return None


def openings(cron: CronSim, zone: ZoneInfo, day: date) -> Iterator[float]:
    """Every opening of a day on which `cron` fires."""
    return (_moment(zone, day, time(hour, minute)) for hour in sorted(cron.hours) for minute in sorted(cron.minutes))


def _moment(zone: ZoneInfo, day: date, at: time) -> float:
    """fold=0: the first of two equal times; for a time in the gap, the offset before it, hence the moment after it."""
    return datetime.combine(day, at, zone).astimezone(UTC).timestamp()
