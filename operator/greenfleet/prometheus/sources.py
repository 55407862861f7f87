"""The queries: one per (server, source) for the depth of all queues, one per server for all workers.

Each is one range selector and nothing else: it yields raw series with their names and the times of their scrapes. No
query for everybody sets a label, matches two vectors or aggregates (but for one count after a late answer), so no
series that a pod exports can make it fail: Prometheus refuses such a query for everybody if one pod has two series that
differ in nothing but a label that it sets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from greenfleet.settings import BUILT_IN_SOURCES, Source

READY, UNACKED, UP = "ready", "unacked", "up"
BROKER_ERROR, MISSING = "broker_error", "missing"
DEAD, DEAD_TASK = "dead", "dead_task"
HUB_BLOCKED, RECYCLE, RISK = "hub_blocked_seconds", "recycle", "risk"

GREENFLEET = "greenfleet"
"""Name of the default source: our exporter, the only one whose series name the broker."""

BUILT_IN = BUILT_IN_SOURCES

DEPTH_PARTS: Mapping[str, str] = {
    "greenfleet_queue_messages_ready": READY,
    "greenfleet_queue_messages_unacked": UNACKED,
    "greenfleet_queue_up": UP,
    "greenfleet_queue_broker_error": BROKER_ERROR,
    "greenfleet_queue_missing": MISSING,
    "greenfleet_queue_dead_letters": DEAD,
}
"""What each metric of our exporter says."""

WORKER_PARTS: Mapping[str, str] = {
    "greenworker_threads_limit": "threads_limit",
    "greenworker_threads_busy": "threads_busy",
    "greenworker_tasks_reserved": "reserved",
    "greenworker_tasks_scheduled": "scheduled",
    "greenworker_started_total": "started",
    "greenworker_finished_total": "finished",
    "greenworker_runtime_seconds_sum": "runtime_sum_seconds",
    "greenworker_runtime_seconds_count": "runtime_count",
    "process_cpu_seconds_total": "cpu_seconds",
    "process_resident_memory_bytes": "memory_bytes",
    "greenworker_hub_busy_seconds_total": "hub_busy_seconds",
    "greenworker_hub_blocked_seconds_total": HUB_BLOCKED,
    "greenworker_recycle_wanted": RECYCLE,
    "greenworker_task_risk": RISK,
    "greenworker_dead_letters_total": DEAD_TASK,
}
"""What each metric of a worker says: a field of `WorkerSample`, or one of the constants above, whose series are told
apart by task or reason. No other has a series per task.
"""

_NAMESPACE = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class DepthQuery:
    """How the depth of all queues is asked for, and which label names the queue."""

    expression: str
    queue_label: str
    names_broker: bool
    """Whether the series say which broker they speak of, so that the namespace can be checked."""
    waiting: str = ""
    """Only the queues in which something waits, and their depths; "" where that is not asked for."""
    namespaces: frozenset[str] = field(default=frozenset())
    """Namespaces whose targets may speak for the queues of any pool; others speak for pools of their own namespace."""
    for_one_pool: bool = False
    """Whether a pool brought the query, which is then asked and believed for that pool alone."""


def can_leave_out(namespace: str) -> bool:
    """Whether a query can leave a namespace out: only what can be the name of one is ever put into a query."""
    return _NAMESPACE.fullmatch(namespace) is not None


def greenfleet_depth(window_seconds: float, without: Collection[str] = ()) -> DepthQuery:
    """Our exporter: `DEPTH_PARTS` of every queue, but for those of the namespaces `without`, in the last
    `window_seconds`.
    """
    return DepthQuery(
        _range(_named(DEPTH_PARTS), window_seconds, without),
        "queue",
        names_broker=True,
        waiting=f"{_selector('greenfleet_queue_messages_ready', without)} > 0",
    )


def dead_letters(window_seconds: float, without: Collection[str] = ()) -> DepthQuery:
    """Only the dead letters that our exporter counts: of pools whose depths are read elsewhere."""
    return DepthQuery(_range("greenfleet_queue_dead_letters", window_seconds, without), "queue", names_broker=True)


def selected_depth(source: Source, window_seconds: float, without: Collection[str] = ()) -> DepthQuery:
    """Any other source: one selector."""
    return DepthQuery(
        _range(source.selector, window_seconds, without),
        source.queue_label,
        names_broker=False,
        waiting=f"{_selector(source.selector, without)} > 0",
        namespaces=frozenset(source.namespaces),
    )


def workers(window_seconds: float, without: Collection[str] = ()) -> str:
    """Everything about all workers of all pools; one answer is some 15 series a worker."""
    return _range(_named(WORKER_PARTS, "pool!=''"), window_seconds, without)


def series_count(expression: str) -> str:
    """How many series of each namespace an expression of `_range` yields: a small answer, whatever pods export."""
    return f"count by (namespace) (last_over_time({expression}))"


def custom_query(query: str) -> DepthQuery:
    """A pool's own PromQL: its value now. Its age cannot be asked for, so that it counts as of the time of
    evaluation.
    """
    return DepthQuery(f"sum({query})", "queue", names_broker=False, for_one_pool=True)


def _named(names: Collection[str], *matchers: str) -> str:
    return "{" + ",".join((f'__name__=~"{"|".join(names)}"', *matchers)) + "}"


def _range(selector: str, window_seconds: float, without: Collection[str]) -> str:
    return f"{_selector(selector, without)}[{round(window_seconds * 1000)}ms]"


def _selector(selector: str, without: Collection[str]) -> str:
    """A plain series selector, less what the namespaces `without` export."""
    selector = selector.strip()
    if not without:
        return selector
    matcher = f'namespace!~"{"|".join(sorted(without))}"'
    if not selector.endswith("}"):
        return f"{selector}{{{matcher}}}"
    inner = selector[:-1].rstrip()
    return f"{inner}{'' if inner.endswith(('{', ',')) else ','}{matcher}}}"
