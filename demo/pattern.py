"""The load: what the producer publishes when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FEEDS = 4000
"""Different feeds, each with its own latency between 50 and 500 ms."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of the load; the producer understands the same fields (examples/feedhub/feedhub/plan.py)."""

    name: str
    title: str
    """For people: what happens."""
    seconds: float = 0.0
    rate: float = 0.0
    """Messages per second when it begins."""
    to_rate: float | None = None
    """Messages per second when it ends; None: the same."""
    burst: int = 0
    """Messages at once, at its beginning."""

    def for_producer(self) -> dict[str, Any]:
        """As the producer's `POST /runs` takes it."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "rate": self.rate,
            "to_rate": self.to_rate,
            "burst": self.burst,
        }

    def messages(self) -> int:
        """How many messages the phase publishes."""
        end = self.rate if self.to_rate is None else self.to_rate
        return self.burst + int(self.seconds * (self.rate + end) / 2)


BURST = "burst"
"""Name of the phase that everything is measured from."""


def full() -> tuple[Phase, ...]:
    """The demo. With the drain and the cooldown after it, about three minutes."""
    return _pattern(quiet_seconds=15, ramp_seconds=20, burst=20_000, last_seconds=20)


def short() -> tuple[Phase, ...]:
    """For CI: the same shape in about a minute."""
    return _pattern(quiet_seconds=8, ramp_seconds=8, burst=8_000, last_seconds=4)


SHORT_SCALING = {"maxWait": "20s", "cooldown": "10s"}
"""What the short pattern changes in the pool: a smaller burst must start sooner to need more than one worker, also
where one does twice what it does elsewhere (140 to 260 feeds a second were measured, on one machine)."""


def _pattern(*, quiet_seconds: float, ramp_seconds: float, burst: int, last_seconds: float) -> tuple[Phase, ...]:
    return (
        Phase("quiet", "a few feeds a second", seconds=quiet_seconds, rate=3),
        Phase("ramp", "more and more feeds", seconds=ramp_seconds, rate=3, to_rate=40),
        Phase(BURST, f"{burst:,} feeds at once", seconds=last_seconds, rate=3, burst=burst),
    )


def total(phases: tuple[Phase, ...]) -> int:
    """Messages of the whole pattern."""
    return sum(phase.messages() for phase in phases)
