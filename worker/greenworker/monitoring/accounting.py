"""What the worker counts, by the names of docs/contract.md. Fed by the pool, the drain and the watchdog."""

from __future__ import annotations

from time import time
from typing import Any

from greenworker.environment import Environment
from greenworker.monitoring.metrics import (
    LAG_BUCKETS,
    OTHER,
    Counter,
    CounterFunction,
    Family,
    Histogram,
    Registry,
    Summary,
    process_families,
)
from greenworker.protocol import number_of
from greenworker.router import PUBLISHED_AT

TASK_NAMES = 100
"""Distinct task names with series of their own; the others fold into ``other``. A name costs about 40 series."""

QUEUE_NAMES = 100
"""Distinct queues with series of their own."""

EXCEPTION_NAMES = 30
"""Distinct exception classes with series of their own."""


class Accounting:
    """The families that need no live object; gauges are added by whoever owns what they measure."""

    def __init__(self, environment: Environment) -> None:
        self.registry = Registry(pool=environment.pool, role=environment.role, worker=environment.worker)
        self.started = Counter("greenworker_tasks_started_total", "Tasks started.", ["task"], TASK_NAMES)
        self.finished = Counter(
            "greenworker_tasks_finished_total", "Tasks finished, by final state.", ["task", "state"], TASK_NAMES
        )
        self.requeued = Counter(
            "greenworker_tasks_requeued_total", "Tasks given back to the broker, by reason.", ["reason"], 20
        )
        self.forwarded = Counter(
            "greenworker_tasks_forwarded_total", "Tasks sent on to the prefork companion.", ["task"], TASK_NAMES
        )
        self.dead_letters = Counter(
            "greenworker_dead_letters_total",
            "Messages that no worker can run, moved to the dead letters of their queue.",
            ["queue", "task", "reason"], QUEUE_NAMES,
        )  # fmt: skip
        self.early_ack_killed = Counter(
            "greenworker_tasks_early_ack_killed_total",
            "Tasks acknowledged before they ran, and killed: outside of the promise.", [], 1,
        )  # fmt: skip
        self.runtime = Histogram("greenworker_task_runtime_seconds", "Seconds from start to end.", ["task"], TASK_NAMES)
        self.wait = Histogram("greenworker_task_wait_seconds", "Seconds from publish to start.", ["task"], TASK_NAMES)
        self.hub_lag = Histogram(
            "greenworker_hub_lag_seconds", "Seconds by which the hub's beat was late.", [], 1, LAG_BUCKETS
        )
        self.hub_blocked = Counter(
            "greenworker_hub_blocked_seconds_total", "Seconds the hub did not tick for longer than warnAfter.",
            ["task"], TASK_NAMES,
        )  # fmt: skip
        self.received = Counter("received", "", ["task"], TASK_NAMES)
        self.revoked = Counter("revoked", "", ["task"], TASK_NAMES)
        self.failures = Counter("failures", "", ["task", "exception"], TASK_NAMES)
        """These three are shown by `celery_exporter_metrics` only, under the names of celery-exporter."""
        self._exceptions: set[str] = set()
        self.started_count = 0
        self.finished_count = 0
        self.runtime_seconds = 0.0
        """Of all tasks that have finished."""
        self.early_ack_killed.child()
        self.hub_lag.child()
        families: list[Family] = [
            self.started,
            self.finished,
            self.requeued,
            self.forwarded,
            self.dead_letters,
            self.early_ack_killed,
            self.runtime,
            self.wait,
            self.hub_lag,
            self.hub_blocked,
            *self._totals(),
            *process_families(),
        ]
        for family in families:
            self.registry.add(family)

    def _totals(self) -> tuple[Family, ...]:
        """Of all tasks together: what the operator reads, with the same few series however many tasks an application
        has.
        """
        return (
            CounterFunction("greenworker_started_total", "Tasks of all names started.", lambda: self.started_count),
            CounterFunction("greenworker_finished_total", "Tasks of all names finished.", lambda: self.finished_count),
            Summary(
                "greenworker_runtime_seconds", "Seconds from start to end of tasks of all names.",
                lambda: (self.runtime_seconds, self.finished_count),
            ),
        )  # fmt: skip

    def task_started(self, name: str, request: Any) -> None:
        """A task starts now; *request* is Celery's Request, or None."""
        self.started_count += 1
        self.started.child(name).value += 1
        waited = seconds_waited(request, time()) if request is not None else None
        if waited is not None:
            self.wait.child(name).observe(waited)

    def task_failed(self, name: str, exception: str) -> None:
        """A task ended in FAILURE, or at its hard time limit, with an exception of this class."""
        if exception not in self._exceptions:
            if len(self._exceptions) < EXCEPTION_NAMES:
                self._exceptions.add(exception)
            else:
                exception = OTHER
        self.failures.add(1, name, exception)

    def task_finished(self, name: str, state: str, runtime_seconds: float) -> None:
        """A task ended; *state* is one of Celery's states, or KILLED."""
        self.finished_count += 1
        self.runtime_seconds += runtime_seconds
        self.finished.child(name, state).value += 1
        self.runtime.child(name).observe(runtime_seconds)


def seconds_waited(request: Any, now: float) -> float | None:
    """Seconds since *request* was published, or since its ETA if that was later; None if the message does not say."""
    published = published_at(request)
    if published is None:
        return None
    due = published if request.eta is None else number_of(request.eta)
    return None if due is None else max(0.0, now - max(published, due))


def published_at(request: Any) -> float | None:
    """Unix seconds from our header, else from the AMQP timestamp; None for what is no time."""
    said = request.request_dict
    stamp = said.get(PUBLISHED_AT)
    if stamp is None and isinstance(said.get("headers"), dict):
        stamp = said["headers"].get(PUBLISHED_AT)  # Celery's protocol 1
    if stamp is None:
        properties = said.get("properties") or {}
        stamp = properties.get("timestamp")
    return number_of(stamp)
