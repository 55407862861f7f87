"""Decisions in plain sentences, for the person who asks why, and what is reported next to the two numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import Adjustment, DecisionReason, Mode

if TYPE_CHECKING:
    from .context import DecisionContext
    from .estimation.counters import CounterDelta
    from .estimation.downstream import Downstream


def count(number: float, noun: str) -> str:
    """`1 task`, `4 tasks`, `20,000 messages`."""
    rounded = round(number)
    return f"{rounded:,} {noun if rounded == 1 else f'{noun}s'}"


def workers(number: float) -> str:
    """`1 worker`, `4 workers`."""
    return count(number, "worker")


def waits(messages: float) -> str:
    """`1 message waits`, `20,000 messages wait`."""
    return f"{count(messages, 'message')} {'waits' if round(messages) == 1 else 'wait'}"


def rate(per_second: float) -> str:
    """`83 tasks/s`, `0.40 tasks/s`, `no tasks`."""
    digits = 0 if per_second >= 10 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f} tasks/s" if per_second >= 0.005 else "no tasks"


def seconds(duration: float) -> str:
    """`0.3 s`, `23 s`, `20 min`."""
    if duration >= 600:
        return f"{duration / 60:.0f} min"
    return f"{duration:.0f} s" if duration >= 10 else f"{duration:.1f} s"


def summary(replicas: int, threads: int, text: str) -> str:
    """The one line for `status.lastScale` and the Event."""
    fleet = f"{workers(replicas)} with {count(threads, 'green thread')} each" if replicas else "no worker"
    return f"{fleet}: {text}"


def downstream(test: Downstream) -> str:
    """Why growth has stopped, or is being tested."""
    if test.held_until is None:
        return "tasks become slower as more of them run, as if something downstream were full: this growth has to pay"
    more, throughput = test.gain[0] - 1, test.gain[1] - 1
    return (
        f"{more:.0%} more running tasks changed the throughput by {throughput:+.0%} only: something downstream is full"
    )


def limited(context: DecisionContext, adjustments: tuple[Adjustment, ...]) -> DecisionReason:
    """What keeps the pool smaller than the load asks for."""
    last = adjustments[-1]
    if last.reason is DecisionReason.ACTIVATION:
        return last.reason
    if last.after >= max(context.need, adjustments[0].after) or context.spec.mode is Mode.MANUAL:
        return DecisionReason.NONE
    smaller = [each.reason for each in adjustments[1:] if each.after < each.before]
    return smaller[-1] if smaller else DecisionReason.NONE


def inputs(context: DecisionContext, delta: CounterDelta) -> tuple[tuple[str, float], ...]:
    """Name and value of what was seen and derived; the unit is in the name where it is not a count."""
    seen, worker = context.observation, context.worker
    found = {name: getattr(seen, name) for name in ("ready", "reserved", "busy", "unacked", "scheduled")}
    found |= {
        "backlog": seen.unstarted,
        "arrival_rate": context.rate,
        "throughput": context.state.estimates.throughput,
        "runtime_seconds": worker.runtime_seconds,
        "cpu_per_task_seconds": worker.cpu_per_task_seconds,
        "cores": context.spec.cpu_limit_cores,
        "efficiency": worker.efficiency,
        "safe_threads": worker.safe_threads,
        "worker_rate": worker.rate,
        "startup_seconds": worker.startup_seconds,
        "hub_utilisation": delta.hub_utilisation,
        "ready_workers": len(seen.serving),
        "starting_workers": len(seen.coming),
        "leaving_workers": len(seen.leaving),
        "replicas": context.current,
        "workers_for_rate": context.rate_workers,
        "workers_for_deadline": context.demand.workers if context.demand is not None else 0,
    }
    return tuple((name, float(value)) for name, value in found.items())
