"""Pools that sleep: most pools of a large installation have nothing to do, and deciding that anew every tick is its main cost.

A pool is at rest when the same look again could only say the same: no worker, no message, complete metrics, and nothing
in its spec or memory that depends on the time of day. Whoever skips looks keeps the last one, and lets the autoscaler see it before
the first one that is different: then the autoscaler knows until when nothing had arrived.
"""

from __future__ import annotations

from .model import Decision, DecisionReason, Mode, Sample, ScalingSpec
from .state import State
from .validation import stale_after_seconds


def is_idle(spec: ScalingSpec, sample: Sample, now: float) -> bool:
    """Whether this validate shows a pool without workers and messages, completely."""
    if sample.replicas or sample.pods or sample.workers or sample.problems:
        return False
    if len(sample.queues) != len(sample.expected_queues):
        return False
    oldest = now - stale_after_seconds(spec.scrape_interval_seconds)
    return all(
        queue.ready == 0 and queue.unacked == 0 and oldest <= queue.at <= now and queue.queue in sample.expected_queues
        for queue in sample.queues
    )


def can_skip(spec: ScalingSpec, state: State, decision: Decision) -> bool:
    """Whether nothing but a different validate can change this decision."""
    return (
        decision.replicas == 0
        and not decision.metrics_issues
        and decision.why.binding is DecisionReason.IDLE
        and spec.mode is not Mode.MANUAL
        and spec.replicas_min == 0
        and not spec.schedules
        and not state.cold_start_misses
    )
