"""How much waits, as the status says it: rounded so far that a steady load writes nothing. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import floor, log10

_STEPS = (1, 2, 5, 10)
_AGES = (
    *((0, "0s"), (1, "1s"), (2, "2s"), (5, "5s"), (10, "10s"), (20, "20s"), (30, "30s")),
    *((60, "1m"), (120, "2m"), (300, "5m"), (600, "10m"), (1200, "20m"), (1800, "30m")),
    *((3600, "1h"), (7200, "2h"), (18000, "5h"), (43200, "12h"), (86400, "24h"), (172800, "48h")),
)
"""Seconds from which on a wait is called so."""

FIELDS = ("backlog", "oldestMessageAge")
"""Of the status; they move with every sample."""


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for one fleet."""

    backlog: float
    """Messages that have not started."""
    oldest_seconds: float
    """How long the oldest of them has waited."""


def load_status(load: Load) -> dict[str, int | str]:
    """The fields of the status."""
    return {"backlog": rounded(load.backlog), "oldestMessageAge": age(load.oldest_seconds)}


def rounded(count: float) -> int:
    """To 1, 2 or 5 times a power of ten; 0 is no message at all."""
    if count < 1:
        return int(count > 0)
    unit = 10 ** floor(log10(count))
    return int(unit * min(_STEPS, key=lambda step: abs(count - step * unit)))


def age(seconds: float) -> str:
    """The longest of the steps that has passed."""
    return _AGES[max(0, bisect_right([least for least, _ in _AGES], seconds) - 1)][1]
