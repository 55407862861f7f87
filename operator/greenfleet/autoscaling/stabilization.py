"""Recent needs, so that a scale-in goes to the most that was needed lately and not to what a lucky second needed."""

from __future__ import annotations

from .model import ScalingSpec
from .state import Need

STARTUPS = 1.0
"""Of the window, in start-ups: who keeps a worker for as long as a new one takes to start never pays more than twice the
best (the ski-rental argument), and a worker that is kept longer costs more than it can save."""


def with_high(needs: tuple[Need, ...], at: float, value: int, keep_seconds: float) -> tuple[Need, ...]:
    """The falling sequence after one more need: what an equal or higher later need covers is gone."""
    kept = [need for need in needs if need.at > at - keep_seconds]
    while kept and kept[-1].value <= value:
        kept.pop()
    return (*kept, Need(at, value))


def with_low(needs: tuple[Need, ...], at: float, value: int, keep_seconds: float) -> tuple[Need, ...]:
    """The rising sequence after one more need."""
    kept = [need for need in needs if need.at > at - keep_seconds]
    while kept and kept[-1].value >= value:
        kept.pop()
    return (*kept, Need(at, value))


def first_within(needs: tuple[Need, ...], now: float, seconds: float) -> Need | None:
    """The extreme of the last `seconds`: in such a sequence, the first that is young enough."""
    return next((need for need in needs if need.at > now - seconds), None)


def down_window_seconds(spec: ScalingSpec, startup_seconds: float) -> float:
    """How far a scale-in looks back: the user's window, else one start-up, between 10 and 60 s but never less than three scrapes.

    A worker that is given up too early costs its start-up time again; one that is kept too long costs just itself.
    """
    if spec.scale_down.stabilization_window_seconds is not None:
        return float(spec.scale_down.stabilization_window_seconds)
    return max(min(60.0, max(10.0, STARTUPS * startup_seconds)), 3 * spec.scrape_interval_seconds)


def up_window_seconds(spec: ScalingSpec) -> float:
    """How long a higher need must have lasted: the user's window, else no time at all."""
    return float(spec.scale_up.stabilization_window_seconds or 0)
