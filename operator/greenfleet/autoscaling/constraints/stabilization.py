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


def down_window_seconds(spec: ScalingSpec, tuning: Tuning = DEFAULT) -> float:
    """How far a scale-in looks back: the user's window, else `scale_in_seconds`, never less than three scrapes."""
    window = spec.scale_down.stabilization_window_seconds
    return tuning.lasting(tuning.scale_in_seconds, spec.scrape_interval_seconds) if window is None else float(window)


def up_window_seconds(spec: ScalingSpec) -> float:
    """How long a higher need must have lasted: the user's window, else no time at all."""
    return float(spec.scale_up.stabilization_window_seconds or 0)
