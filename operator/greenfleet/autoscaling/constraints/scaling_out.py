"""When a scale-out buys nothing, or the user wants to see first whether the need lasts."""

from __future__ import annotations

from math import ceil

from .. import explain
from ..context import DecisionContext, workers_adjustment
from ..model import Adjustment, DecisionReason
from . import stabilization


def full_downstream(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No growth while more running tasks raise no throughput."""
    test = context.state.estimates.downstream
    if recommended <= context.current or context.current == 0 or test.ceiling is None:
        return None
    most = context.current
    if test.more_workers:  # a probe takes green threads first
        most = max(most, ceil(test.ceiling / context.spec.threads_max))
    held = test.held_until is not None
    text = explain.downstream(*test.gain) if held else explain.TESTING
    return (
        workers_adjustment(DecisionReason.SATURATED_DOWNSTREAM, recommended, most, text, test.held_until)
        if most < recommended
        else None
    )


def lasting_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """The user's scale-up stabilization: the least that was wanted during the window."""
    window = stabilization.up_window_seconds(context.spec)
    if recommended <= context.current or window <= 0:
        return None
    least = stabilization.first_within(context.state.low_needs, context.now, window)
    if least is None or least.value >= recommended:
        return None
    held = max(context.current, least.value)
    text = f"the need has not lasted for the {explain.seconds(window)} of scaleUp.stabilizationWindowSeconds"
    return workers_adjustment(DecisionReason.STABILIZATION, recommended, held, text, least.at + window)
