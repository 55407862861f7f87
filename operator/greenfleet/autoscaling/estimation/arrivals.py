"""How many messages arrived, how fast, and which of them still wait.

A steady stream is a rate that workers must keep up with, a burst is an amount with a deadline. Brokers count neither, so
arrivals are what was started plus the growth of what waits: `Δstarted + Δ(ready + reserved)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from ..tuning import DEFAULT, Tuning

_SLICES = 16
_GRAINS = 32
_FINE_SECONDS = 60.0
"""Resolution of the memory: it bounds its size, not the decisions."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Messages that arrived between two scrapes. Without length (`since == until`) how fast they came is unknown."""

    since: float
    until: float
    amount: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """All messages that arrived before some moment and still wait; the oldest of its youngest interval came at `since`."""

    since: float
    amount: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrivals of the last minute, and older ones that still wait."""

    history: tuple[Arrival, ...] = ()
    deficit: float = 0.0
    """Negative arrivals that are still to be set off: queue and workers are scraped at different moments."""
    deficit_at: float = 0.0

    def first(self, at: float, unstarted: float) -> Arrivals:
        """What waited when the memory began."""
        found = (Arrival(at, at, unstarted),) if unstarted > 0 else ()
        return Arrivals(found, 0.0, at)

    def update(
        self, since: float, until: float, change: float, unstarted: float, keep: tuple[float, float, float]
    ) -> Arrivals:
        """After one more interval with a balance of `change` messages; `keep` is (now, scrape, maxWait) in seconds."""
        now, scrape_seconds, max_wait_seconds = keep
        amount, deficit, at = measure(since, until, change, self.deficit, self.deficit_at, 3 * scrape_seconds)
        new = spread(since, until, amount, 2 * scrape_seconds)
        return Arrivals(remember(self.history, new, unstarted, now, max_wait_seconds), deficit, at)


def measure(  # noqa: PLR0917
    since: float, until: float, change: float, deficit: float, deficit_at: float, forgotten_seconds: float = 6.0
) -> tuple[float, float, float]:
    """Arrivals in `(since, until]`, and the negative balance that is carried on with the time at which it arose.

    Such a balance evens out within a scrape or two; one that lasts longer is a purge or an expiry and is forgotten.
    """
    if until - deficit_at > forgotten_seconds + (until - since):
        deficit = 0.0
    amount = change + deficit
    if amount >= 0:
        return amount, 0.0, until
    return 0.0, amount, deficit_at if deficit < 0 else until


def spread(since: float, until: float, amount: float, slice_seconds: float) -> tuple[Arrival, ...]:
    """One interval as several of about `slice_seconds`: after a gap nobody knows when in it the messages came."""
    count = max(1, min(_SLICES, round((until - since) / max(slice_seconds, 0.001))))
    step = (until - since) / count
    return tuple(Arrival(since + step * i, since + step * (i + 1), amount / count) for i in range(count))


def remember(
    history: tuple[Arrival, ...], new: Iterable[Arrival], unstarted: float, now: float, max_wait_seconds: float
) -> tuple[Arrival, ...]:
    """History with the new intervals, without what neither the rate nor a deadline can need any more.

    Bounded: intervals older than a minute are merged to 1/32 of the objective, those older than the objective to one.
    """
    kept: list[Arrival] = []
    newer = 0.0
    for arrival in reversed((*history, *new)):
        if newer >= unstarted and arrival.until <= now - _FINE_SECONDS:
            break
        newer += arrival.amount
        kept.append(arrival)
    kept.reverse()
    return _merged(kept, now, max_wait_seconds)


def _merged(arrivals: list[Arrival], now: float, max_wait_seconds: float) -> tuple[Arrival, ...]:
    merged: list[Arrival] = []
    for arrival in arrivals:
        last = merged[-1] if merged else None
        if last is not None and arrival.amount == 0 == last.amount and last.since < last.until == arrival.since:
            merged[-1] = Arrival(last.since, arrival.until, 0.0)  # an idle pool remembers one silence, not thirty
            continue
        if last is not None and arrival.until < now - _FINE_SECONDS:
            late = arrival.until < now - max_wait_seconds
            if late or arrival.until - last.since <= max_wait_seconds / _GRAINS:
                merged[-1] = Arrival(last.since, arrival.until, last.amount + arrival.amount)
                continue
        merged.append(arrival)
    return tuple(merged)


def present_rate(history: tuple[Arrival, ...], now: float, scrape_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """Arrivals per second now: the rate of the window, unless the last seconds say by more than chance that it has fallen.

    A rise needs no such haste: what comes on top waits, and waiting messages have a deadline.
    """
    usual = rate_per_second(history, now, scrape_seconds, tuning.rate_window_seconds, tuning)
    if usual <= 0 or not tuning.uses("falling-rate"):
        return usual
    seconds = max(tuning.rate_least_seconds, tuning.lasting_scrapes * scrape_seconds)
    recent = rate_per_second(history, now, scrape_seconds, seconds, tuning)
    return min(usual, recent + tuning.deviations * sqrt(max(recent, 1 / seconds) / seconds))


def rate_per_second(
    history: tuple[Arrival, ...],
    now: float,
    scrape_seconds: float,
    window_seconds: float = DEFAULT.rate_window_seconds,
    tuning: Tuning = DEFAULT,
) -> float:
    """Arrivals per second over the window (three scrapes if that is longer), without the excess of single intervals.

    Each interval counts for no more than chance around the median explains (winsorised): the deadline takes care of bursts.
    """
    window_seconds = max(window_seconds, tuning.lasting_scrapes * scrape_seconds)
    flows = [arrival for arrival in history if arrival.until > arrival.since and arrival.until > now - window_seconds]
    if not any(flow.amount for flow in flows):
        return 0.0
    end = flows[-1].until  # what came after the last scrape is unknown, not nothing
    start, total = end - window_seconds, 0.0
    median = _weighted_median(flows, start)
    for flow in flows:
        length = flow.until - flow.since
        most = by_chance(median * length, tuning) if tuning.uses("capped-intervals") else flow.amount
        total += min(flow.amount, most) * min(1.0, (flow.until - start) / length)
    least = max(tuning.rate_least_seconds, tuning.lasting_scrapes * scrape_seconds)
    return total / max(min(window_seconds, end - flows[0].since), least)


def by_chance(usual: float, tuning: Tuning) -> float:
    """The most messages that chance explains where `usual` are expected."""
    return usual + 2 * tuning.deviations * sqrt(usual + 1)


def _weighted_median(flows: list[Arrival], start: float) -> float:
    rates = sorted((flow.amount / (flow.until - flow.since), flow.until - max(start, flow.since)) for flow in flows)
    half = sum(length for _, length in rates) / 2
    for rate, length in rates:
        half -= length
        if half <= 0:
            return rate
    return rates[-1][0]


def waiting(history: tuple[Arrival, ...], unstarted: float) -> tuple[Waiting, ...]:
    """For every interval that still has unstarted messages, oldest first: what must have started for it to be through.

    The broker is first in, first out, so the unstarted messages are the youngest ones. In an interval of which only a part
    is left, the oldest message left is as young as that part allows.
    """
    found: list[Waiting] = []
    left = unstarted
    for arrival in reversed(history):
        if left <= 0:
            break
        if arrival.amount > 0:
            mine = min(left, arrival.amount)
            found.append(Waiting(arrival.until - (arrival.until - arrival.since) * mine / arrival.amount, left))
            left -= mine
    if left > 0 and history:
        found.append(Waiting(history[0].since, left))
    return tuple(reversed(found))


def burst(history: tuple[Arrival, ...], now: float, young_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """Messages of the last `young_seconds` beyond what the time before explains: the size of a burst that is still young."""
    before = tuple(arrival for arrival in history if arrival.until <= now - young_seconds)
    rate = rate_per_second(before, now - young_seconds, young_seconds, tuning=tuning)
    young = history[len(before) :]
    return sum(max(0.0, each.amount - by_chance(rate * (each.until - each.since), tuning)) for each in young)
