"""Schedules: windows that open at the times of a cron expression in a time zone and stay open for a duration.

A small evaluator of the classic five fields (names, ranges, lists, steps; day of month *or* day of week when both are
restricted, as in cron(8)). Daylight saving time as cron users expect it: a time that the clocks skip opens when they have
been put forward, a time that comes twice opens once, and the duration is elapsed time.

Why it is our own: every pool shares one event loop, so an evaluation needs a bound on its work whatever a spec says. The
libraries search for the next or last time until they find one: cronsim (2.8) for fifty years, croniter for as many. Here one
evaluation looks at the days of the longest duration (`LONGEST_SECONDS`), and at single times on one of them only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from .model import Schedule

LONGEST_SECONDS = 31 * 86_400
"""A window closes after so long at the latest, whatever its duration says."""

_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], start=1
    )
}
_DAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression."""

    minutes: tuple[int, ...]
    """Ascending, as hours are."""
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Day of month and day of week are both restricted: one of them is enough."""

    def matches(self, day: date) -> bool:
        """Whether the expression fires at all on this day."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_date or by_weekday) if self.either_day else (by_date and by_weekday)

    def last_time(self, until: time) -> time | None:
        """The last time of a day on which the expression fires that is not after `until`, to the minute."""
        hours = bisect_right(self.hours, until.hour)
        if not hours:
            return None
        if self.hours[hours - 1] < until.hour:
            return time(self.hours[hours - 1], self.minutes[-1])
        minutes = bisect_right(self.minutes, until.minute)
        if minutes:
            return time(until.hour, self.minutes[minutes - 1])
        return time(self.hours[hours - 2], self.minutes[-1]) if hours > 1 else None


@lru_cache(maxsize=1024)
def parse(expression: str) -> Cron:
    """The expression, or a ValueError that names the field, its value and what would be right."""
    fields = _NICKNAMES.get(expression.strip().lower(), expression).split()
    if len(fields) != 5:
        raise ValueError(f"cron {expression!r} has {len(fields)} fields; it needs five: minute hour day month weekday")
    minute, hour, day, month, weekday = fields
    weekdays = _field("weekday", weekday, 0, 7, _DAYS)
    days, months = _field("day", day, 1, 31, {}), _field("month", month, 1, 12, _MONTHS)
    either_day = not day.startswith("*") and not weekday.startswith("*")
    if not either_day and min(days) > max(_DAYS_IN_MONTH[number - 1] for number in months):
        raise ValueError(f"cron field day {day!r} is in none of the months ({month}), so that the window never opens")
    return Cron(
        minutes=tuple(sorted(_field("minute", minute, 0, 59, {}))),
        hours=tuple(sorted(_field("hour", hour, 0, 23, {}))),
        days=days,
        months=months,
        weekdays=frozenset(number % 7 for number in weekdays),
        either_day=either_day,
    )


def _field(name: str, text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    chosen: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step_text = part.partition("/")
        first_text, dash, last_text = ("*", "", "") if span == "*" else span.partition("-")
        try:
            first = low if first_text == "*" else names[first_text] if first_text in names else int(first_text)
            last = (
                (names[last_text] if last_text in names else int(last_text))
                if dash
                else high
                if first_text == "*" or slash
                else first
            )
            step = int(step_text) if slash else 1
        except ValueError:
            message = f"cron field {name} {text!r} is no number, range, list or step; write for example {low}-{high}/2"
            raise ValueError(message) from None
        if not low <= first <= last <= high or step < 1:
            raise ValueError(f"cron field {name} {text!r} is outside {low}-{high}")
        chosen.update(range(first, last + 1, step))
    return frozenset(chosen)


def opened_at(schedule: Schedule, now: float) -> float | None:
    """When the window that is open now was opened; None when none is open."""
    minute, duration_seconds = int(now // 60), min(schedule.duration_seconds, LONGEST_SECONDS)
    latest = _latest(schedule.cron, schedule.timezone, duration_seconds, minute)
    return latest if latest is not None and latest <= now < latest + duration_seconds else None


def is_open(schedule: Schedule, now: float) -> bool:
    """Whether the schedule raises the minimum now."""
    return opened_at(schedule, now) is not None


@lru_cache(maxsize=8192)
def _latest(expression: str, timezone: str, duration_seconds: int, minute: int) -> float | None:
    """The last opening up to this minute, as far back as it could still matter. Cron has no seconds, so minutes do."""
    cron, zone = parse(expression), ZoneInfo(timezone)
    end = minute * 60.0
    local = datetime.fromtimestamp(end, zone)
    for back in range(duration_seconds // 86400 + 3):
        day = local.date() - timedelta(days=back)
        if cron.matches(day):
            opening = _last_opening(cron, zone, day, end, local.time() if not back else time.max)
            if opening is not None:
                return opening
    return None


def _last_opening(cron: Cron, zone: ZoneInfo, day: date, end: float, until: time) -> float | None:
    """The last opening on a day on which `cron` fires, not after `end`, which is `until` on that day's clocks."""
    if _clocks_change(zone, day):  # then a later time may come first
        return max((at for at in _openings(cron, zone, day) if at <= end), default=None)
    found = cron.last_time(until)
    return None if found is None else _moment(zone, day, found)


def _clocks_change(zone: ZoneInfo, day: date) -> bool:
    midnights = (datetime.combine(day + timedelta(days=further), time(), zone) for further in (0, 1))
    return len({midnight.utcoffset() for midnight in midnights}) > 1


def _openings(cron: Cron, zone: ZoneInfo, day: date) -> Iterator[float]:
    for hour in cron.hours:
        for minute in cron.minutes:
            yield _moment(zone, day, time(hour, minute))


def _moment(zone: ZoneInfo, day: date, at: time) -> float:
    """fold=0: the first of two equal times; for a time in the gap, the offset before it, hence the moment after it."""
    return datetime.combine(day, at, zone).astimezone(UTC).timestamp()
