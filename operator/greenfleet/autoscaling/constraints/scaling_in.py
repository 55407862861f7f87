"""When a scale-in would be regretted: how fast the fleet scales in is decided here, and by `stabilization.down_window_seconds`."""

from __future__ import annotations

from .. import explain
from ..context import DecisionContext, workers_adjustment
from ..model import Adjustment, DecisionReason
from . import stabilization


def first_window(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Never in the first window after a restart or after missing metrics: there is no past yet to look back on."""
    if recommended >= context.current or context.now >= context.first_window_ends_at:
        return None
    text = "metrics have been complete for too short a time to let workers go"
    until = context.first_window_ends_at
    return workers_adjustment(DecisionReason.FIRST_WINDOW, recommended, context.current, text, until)


def backlog(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Only when nothing waits beyond two seconds of work."""
    seconds, waiting = context.tuning.backlog_seconds, context.observation.unstarted
    if recommended >= context.current or waiting <= seconds * context.worker_rate * max(1, recommended):
        return None
    text = f"{explain.waits(waiting)}, which is more than {explain.seconds(seconds)} of work; no worker leaves"
    return workers_adjustment(DecisionReason.BACKLOG, recommended, context.current, text)


def young_burst(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Never while a burst is young: bursts come in company."""
    if recommended >= context.current or context.burst <= context.tuning.backlog_seconds * context.worker_rate:
        return None
    young = explain.seconds(context.tuning.scale_in_seconds)
    text = f"a burst of {explain.count(context.burst, 'message')} is younger than {young}"
    return workers_adjustment(DecisionReason.BURST_YOUNG, recommended, context.current, text)


def long_tasks(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Tasks that take longer than a drain keep their worker: what a drain cuts off has to run again."""
    if recommended >= context.current or context.worker.runtime_seconds <= context.spec.drain_seconds:
        return None
    leaving = {pod.name for pod in context.observation.leaving}
    working = sum(1 for each in context.observation.workers if each.threads_busy > 0 and each.pod not in leaving)
    if recommended >= working:
        return None
    text = f"{explain.count(working, 'worker')} run tasks that take longer than a drain may"
    return workers_adjustment(DecisionReason.BACKLOG, recommended, min(context.current, working), text)


def recent_need(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Down to the most that was needed lately, not to what a lucky second needed."""
    if recommended >= context.current:
        return None
    window = context.down_window_seconds
    most = stabilization.first_within(context.state.high_needs, context.now, window)
    if most is None or most.value <= recommended:
        return None
    held = min(context.current, most.value)
    text = f"the load asked for {explain.count(held, 'worker')} within the last {explain.seconds(window)}"
    return workers_adjustment(DecisionReason.STABILIZATION, recommended, held, text, most.at + window)
