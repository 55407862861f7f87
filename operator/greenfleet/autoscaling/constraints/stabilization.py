"""How fast the fleet scales in: to the most that was needed lately, and not to what a lucky second needed."""

from __future__ import annotations

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason, ScalingSpec
from ..state import Need
from ..tuning import DEFAULT, Tuning
from .limits import at_least, at_most


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


def scale_out(context: DecisionContext, recommended: int) -> Adjustment | None:
    """The user's scale-up stabilization: to the least that was wanted during the window."""
    window = up_window_seconds(context.spec)
    if (least := first_within(context.state.low_needs, context.now, window)) is None:
        return None
    text = f"the need has not lasted for the {explain.seconds(window)} of scaleUp.stabilizationWindowSeconds"
    held = max(context.current, least.value)
    return at_most(held, recommended, DecisionReason.STABILIZATION, text, least.at + window)


def scale_in(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Down to the most that was needed lately; what is there when metrics begin counts as needed."""
    window = down_window_seconds(context.spec, context.tuning)
    if (most := first_within(context.state.high_needs, context.now, window)) is None:
        return None
    held = min(context.current, most.value)
    text = (
        f"{explain.workers(held)} were needed, or not known to be too many, within the last {explain.seconds(window)}"
    )
    return at_least(held, recommended, DecisionReason.STABILIZATION, text, most.at + window)
