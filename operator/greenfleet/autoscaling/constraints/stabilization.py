"""Recent needs, so that a scale-in goes to the most that was needed lately and not to what a lucky second needed."""

from __future__ import annotations

from ..model import ScalingSpec
from ..state import Need
from ..tuning import DEFAULT, Tuning


def remember(
    needs: tuple[Need, ...], at: float, value: int, keep_seconds: float, *, lowest: bool = False
) -> tuple[Need, ...]:
    """The falling (or rising) sequence after one more need: those that a later one covers are gone."""
    kept = [need for need in needs if need.at > at - keep_seconds]
    while kept and (kept[-1].value >= value if lowest else kept[-1].value <= value):
        kept.pop()
    return (*kept, Need(at, value))


def first_within(needs: tuple[Need, ...], now: float, seconds: float) -> Need | None:
    """The extreme of the last `seconds`: in such a sequence, the first that is young enough."""
    return next((need for need in needs if need.at > now - seconds), None)


def down_window_seconds(spec: ScalingSpec, startup_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """How far a scale-in looks back: the user's window, else one start-up within bounds, never less than three scrapes.

    Who keeps a worker for as long as a new one takes to start never pays more than twice the best (the ski-rental
    argument).
    """
    if spec.scale_down.stabilization_window_seconds is not None:
        return float(spec.scale_down.stabilization_window_seconds)
    within = min(tuning.long_seconds, max(tuning.scale_in_seconds, startup_seconds))
    return tuning.lasting(within, spec.scrape_interval_seconds)


def up_window_seconds(spec: ScalingSpec) -> float:
    """How long a higher need must have lasted: the user's window, else no time at all."""
    return float(spec.scale_up.stabilization_window_seconds or 0)
