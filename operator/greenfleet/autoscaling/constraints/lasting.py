"""What keeps a fleet from following every second: `stabilization.down_window_seconds` says how fast it scales in."""

from __future__ import annotations

from math import ceil

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason
from . import stabilization


def full_downstream(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No more workers while more running tasks raise no throughput."""
    test, current = context.state.estimates.downstream, context.current
    if current == 0 or test.ceiling is None:
        return None
    # a probe takes green threads first
    most = max(current, ceil(test.ceiling / context.spec.threads_max) if test.more_workers else 0)
    if recommended <= most:
        return None
    reason, text = DecisionReason.SATURATED_DOWNSTREAM, explain.downstream(test.gain, held=test.held_until is not None)
    return Adjustment(reason, "workers", recommended, most, text, test.held_until)


def lasting_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """The user's scale-up stabilization: the least that was wanted during the window."""
    window = stabilization.up_window_seconds(context.spec)
    least = stabilization.first_within(context.state.low_needs, context.now, window)
    held = max(context.current, least.value) if least is not None else recommended
    if least is None or recommended <= held:
        return None
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
    leaving = {pod.name for pod in context.observation.leaving}
    working = sum(1 for each in context.observation.workers if each.threads_busy > 0 and each.pod not in leaving)
    held = min(context.current, working)
    if recommended >= held or context.worker.runtime_seconds <= context.spec.drain_seconds:
        return None
    text = f"{explain.workers(working)} run tasks that take longer than a drain may"
    return Adjustment(DecisionReason.BACKLOG, "workers", recommended, held, text)


def recent_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Down to the most that was needed lately; what is there when metrics begin counts as needed."""
    window = stabilization.down_window_seconds(context.spec, context.tuning)
    most = stabilization.first_within(context.state.high_needs, context.now, window)
    held = min(context.current, most.value) if most is not None else recommended
    if most is None or recommended >= held:
        return None
    text = (
        f"{explain.workers(held)} were needed, or not known to be too many, within the last {explain.seconds(window)}"
    )
    return Adjustment(DecisionReason.STABILIZATION, "workers", recommended, held, text, most.at + window)
