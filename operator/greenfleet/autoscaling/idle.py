"""Idle pools: most pools of a large installation have nothing to do, and deciding that anew every tick is their main
cost.

A decision can be skipped when the same sample could only lead to the same one. Whoever skips samples keeps the last
one, and decides on it before the first that is different: then it is known until when nothing had arrived.
"""

from __future__ import annotations

from .model import Decision, DecisionReason, Mode, Sample, ScalingSpec
from .validation import stale_after_seconds


def is_idle(spec: ScalingSpec, sample: Sample, now: float) -> bool:
    """Whether this sample shows a pool without workers and messages, completely."""
    if sample.replicas or sample.pods or sample.workers or sample.problems:
        return False
    if len(sample.queues) != len(sample.expected_queues):
        return False
    oldest = now - stale_after_seconds(spec.scrape_interval_seconds)
    return all(
        queue.ready == 0 and queue.unacked == 0 and oldest <= queue.at <= now and queue.queue in sample.expected_queues
        for queue in sample.queues
    )


def can_skip(spec: ScalingSpec, decision: Decision) -> bool:
    """Whether nothing but a different sample can change this decision."""
    return (
        decision.replicas == 0
        and not decision.metrics_issues
        and decision.why.binding is DecisionReason.IDLE
        and spec.mode is not Mode.MANUAL
        and spec.replicas_min == 0
        and not spec.schedules
    )
