"""From the `Sample` of one role of a pool to its `Decision`. It alone writes `Autoscaling`, and knows no API server and
no Prometheus.

An idle fleet is decided on once in a while only: while samples show nothing new, the autoscaler would decide the same
again. The last skipped sample is given to it before the next decision, so that its estimates end where they would have
ended.
"""

from __future__ import annotations

import math
import random

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling import decide, initial_state
from greenfleet.autoscaling.idle import can_skip, is_idle
from greenfleet.autoscaling.model import Decision, Sample, ScalingSpec
from greenfleet.controller.pods import scaling_spec
from greenfleet.controller.registry import Fleet, Record
from greenfleet.controller.sampling import FleetSample
from greenfleet.manifests.names import Role
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.status.learned import learned_from_status
from greenfleet.status.load import Load

IDLE_SECONDS = 20.0
"""An idle pool is polled every tick, and decided on at least so often."""


class Decider:
    """Decides, remembers why, and says it in the operator's metrics."""

    def __init__(self, metrics: OperatorMetrics) -> None:
        self._metrics = metrics

    def decide(
        self,
        record: Record,
        pool: GreenWorkerPool,
        fleet: Fleet,
        found: FleetSample,
        *,
        now: float,
        scrape_seconds: float,
    ) -> Decision | None:
        """None where an idle fleet is still idle. *now* is Unix time."""
        spec, sample, own = _scaling_spec(pool, fleet, scrape_seconds), found.sample, fleet.autoscaling
        if now < own.idle_until and own.state is not None and is_idle(spec, sample, now):
            own.skipped = (sample, now)
            self._metrics.observe_idle(record.key, fleet.role, now)
            return None
        if own.skipped is not None and own.state is not None:
            _, own.state = decide(spec, own.state, *own.skipped)
        own.skipped = None
        if own.state is None:
            learned = learned_from_status(record.status if fleet.role is Role.EVENTLET else {})
            own.state = initial_state(learned, now)
        decision, own.state = decide(spec, own.state, sample, now)
        idle = can_skip(spec, decision) and is_idle(spec, sample, now)
        # Spread, so that a thousand idle pools are not all decided on in the same tick.
        own.idle_until = now + random.uniform(IDLE_SECONDS / 2, IDLE_SECONDS) if idle else -math.inf
        if own.decision is None or _what_is_said(own.decision) != _what_is_said(decision):
            own.history.append(decision.why)
        own.decision = decision
        if decision.metrics_issues:
            own.last_missing = (now, decision.metrics_issues)
        self._observe(record, fleet, decision, sample, spec=spec, now=now)
        return decision

    def decide_anew(self, fleet: Fleet) -> None:
        """At the next tick, also if the fleet is idle: what was decided was not carried out."""
        fleet.autoscaling.idle_until = -math.inf

    def _observe(
        self, record: Record, fleet: Fleet, decision: Decision, sample: Sample, *, spec: ScalingSpec, now: float
    ) -> None:
        ready = sum(pod.ready_since is not None and not pod.terminating for pod in sample.pods)
        self._metrics.observe_decision(record.key, fleet.role, decision, ready, now)
        fleet.autoscaling.load = None
        if not decision.metrics_issues:
            waiting = _backlog(sample)
            waited = fleet.autoscaling.wait_clock.update(waiting, {one.pod: one.started for one in sample.workers}, now)
            fleet.autoscaling.load = Load(waiting, waited)
            self._metrics.observe_wait(record.key, fleet.role, waited, spec.max_wait_seconds)


def _scaling_spec(pool: GreenWorkerPool, fleet: Fleet, scrape_seconds: float) -> ScalingSpec:
    own = fleet.autoscaling
    if own.scaling_spec is None or own.scaling_spec[0] is not pool:
        own.scaling_spec = (pool, scaling_spec(pool, fleet.role, scrape_seconds))
        own.idle_until = -math.inf
    return own.scaling_spec[1]


def _what_is_said(decision: Decision) -> tuple[object, ...]:
    return decision.replicas, decision.threads, decision.why.binding, decision.metrics_issues


def _backlog(sample: Sample) -> float:
    """Messages that wait for a green thread, in the broker or inside a worker."""
    depths: dict[str, float] = {}
    for queue in sample.queues:
        depths[queue.queue] = max(queue.ready, depths.get(queue.queue, 0.0))
    return sum(depths.values()) + sum(worker.reserved for worker in sample.workers)
