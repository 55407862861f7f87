"""Rate limits of tasks that wait for a thread. Pure: time is an argument. Standard library only."""

from __future__ import annotations


class StartRate:
    """At most so many starts a second: each has its due time, one interval after the one before.

    A start may be half an interval early, because the timer that brought it may have been late the last time; the next
    one is due at the same moment all the same, so that the rate holds. It is the generic cell rate algorithm (ITU-T
    I.371).
    """

    def __init__(self, per_second: float) -> None:
        self.interval_seconds = 1.0 / per_second
        self.due = float("-inf")

    def take(self, now: float) -> bool:
        """True if one may start *now* (seconds of any clock that does not go back), and it has started then."""
        if self.seconds(now):
            return False
        self.due = max(self.due, now) + self.interval_seconds
        return True

    def seconds(self, now: float) -> float:
        """Until one may start; 0 if it may now."""
        return max(0.0, self.due - self.interval_seconds / 2 - now)
