"""Decisions in plain sentences, for the person who asks why, and what is reported next to the two numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import Adjustment, DecisionReason, Mode, Sample

if TYPE_CHECKING:
    from .context import DecisionContext
    from .estimation import CounterDelta


def count(number: float, noun: str) -> str:
    """`1 worker`, `4 workers`, `20,000 messages`."""
    rounded = round(number)
    return f"{rounded:,} {noun if rounded == 1 else f'{noun}s'}"


def rate(per_second: float) -> str:
    """`83 tasks/s`, `0.40 tasks/s`, `no tasks`."""
    if per_second < 0.005:
        return "no tasks"
    digits = 0 if per_second >= 10 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f} tasks/s"


def seconds(duration: float) -> str:
    """`0.3 s`, `23 s`, `20 min`."""
    if duration >= 600:
        return f"{duration / 60:.0f} min"
    return f"{duration:.0f} s" if duration >= 10 else f"{duration:.1f} s"


def waits(messages: float) -> str:
    """`1 message waits`, `20,000 messages wait`."""
    return f"{count(messages, 'message')} {'waits' if round(messages) == 1 else 'wait'}"


def summary(replicas: int, threads: int, text: str) -> str:
    """The one line for `status.lastScale` and the Event."""
    fleet = f"{count(replicas, 'worker')} with {count(threads, 'green thread')} each" if replicas else "no worker"
    return f"{fleet}: {text}"


_SMALLER = frozenset(
    {
        DecisionReason.MAX,
        DecisionReason.TOTAL,
        DecisionReason.BEHAVIOR,
        DecisionReason.PAUSED,
        DecisionReason.SATURATED_DOWNSTREAM,
        DecisionReason.STABILIZATION,
    }
)


def limited(context: DecisionContext, adjustments: tuple[Adjustment, ...]) -> DecisionReason:
    """What keeps the pool smaller than the load asks for."""
    last = adjustments[-1]
    if last.reason is DecisionReason.ACTIVATION:
        return last.reason
    if last.after >= max(context.need, adjustments[0].after) or context.spec.mode is Mode.MANUAL:
        return DecisionReason.NONE
    smaller = [each.reason for each in adjustments if each.after < each.before and each.reason in _SMALLER]
    return smaller[-1] if smaller else DecisionReason.NONE


def inputs(context: DecisionContext, delta: CounterDelta) -> tuple[tuple[str, float], ...]:
    """Name and value of what was seen and derived; the unit is in the name where it is not a count."""
    seen, worker = context.observation, context.worker
    return (
        ("ready", seen.ready),
        ("reserved", seen.reserved),
        ("backlog", seen.unstarted),
        ("busy", seen.busy),
        ("unacked", seen.unacked),
        ("scheduled", seen.scheduled),
        ("arrival_rate", context.rate),
        ("throughput", context.state.estimates.throughput),
        ("runtime_seconds", worker.runtime_seconds),
        ("cpu_per_task_seconds", worker.cpu_per_task_seconds),
        ("cores", worker.cores),
        ("efficiency", worker.efficiency),
        ("safe_threads", float(worker.safe_threads)),
        ("worker_rate", worker.rate),
        ("startup_seconds", worker.startup_seconds),
        ("hub_utilisation", delta.hub_utilisation),
        ("hub_lag_seconds", delta.hub_lag_seconds),
        ("ready_workers", float(len(seen.serving))),
        ("starting_workers", float(len(seen.coming))),
        ("leaving_workers", float(len(seen.leaving))),
        ("replicas", float(context.current)),
        ("workers_for_rate", float(context.rate_workers)),
        ("workers_for_deadline", float(context.demand.workers if context.demand is not None else 0)),
    )


def inputs_without_metrics(sample: Sample, threads: int) -> tuple[tuple[str, float], ...]:
    """What the API server tells."""
    return (("replicas", float(sample.replicas)), ("threads", float(threads)))


TESTING = "tasks become slower as more of them run, as if something downstream were full; first this growth has to pay"


def downstream(grown: float, gained: float) -> str:
    """Why growth has stopped."""
    return (
        f"{(grown - 1):.0%} more running tasks changed the throughput by {(gained - 1):+.0%} only: something downstream "
        f"is saturated, and more workers would only make it slower"
    )
