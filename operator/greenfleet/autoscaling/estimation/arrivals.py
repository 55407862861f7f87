"""How many messages arrived, how fast, and which of them still wait.

A steady stream is a rate that workers must keep up with, a burst is an amount with a deadline. Brokers count neither,
so arrivals are what was started plus the growth of what waits: `Δstarted + Δ(ready + reserved)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from ..tuning import DEFAULT, Tuning


@dataclass(frozen=True, slots=True)
class Arrival:
    """Messages that arrived between two scrapes. Without length (`since == until`) how fast they came is unknown."""

    since: float
    until: float
    amount: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


@dataclass(frozen=True, slots=True)
class Waiting:
    """All messages that arrived before some moment and still wait; the oldest of its youngest interval came `since`."""

    since: float
    amount: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrivals of the last minute, and older ones that still wait."""

    history: tuple[Arrival, ...] = ()
    deficit: float = 0.0
    """Negative arrivals that are still to be set off: queue and workers are scraped at different moments."""
    deficit_at: float = 0.0

    def update(self, new: Arrival, unstarted: float, scrape_seconds: float, tuning: Tuning = DEFAULT) -> Arrivals:
        """After one more interval, whose amount is the growth of started and waiting messages.

        A negative balance evens out within a scrape or two; one that lasts longer is a purge, and is forgotten.
        """
        lasts = new.until - self.deficit_at > tuning.lasting_scrapes * scrape_seconds + new.seconds
        amount = new.amount if lasts else new.amount + self.deficit
        begun = self.deficit_at if amount < 0 and self.deficit < 0 and not lasts else new.until
        window = tuning.lasting(tuning.rate_window_seconds, scrape_seconds)
        history = _remember(self.history, replace(new, amount=max(0.0, amount)), unstarted, window, tuning)
        return Arrivals(history, min(0.0, amount), begun)

    def rate(self, scrape_seconds: float, tuning: Tuning = DEFAULT) -> float:
        """Arrivals per second over the window."""
        return self._rate(tuning.lasting(tuning.rate_window_seconds, scrape_seconds), scrape_seconds, tuning)

    def present_rate(self, scrape_seconds: float, tuning: Tuning = DEFAULT) -> float:
        """The same, unless the last seconds say by more than chance that it has fallen.

        A rise needs no such haste: what comes on top waits, and waiting messages have a deadline.
        """
        usual, seconds = self.rate(scrape_seconds, tuning), tuning.lasting(tuning.rate_least_seconds, scrape_seconds)
        recent = self._rate(seconds, scrape_seconds, tuning) if tuning.uses("falling-rate") else usual
        return min(usual, recent + tuning.deviations * sqrt(max(recent, 1 / seconds) / seconds))

    def _rate(self, window: float, scrape_seconds: float, tuning: Tuning) -> float:
        """What came after the last scrape is unknown."""
        end = self.history[-1].until if self.history else 0.0
        flows = [flow for flow in self.history if flow.seconds > 0 and flow.until > end - window]
        if not flows:
            return 0.0
        total = sum(flow.amount * min(1.0, (flow.until - end + window) / flow.seconds) for flow in flows)
        least = tuning.lasting(tuning.rate_least_seconds, scrape_seconds)
        return total / max(end - max(end - window, flows[0].since), least)

    def waiting(self, unstarted: float) -> tuple[Waiting, ...]:
        """For every interval that still has unstarted messages, oldest first: what must start for it to be through.

        The broker is first in, first out, so the unstarted messages are the youngest ones. In an interval of which only
        a part is left, the oldest message left is as young as that part allows.
        """
        found: list[Waiting] = []
        left = unstarted
        for arrival in reversed(self.history):
            if left > 0 < arrival.amount:
                mine = min(left, arrival.amount)
                found.append(Waiting(arrival.until - arrival.seconds * mine / arrival.amount, left))
                left -= mine
        if left > 0 and self.history:
            found.append(Waiting(self.history[0].since, left))
        return tuple(reversed(found))


def _remember(
    history: tuple[Arrival, ...], new: Arrival, unstarted: float, window_seconds: float, tuning: Tuning
) -> tuple[Arrival, ...]:
    """With one more interval, without what neither the rate nor a deadline can need any more.

    Bounded: an idle pool remembers one silence, and of too many intervals the older half is kept in pairs.
    """
    last = history[-1] if history else None
    if last is not None and new.amount == 0 == last.amount and last.since < last.until == new.since:
        history, new = history[:-1], replace(last, until=new.until)
    kept: list[Arrival] = []
    newer = 0.0
    for arrival in (new, *reversed(history)):
        if newer >= unstarted and arrival.until <= new.until - 2 * window_seconds:
            break
        newer += arrival.amount
        kept.append(arrival)
    kept.reverse()
    if len(kept) > tuning.most_arrivals:
        old = kept[: tuning.most_arrivals // 2]
        pairs = zip(old[::2], old[1::2], strict=True)
        kept[: len(old)] = [Arrival(one.since, two.until, one.amount + two.amount) for one, two in pairs]
    return tuple(kept)
