"""Constraints of the work that is there: what waits, what runs, and what a full downstream can take."""

from __future__ import annotations

from math import ceil

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason
from .limits import at_least, at_most


def full_downstream(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No more workers while more running tasks raise no throughput; green threads first."""
    test, current = context.state.estimates.downstream, context.current
    if current == 0 or test.ceiling is None:
        return None
    most = max(current, ceil(test.ceiling / context.spec.threads_max) if test.more_workers else 0)
    reason, text = DecisionReason.SATURATED_DOWNSTREAM, explain.downstream(test)
    return at_most(most, recommended, reason, text, test.held_until)


def backlog(context: DecisionContext, recommended: int) -> Adjustment | None:
    """No worker leaves while more waits than two seconds of work."""
    seconds, waiting = context.tuning.backlog_seconds, context.observation.unstarted
    if waiting <= seconds * context.worker.rate * max(1, recommended):
        return None
    text = f"{explain.waits(waiting)}, which is more than {explain.seconds(seconds)} of work; no worker leaves"
    return at_least(context.current, recommended, DecisionReason.BACKLOG, text)


def long_tasks(context: DecisionContext, recommended: int) -> Adjustment | None:
    """Tasks that take longer than a drain keep their worker: what a drain cuts off has to run again."""
    if context.worker.runtime_seconds <= context.spec.drain_seconds:
        return None
    leaving = {pod.name for pod in context.observation.leaving}
    working = sum(1 for each in context.observation.workers if each.threads_busy > 0 and each.pod not in leaving)
    text = f"{explain.workers(working)} run tasks that take longer than a drain may"
    return at_least(min(context.current, working), recommended, DecisionReason.BACKLOG, text)
