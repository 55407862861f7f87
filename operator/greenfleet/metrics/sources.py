"""The queries: one per (server, source) for the depth of all queues, one per server for all workers.

An instant query stamps its answer with the time of evaluation, so every query also asks for `timestamp()` of the series:
that is the time of the scrape, and the only way to see that a sample is old. The label `series` tells the parts apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from greenfleet.settings import Source

PART = "series"
"""Label that we add to each part of a query's answer."""

READY, UNACKED, UP, AT = "ready", "unacked", "up", "at"

GREENFLEET = "greenfleet"
"""Name of the default source: our exporter, the only one whose series name the broker."""

BUILT_IN: dict[str, Source] = {
    # Our own exporter serves this name too, for dashboards, and says which broker it speaks of.
    "celery-exporter": Source(selector="celery_queue_length{broker=''}", queue_label="queue_name"),
    "rabbitmq": Source(selector="rabbitmq_queue_messages_ready", queue_label="queue"),
    "redis-exporter": Source(selector="redis_key_size", queue_label="key"),
}

_WORKER_GAUGES = {
    "threads_limit": "greenworker_threads_limit",
    "threads_busy": "greenworker_threads_busy",
    "reserved": "greenworker_tasks_reserved",
    "scheduled": "greenworker_tasks_scheduled",
    "cpu": "process_cpu_seconds_total{pool!=''}",
    "memory": "process_resident_memory_bytes{pool!=''}",
    "hub_busy": "greenworker_hub_busy_seconds_total",
    "hub_lag_sum": "greenworker_hub_lag_seconds_sum",
    "hub_lag_count": "greenworker_hub_lag_seconds_count",
}
_WORKER_SUMS = {
    "started": "greenworker_tasks_started_total",
    "finished": "greenworker_tasks_finished_total",
    "runtime_sum": "greenworker_task_runtime_seconds_sum",
    "runtime_count": "greenworker_task_runtime_seconds_count",
}
_BLOCKED = "hub_blocked"


@dataclass(frozen=True, slots=True)
class DepthQuery:
    """How the depth of all queues is asked for, and which label names the queue."""

    expression: str
    queue_label: str
    names_broker: bool
    """Whether the series say which broker they speak of, so that the namespace can be checked."""
    waiting: str = ""
    """Only the queues in which something waits, and their depths; "" where that is not asked for."""


def _part(name: str, expression: str) -> str:
    return f'label_replace({expression}, "{PART}", "{name}", "", "")'


def greenfleet_depth() -> DepthQuery:
    """Our exporter: ready, unacked, up, and the scrape's time, of every queue."""
    expression = " or ".join(
        (
            _part(READY, "greenfleet_queue_messages_ready"),
            _part(AT, "timestamp(greenfleet_queue_messages_ready)"),
            _part(UNACKED, "greenfleet_queue_messages_unacked"),
            _part(UP, "greenfleet_queue_up"),
        )
    )
    return DepthQuery(expression, "queue", names_broker=True, waiting="greenfleet_queue_messages_ready > 0")


def selected_depth(source: Source) -> DepthQuery:
    """Any other source: one selector, its value and its time."""
    expression = f"{_part(READY, source.selector)} or {_part(AT, f'timestamp({source.selector})')}"
    return DepthQuery(expression, source.queue_label, names_broker=False, waiting=f"{source.selector} > 0")


def workers() -> str:
    """Everything about all workers of all pools, summed over tasks; one answer is some 15 samples a worker."""
    parts = [_part(name, metric) for name, metric in _WORKER_GAUGES.items()]
    parts += [_part(name, f"sum without (task, state) ({metric})") for name, metric in _WORKER_SUMS.items()]
    parts.append(_part(AT, "timestamp(greenworker_threads_limit)"))
    # Tasks are kept apart here: evidence needs their names.
    parts.append(_part(_BLOCKED, "greenworker_hub_blocked_seconds_total"))
    parts.append(_part("recycle", "greenworker_recycle_wanted > 0"))
    parts.append(_part("guard", "greenworker_guard > 0"))
    return " or ".join(parts)


def own_depth(query: str) -> DepthQuery:
    """A pool's own PromQL: its value now. Its age cannot be asked for, so that it counts as of the time of evaluation."""
    return DepthQuery(f"{_part(READY, f'sum({query})')} or {_part(AT, 'vector(time())')}", "queue", names_broker=False)
