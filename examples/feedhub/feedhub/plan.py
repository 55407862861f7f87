"""What to publish when: phases, as data.

Pure: the producer asks how many messages are due and the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with a rate that changes linearly, or a burst: many messages at once."""

    name: str
    seconds: float = 0.0
    rate: float = 0.0
    """Messages per second when the phase begins."""
    to_rate: float | None = None
    """Messages per second when it ends; None: the same."""
    burst: int = 0
    """Messages at the very beginning, as fast as the broker takes them."""

    def due(self, elapsed_seconds: float) -> int:
        """How many messages of this phase should be out after so many seconds."""
        elapsed = min(max(elapsed_seconds, 0.0), self.seconds)
        end_rate = self.rate if self.to_rate is None else self.to_rate
        slope = (end_rate - self.rate) / self.seconds if self.seconds else 0.0
        return self.burst + int(self.rate * elapsed + slope * elapsed * elapsed / 2)

    def total(self) -> int:
        """How many messages the whole phase publishes."""
        return self.due(self.seconds)


def parse(phases: Iterable[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """Phases from JSON. An unknown field is refused: a typing error must not turn into another load."""
    return tuple(Phase(**phase) for phase in phases)
