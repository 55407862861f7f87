"""From the API server's pods and the pool's spec to the autoscaler's own values. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from greenfleet.api import GreenWorkerPool, duration_seconds
from greenfleet.api.pool import MAX_GREEN_THREADS, Prefork, ScalingRules
from greenfleet.autoscaling.model import Mode, Pod, Policy, ScalingSpec, Schedule
from greenfleet.autoscaling.model import ScalingRules as Rules
from greenfleet.manifests.names import THREADS_ANNOTATION, Role
from greenfleet.manifests.worker import cpu_limit_cores, hub_cores, memory_limit_bytes
from greenfleet.status.spec_checks import schedule_problem
from greenfleet.status.times import unix_time

_Object = dict[str, Any]


def scaling_pod(pod: _Object) -> Pod:
    """One pod as the autoscaler sees it."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    ready_since = None
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True":
            ready_since = unix_time(condition["lastTransitionTime"])
    return Pod(
        name=metadata["name"],
        created_at=unix_time(metadata["creationTimestamp"]),
        ready_since=ready_since,
        terminating="deletionTimestamp" in metadata,
        threads=_threads((metadata.get("annotations") or {}).get(THREADS_ANNOTATION, "")),
    )


def _threads(text: str) -> int | None:
    """What an annotation says of green threads: None where nobody who knows has written it."""
    known = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_GREEN_THREADS))
    return int(text) if known else None


def is_finished(pod: _Object) -> bool:
    """Whether nothing of the pod runs any more: evicted pods linger in the API, deleted ones for a moment after their
    end.
    """
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return True
    states = [container.get("state") or {} for container in status.get("containerStatuses", ())]
    return "deletionTimestamp" in pod["metadata"] and bool(states) and all("terminated" in state for state in states)


def scaling_spec(pool: GreenWorkerPool, role: Role, scrape_interval_seconds: float) -> ScalingSpec:
    """What the user asked of one fleet, in the autoscaler's own units."""
    spec, scaling = pool.spec, pool.spec.scaling
    eventlet = ScalingSpec(
        mode=Mode(scaling.mode),
        pause_in=scaling.pause in ("In", "All"),
        pause_out=scaling.pause in ("Out", "All"),
        max_wait_seconds=duration_seconds(scaling.max_wait),
        activation_threshold=scaling.activation_threshold,
        drain_seconds=duration_seconds(spec.drain.timeout),
        cooldown_seconds=duration_seconds(scaling.cooldown),
        scale_up=_rules(scaling.behavior.scale_up),
        scale_down=_rules(scaling.behavior.scale_down),
        missing_metrics_floor=scaling.on_missing_metrics.floor
        if scaling.on_missing_metrics.policy == "Floor"
        else None,
        scrape_interval_seconds=scrape_interval_seconds,
        threads_min=spec.green_threads.min,
        threads_max=spec.green_threads.max,
        threads_start=spec.green_threads.first,
        threads_total=spec.green_threads.total,
        replicas_min=spec.replicas.min,
        replicas_max=spec.replicas.max,
        manual_replicas=spec.manual_replicas,
        schedules=tuple(
            Schedule(window.cron, round(duration_seconds(window.duration)), window.timezone, window.min_replicas)
            for window in scaling.schedules
            if schedule_problem(window) is None
        ),
        cpu_limit_cores=hub_cores(spec.worker.resources),
        memory_limit_bytes=memory_limit_bytes(spec.worker.resources),
    )
    if role is Role.EVENTLET or spec.prefork is None:
        return eventlet
    return _prefork(eventlet, spec.prefork)


def _prefork(eventlet: ScalingSpec, prefork: Prefork) -> ScalingSpec:
    """The companion: its processes are its green threads, and only its workers scale.

    What speaks of the Eventlet fleet alone does not apply: `greenThreads.total`, the schedules' `minReplicas`,
    `onMissingMetrics.floor`, and `manualReplicas` (the companion stays automatic).
    """
    processes, cores = prefork.processes, cpu_limit_cores(prefork.resources)
    return replace(
        eventlet,
        mode=Mode.AUTO if eventlet.mode is Mode.MANUAL else eventlet.mode,
        threads_min=processes,
        threads_max=processes,
        threads_start=processes,
        threads_total=None,
        replicas_min=prefork.replicas.min,
        replicas_max=prefork.replicas.max,
        schedules=(),
        missing_metrics_floor=None,
        cpu_limit_cores=float(processes) if cores is None else min(cores, float(processes)),
        memory_limit_bytes=memory_limit_bytes(prefork.resources),
    )


def _rules(rules: ScalingRules | None) -> Rules:
    if rules is None:
        return Rules()
    policies = tuple(Policy(policy.type, policy.value, policy.period_seconds) for policy in rules.policies)
    return Rules(policies, rules.select_policy, rules.stabilization_window_seconds)
