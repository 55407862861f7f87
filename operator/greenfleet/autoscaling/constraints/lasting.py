"""What keeps a fleet from following every second: `stabilization.down_window_seconds` says how fast it scales in."""

from __future__ import annotations

from math import ceil

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason
from . import stabilization


def full_downstream(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No more workers while more running tasks raise no throughput."""
    test = context.state.estimates.downstream
    if recommended <= context.current or context.current == 0 or test.ceiling is None:
        return None
    # a probe takes green threads first
    probed = ceil(test.ceiling / context.spec.threads_max) if test.more_workers else 0
    most = max(context.current, probed)
    if most >= recommended:
        return None
    text = explain.downstream(*test.gain) if test.held_until is not None else explain.TESTING
    reason = DecisionReason.SATURATED_DOWNSTREAM
    return Adjustment(reason, "workers", recommended, most, text, test.held_until)


def lasting_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """The user's scale-up stabilization: the least that was wanted during the window."""
    window = stabilization.up_window_seconds(context.spec)
    least = stabilization.first_within(context.state.low_needs, context.now, window)
    if recommended <= context.current or least is None or least.value >= recommended:
        return None
    held = max(context.current, least.value)
    text = f"the need has not lasted for the {explain.seconds(window)} of scaleUp.stabilizationWindowSeconds"
    return Adjustment(DecisionReason.STABILIZATION, "workers", recommended, held, text, least.at + window)


def backlog(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No worker leaves while more waits than two seconds of work."""
    seconds, waiting = context.tuning.backlog_seconds, context.observation.unstarted
    if recommended >= context.current or waiting <= seconds * context.worker.rate * max(1, recommended):
        return None
    text = f"{explain.waits(waiting)}, which is more than {explain.seconds(seconds)} of work; no worker leaves"
    return Adjustment(DecisionReason.BACKLOG, "workers", recommended, context.current, text)


def long_tasks(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Tasks that take longer than a drain keep their worker: what a drain cuts off has to run again."""
    if recommended >= context.current or context.worker.runtime_seconds <= context.spec.drain_seconds:
        return None
    leaving = {pod.name for pod in context.observation.leaving}
    working = sum(1 for each in context.observation.workers if each.threads_busy > 0 and each.pod not in leaving)
    if recommended >= working:
        return None
    text = f"{explain.count(working, 'worker')} run tasks that take longer than a drain may"
    return Adjustment(DecisionReason.BACKLOG, "workers", recommended, min(context.current, working), text)


def recent_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Down to the most that was needed lately; what is there when metrics begin counts as needed."""
    window = context.down_window_seconds
    most = stabilization.first_within(context.state.high_needs, context.now, window)
    if recommended >= context.current or most is None or most.value <= recommended:
        return None
    held = min(context.current, most.value)
    text = f"{explain.count(held, 'worker')} were needed, or not known to be too many, within the last {explain.seconds(window)}"
    return Adjustment(DecisionReason.STABILIZATION, "workers", recommended, held, text, most.at + window)
