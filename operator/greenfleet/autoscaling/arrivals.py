"""How many messages arrived, how fast, and which of them still wait.

A rate and an amount are two views of the same thing, and the autoscaler needs both: a steady stream is a rate that workers must
keep up with, a burst is an amount with a deadline. Brokers count neither, so arrivals are what was started plus the growth
of what waits: `Δstarted + Δ(ready + reserved)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from .state import Arrival
from .tuning import DEFAULT, Tuning

RATE_WINDOW_SECONDS = 30.0
RATE_LEAST_SECONDS = 12.0
"""A rate is divided by no less: 25 messages within the first three seconds of looking are a small burst, not eight a second."""
DEFICIT_FORGOTTEN_SECONDS = 6.0
"""Queue and workers are scraped at different moments, so a message can be counted out before it is counted in. Such a
negative balance evens out within a scrape or two; one that lasts longer is a purge or an expiry and is forgotten."""
_SLICES = 16
_FINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """All messages that arrived before `until` and still wait (`amount`), the oldest of the youngest interval since `since`.

    They are due together: FIFO means that the first of this interval starts when everything before it has started.
    """

    since: float
    amount: float


def measure(since: float, until: float, change: float, deficit: float, deficit_at: float) -> tuple[float, float, float]:
    """Arrivals in `(since, until]`, and the negative balance that is carried on with the time at which it arose."""
    if until - deficit_at > DEFICIT_FORGOTTEN_SECONDS + (until - since):
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
    every = (*history, *new)
    kept: list[Arrival] = []
    newer = 0.0
    for arrival in reversed(every):
        needed = newer < unstarted or arrival.until > now - _FINE_SECONDS
        if not needed:
            break
        newer += arrival.amount
        kept.append(arrival)
    kept.reverse()
    return _merged(kept, now, max_wait_seconds)


def _merged(arrivals: list[Arrival], now: float, max_wait_seconds: float) -> tuple[Arrival, ...]:
    grain = max_wait_seconds / 32
    merged: list[Arrival] = []
    for arrival in arrivals:
        last = merged[-1] if merged else None
        if last is not None and arrival.amount == 0 == last.amount and last.since < last.until == arrival.since:
            merged[-1] = Arrival(last.since, arrival.until, 0.0)  # an idle pool remembers one silence, not thirty
            continue
        if last is not None and arrival.until < now - _FINE_SECONDS:
            late = arrival.until < now - max_wait_seconds
            if late or arrival.until - last.since <= grain:
                merged[-1] = Arrival(last.since, arrival.until, last.amount + arrival.amount)
                continue
        merged.append(arrival)
    return tuple(merged)


def present_rate(history: tuple[Arrival, ...], now: float, scrape_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """Arrivals per second as they are now: the rate of the window, unless the last seconds say that it has fallen since.

    Chance explains a recent rate that is up to two standard deviations of a Poisson count lower. A rise needs no such haste: what
    comes on top waits, and waiting messages have a deadline.
    """
    usual = rate_per_second(history, now, scrape_seconds, tuning=tuning)
    if usual <= 0 or not tuning.uses("falling-rate"):
        return usual
    seconds = max(RATE_LEAST_SECONDS, 3 * scrape_seconds)
    recent = rate_per_second(history, now, scrape_seconds, seconds, tuning)
    return min(usual, recent + 2 * sqrt(max(recent, 1 / seconds) / seconds))


def rate_per_second(
    history: tuple[Arrival, ...],
    now: float,
    scrape_seconds: float,
    window_seconds: float = RATE_WINDOW_SECONDS,
    tuning: Tuning = DEFAULT,
) -> float:
    """Arrivals per second over the window (three scrapes if that is longer), without the excess of single intervals.

    Each interval counts at most with the median rate plus four standard deviations of a Poisson count around it
    (winsorised): what stands out further is a burst, and the deadline takes care of bursts.
    """
    window_seconds = max(window_seconds, 3 * scrape_seconds)
    flows = [arrival for arrival in history if arrival.until > arrival.since and arrival.until > now - window_seconds]
    total = 0.0
    if not any(flow.amount for flow in flows):
        return total
    end = flows[-1].until  # what came after the last scrape is unknown, not nothing
    start = end - window_seconds
    median = _weighted_median(flows, start)
    for flow in flows:
        length = flow.until - flow.since
        usual = median * length
        inside = min(1.0, (flow.until - start) / length)
        most = usual + 4 * sqrt(usual + 1) if tuning.uses("capped-intervals") else flow.amount
        total += min(flow.amount, most) * inside
    return total / max(min(window_seconds, end - flows[0].since), RATE_LEAST_SECONDS, 3 * scrape_seconds)


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
    dues: list[Waiting] = []
    left = unstarted
    for arrival in reversed(history):
        if left <= 0:
            break
        if arrival.amount <= 0:
            continue
        mine = min(left, arrival.amount)
        dues.append(Waiting(arrival.until - (arrival.until - arrival.since) * mine / arrival.amount, left))
        left -= mine
    if left > 0:
        oldest = history[0].since if history else None
        if oldest is not None:
            dues.append(Waiting(oldest, left))
    dues.reverse()
    return tuple(dues)


def burst(history: tuple[Arrival, ...], now: float, young_seconds: float) -> float:
    """Messages of the last `young_seconds` beyond what the time before explains: the size of a burst that is still young."""
    before = tuple(arrival for arrival in history if arrival.until <= now - young_seconds)
    rate = rate_per_second(before, now - young_seconds, young_seconds)
    excess = 0.0
    for arrival in history[len(before) :]:
        usual = rate * (arrival.until - arrival.since)
        excess += max(0.0, arrival.amount - usual - 4 * sqrt(usual + 1))
    return excess
