"""How long the oldest message has been waiting for a green thread, without anything in the message. Pure.

Queues are first in, first out. So what has started since a message arrived was there before it, and the oldest message
that waits is the first of those that have arrived and not started. The operator knows both counts at every sample: what
waits, and what workers have started. Unlike backlog / rate (Little's law) this also holds while nothing starts at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

MOST_ARRIVALS = 512
"""Arrivals that are told apart; with more, neighbours count as of the earlier one's time."""
MOST_ABSENT = 100
"""Workers without a sample whose counters are kept."""
_HALF = 0.5
"""Less than half a message is none: counts come as floats."""


class WaitClock:
    """Follows the backlog of one fleet. What waits already at the first update counts as having arrived then."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, float]] = deque()
        """When messages that wait arrived, and how many, in order."""
        self._started: dict[str, float] | None = None

    def update(self, waiting: float, started: Mapping[str, float], now: float) -> float:
        """Seconds that the oldest message has waited at `now` (Unix time). `started` are the workers' counters, by
        worker.
        """
        self._leave(self._newly_started(started))
        known = sum(count for _, count in self._arrivals)
        if waiting - known > _HALF:
            self._arrivals.append((now, waiting - known))
        elif known > waiting:
            self._leave(known - waiting)  # purged, expired, forwarded, or started by a worker that has gone since
        if len(self._arrivals) > MOST_ARRIVALS:
            self._halve()
        return max(0.0, now - self._arrivals[0][0]) if self._arrivals else 0.0

    def _newly_started(self, started: Mapping[str, float]) -> float:
        before = self._started
        # Those without a sample this time may come back: their counters are kept, the last of them.
        kept = {worker: count for worker, count in (before or {}).items() if worker not in started}
        self._started = {**dict(list(kept.items())[-MOST_ABSENT:]), **started}
        if before is None:
            return 0.0
        # A counter that is lower than before began anew; a worker that was not there before started from zero.
        return sum(
            count - before.get(worker, 0.0) if count >= before.get(worker, 0.0) else count
            for worker, count in started.items()
        )

    def _leave(self, count: float) -> None:
        while count > 0 and self._arrivals:
            at, there = self._arrivals.popleft()
            if there - count > _HALF:
                self._arrivals.appendleft((at, there - count))
            count -= there

    def _halve(self) -> None:
        pairs = list(self._arrivals)
        pairs += [(0.0, 0.0)] * (len(pairs) % 2)
        self._arrivals = deque((one[0], one[1] + two[1]) for one, two in zip(pairs[::2], pairs[1::2], strict=True))
