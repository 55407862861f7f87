"""What a decision reports next to its two numbers."""

from __future__ import annotations

from math import isfinite

from . import explain
from .capacity import Capacity
from .context import DecisionContext
from .learning import CounterDelta
from .model import Adjustment, DecisionReason, Learned, Mode, Sample
from .state import State


def deletion_order(sample: Sample) -> tuple[str, ...]:
    """Pods in the order in which a scale-in should take them: never Ready, then the least busy, then the youngest."""
    held = {
        worker.pod: worker.threads_busy + worker.reserved
        for worker in sample.workers
        if isfinite(worker.threads_busy) and isfinite(worker.reserved)
    }

    def regret(name: str, ready: bool, created_at: float) -> tuple[bool, float, float, str]:
        return ready, held.get(name, float("inf") if ready else 0.0), -created_at, name

    staying = [pod for pod in sample.pods if not pod.terminating]
    staying.sort(key=lambda pod: regret(pod.name, pod.ready_since is not None, pod.created_at))
    return tuple(pod.name for pod in staying)


def limited(context: DecisionContext, steps: tuple[Adjustment, ...]) -> DecisionReason:
    """What keeps the pool smaller than the load asks for."""
    if steps[-1].reason is DecisionReason.ACTIVATION:
        return DecisionReason.ACTIVATION
    if steps[-1].after >= max(context.need, steps[0].after) or context.spec.mode is Mode.MANUAL:
        return DecisionReason.NONE
    smaller = [step.reason for step in steps if step.after < step.before and step.reason in explain.SMALLER]
    return smaller[-1] if smaller else DecisionReason.NONE


def learned(state: State, worker: Capacity) -> Learned:
    known = state.estimates.runtime_seconds is not None
    return Learned(
        runtime_seconds=state.estimates.runtime_seconds,
        cpu_per_task_seconds=state.estimates.cpu_per_task_seconds,
        safe_threads=worker.safe_threads if known else None,
        startup_seconds=state.estimates.startup_seconds,
    )


def inputs(
    context: DecisionContext, progress: CounterDelta, replicas: int, decided: int
) -> tuple[tuple[str, float], ...]:
    view, worker = context.view, context.worker
    return (
        ("ready", view.ready),
        ("reserved", view.reserved),
        ("backlog", view.unstarted),
        ("busy", view.busy),
        ("unacked", view.unacked),
        ("scheduled", view.scheduled),
        ("arrival_rate", context.rate),
        ("throughput", context.state.throughput),
        ("runtime_seconds", worker.runtime_seconds),
        ("cpu_per_task_seconds", worker.cpu_per_task_seconds),
        ("cores", worker.cores),
        ("efficiency", worker.efficiency),
        ("safe_threads", float(worker.safe_threads)),
        ("worker_rate", worker.rate(worker.safe_threads)),
        ("startup_seconds", worker.startup_seconds),
        ("hub_utilisation", progress.hub_utilisation),
        ("hub_lag_seconds", progress.hub_lag_seconds),
        ("ready_workers", float(len(view.serving))),
        ("starting_workers", float(len(view.coming))),
        ("leaving_workers", float(len(view.leaving))),
        ("replicas", float(context.current)),
        ("workers_for_rate", float(context.rate_workers)),
        ("workers_for_deadline", float(context.due.workers if context.due is not None else 0)),
    )


def significant_change(old: Learned, new: Learned) -> bool:
    """Whether `status.learned` is worth a write: something became known, or moved by more than 20 %."""
    pairs = (
        (old.runtime_seconds, new.runtime_seconds),
        (old.cpu_per_task_seconds, new.cpu_per_task_seconds),
        (old.safe_threads, new.safe_threads),
        (old.startup_seconds, new.startup_seconds),
    )
    return any(_moved(one, two) for one, two in pairs)


def _moved(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return new is not None and old is None
    return abs(new - old) > 0.2 * abs(old)
