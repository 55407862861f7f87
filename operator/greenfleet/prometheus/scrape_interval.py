"""How often a Prometheus server really has samples, measured from their times. Pure.

`scrapeInterval` in the configuration is a claim. If samples come less often, they are too old too soon and pools hold
at times for a reason that nobody would guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

_TARGETS = 16
"""Targets of one answer that are looked at."""
_GAPS = 16
"""Newest answers whose gaps between two samples of a target count: one for each answer, since a busy machine is late
with all of its targets at once.
"""
_FEWEST_GAPS = 4
"""Fewer say nothing: a scrape may be missed."""
_TOLERANCE = 1.5
"""The usual gap may be longer than the claim by this factor before the claim is wrong."""


class ScrapeInterval:
    """The gaps between samples of one server, measured against the interval that the configuration claims."""

    def __init__(self, claimed_seconds: float) -> None:
        self.claimed_seconds = claimed_seconds
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._newest: dict[str, float] = {}

    def observe(self, answer: Mapping[str, tuple[float, float | None]]) -> None:
        """One answer. By target: time of the newest sample, and of the one before if the answer has it."""
        gaps = []
        for target, (at, before) in answer.items():
            known = self._newest.pop(target, None)
            self._newest[target] = at
            if known is None or at <= known:
                continue  # a new target, or nothing new of it
            gaps.append(at - (known if before is None else before))
        if gaps:
            self._gaps.append(median(gaps))
        while len(self._newest) > _TARGETS * 4:
            del self._newest[next(iter(self._newest))]

    def measured_seconds(self) -> float | None:
        """The usual gap. None: not known yet."""
        return median(self._gaps) if len(self._gaps) >= _FEWEST_GAPS else None

    def problem(self, server: str) -> str:
        """A sentence about a claim that is too short; "" if it is right or nothing is known."""
        measured = self.measured_seconds()
        if measured is None or measured <= _TOLERANCE * self.claimed_seconds:
            return ""
        usual = _usual(measured)
        return (
            f"Prometheus {server!r} has a sample of each target about every {usual:g} s, but "
            f"prometheus.servers.{server}.scrapeInterval of the "
            f"operator's configuration is {self.claimed_seconds:g} s, so samples count as too old: set it to "
            f"{usual:g}s, or let this server "
            "scrape more often."
        )


class NewestSamples:
    """Collects what `ScrapeInterval.observe` takes, series by series: one series per target, of a few targets."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, float | None]] = {}

    def take(self, labels: Mapping[str, str], at: float, before: float | None) -> None:
        """One series with the times of its two newest samples."""
        target = labels.get("instance", "")
        if target in self._found:
            if at > self._found[target][0]:
                self._found[target] = (at, before)
        elif len(self._found) < _TARGETS:
            self._found[target] = (at, before)

    def result(self) -> Mapping[str, tuple[float, float | None]]:
        """By target."""
        return self._found


_USUAL = (1, 2, 5, 10, 15, 20, 30, 60, 90, 120, 180, 300)


def _usual(seconds: float) -> float:
    """A round number near, so that a text which says it does not move."""
    nearest = min(_USUAL, key=lambda usual: abs(usual - seconds))
    return nearest if abs(nearest - seconds) <= nearest / 5 else round(seconds / 5) * 5
