"""When the autoscaler does not follow the load at once: growth that buys nothing, and scale-ins that would be regretted."""

from __future__ import annotations

from math import ceil

from . import explain, scalability, stabilization
from .context import DecisionContext, workers_adjustment
from .model import Adjustment, DecisionReason

BACKLOG_SECONDS = 2.0
"""Work of so many seconds may wait when workers leave."""
YOUNG_BURST_SECONDS = 10.0


def growth_that_brings_nothing(context: DecisionContext, wanted: int) -> Adjustment | None:
    """No growth while added capacity raises no throughput."""
    if wanted <= context.current or context.current == 0:
        return None
    experiment = context.state.scalability
    if experiment.frozen_until is not None and experiment.gain is not None:
        grown, gained = experiment.gain
        text = (
            f"{(grown - 1):.0%} more running tasks changed the throughput by {(gained - 1):+.0%} only: something downstream "
            f"is saturated, and more workers would only make it slower"
        )
        return workers_adjustment(
            DecisionReason.SATURATED_DOWNSTREAM, wanted, context.current, text, experiment.frozen_until
        )
    if experiment.rung is not None:
        until = scalability.judged_at(experiment)
        return workers_adjustment(
            DecisionReason.SATURATED_DOWNSTREAM, wanted, context.current, scalability.UNPROVEN, until
        )
    if not experiment.probing:
        return None
    threads_first = scalability.PROBE * experiment.frozen_threads <= context.spec.threads_max
    most = max(context.current, 0 if threads_first else ceil(scalability.PROBE * experiment.frozen_workers))
    if wanted <= most:
        return None
    text = f"{explain.count(most, 'worker')} first: the last growth brought no throughput"
    return workers_adjustment(DecisionReason.SATURATED_DOWNSTREAM, wanted, most, text)


def growth_that_has_not_lasted(context: DecisionContext, wanted: int) -> Adjustment | None:
    """The user's scale-up stabilization: the least that was wanted during the window."""
    window = stabilization.up_window_seconds(context.spec)
    if wanted <= context.current or window <= 0:
        return None
    least = stabilization.first_within(context.state.low_needs, context.now, window)
    if least is None or least.value >= wanted:
        return None
    held = max(context.current, least.value)
    text = f"the need has not lasted for the {explain.seconds(window)} of scaleUp.stabilizationWindowSeconds"
    return workers_adjustment(DecisionReason.STABILIZATION, wanted, held, text, least.at + window)


def scale_in_after_a_gap(context: DecisionContext, wanted: int) -> Adjustment | None:
    """Never in the first window after a restart or after blindness: there is no past yet to look back on."""
    if wanted >= context.current or not context.in_first_window:
        return None
    text = "metrics have been complete for too short a time to let workers go"
    return workers_adjustment(DecisionReason.FIRST_WINDOW, wanted, context.current, text, context.first_window_ends_at)


def scale_in_with_backlog(context: DecisionContext, wanted: int) -> Adjustment | None:
    """Only when nothing waits beyond two seconds of work."""
    if wanted >= context.current:
        return None
    work = BACKLOG_SECONDS * context.worker.rate(context.worker.safe_threads) * max(1, wanted)
    if context.view.unstarted <= work:
        return None
    text = f"{explain.waits(context.view.unstarted)}, which is more than {explain.seconds(BACKLOG_SECONDS)} of work; no worker leaves"
    return workers_adjustment(DecisionReason.BACKLOG, wanted, context.current, text)


def scale_in_after_a_burst(context: DecisionContext, wanted: int) -> Adjustment | None:
    """Never while a burst is young: bursts come in company."""
    if wanted >= context.current or context.burst <= 0:
        return None
    text = (
        f"a burst of {explain.count(context.burst, 'message')} is younger than {explain.seconds(YOUNG_BURST_SECONDS)}"
    )
    return workers_adjustment(DecisionReason.BURST_YOUNG, wanted, context.current, text)


def scale_in_of_long_tasks(context: DecisionContext, wanted: int) -> Adjustment | None:
    """Tasks that take longer than a drain keep their worker: what a drain cuts off has to run again."""
    if wanted >= context.current or context.worker.runtime_seconds <= context.spec.drain_seconds:
        return None
    leaving = {pod.name for pod in context.view.leaving}
    working = sum(1 for sample in context.view.workers if sample.threads_busy > 0 and sample.pod not in leaving)
    if wanted >= working:
        return None
    held = min(context.current, working)
    text = f"{explain.count(working, 'worker')} run tasks that take longer than a drain may"
    return workers_adjustment(DecisionReason.BACKLOG, wanted, held, text)


def scale_in_too_early(context: DecisionContext, wanted: int) -> Adjustment | None:
    """Down to the most that was needed lately, not to what a lucky second needed."""
    if wanted >= context.current:
        return None
    window = context.down_window_seconds
    most = stabilization.first_within(context.state.high_needs, context.now, window)
    if most is None or most.value <= wanted:
        return None
    held = min(context.current, most.value)
    text = f"the load asked for {explain.count(held, 'worker')} within the last {explain.seconds(window)}"
    return workers_adjustment(DecisionReason.STABILIZATION, wanted, held, text, most.at + window)
