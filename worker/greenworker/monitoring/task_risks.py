"""What endangers the promise while a worker runs: said once in the log, and as a metric for as long as it holds.

`startup_checks` refuses what would break the pool before it starts; this looks at what only shows at work. Nothing here
changes what the worker does. The operator reads the metric and says it in the condition ``TasksAtRisk``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, time
from typing import Any

from greenworker.monitoring.metrics import OTHER, CounterFunction, GaugeSet, Registry, legible
from greenworker.monitoring.result_stores import SLOW_SECONDS, ResultStores
from greenworker.native import say

CHECK_SECONDS = 5.0

MEMORY_SECONDS = 600.0
"""A risk counts for so long after it was last seen: tasks come and go, what they need of the broker does not."""

TASKS_NAMED = 20
"""Tasks with a series of their own; more fold into ``other``."""

HOARD_FACTOR = 2
"""Prefetched and not started, as a multiple of the threads, from which on a worker hoards."""

VISIBILITY, CONSUMER, PREFETCH, ACKS = "visibility_timeout", "consumer_timeout", "prefetch", "acks"
ACK_TIMED_OUT = "delivery acknowledgement"
"""In what RabbitMQ says when it closes a channel for its consumer_timeout."""
PREFORK = "prefork"
DELIVERY_LIMIT = "delivery_limit"
NO_PROGRESS = "no_progress"
RESULTS = "results"
CPU = "cpu"

NO_PROGRESS_SECONDS = 300.0
"""All threads are busy and no task has ended for so long: tasks that are meant to run longer, or something that waits
for ever.
"""

CPU_WINDOW_SECONDS, CPU_WAIT_SHARE = 300.0, 0.5
"""A hub that has waited for a CPU for more than this share of so long a time is starved: a burst or a start is no
reason to worry.
"""


@dataclass(frozen=True, slots=True)
class AckTimeout:
    """How long a broker leaves a message with a worker that has not acknowledged it."""

    reason: str
    seconds: float
    consequence: str
    fix: str


class TaskRisks:
    """One per process. Belongs to the thread that runs the consumer; a scrape only reads."""

    def __init__(self, registry: Registry) -> None:
        self.ack_timeout: AckTimeout | None = None
        self.acks_failed = 0
        self.store_failures: Callable[[], int] = lambda: 0
        self.result_stores = ResultStores()
        self._results_failed = 0
        self._acks_seen = 0
        self._hoarding = False
        self._finished = 0
        self._progressed_at = monotonic()
        self._cpu_waited: tuple[float, float] | None = None
        """When the present window began, and the seconds that the hub had waited by then."""
        self._seen: dict[tuple[str, str], float] = {}
        self._said: set[str] = set()
        self._gauge = GaugeSet(
            "greenworker_task_risk", "1: this endangers tasks, by reason and task.", ["reason", "task"]
        )  # fmt: skip
        registry.add(self._gauge)
        registry.add(
            CounterFunction(
                "greenworker_acks_failed_total", "Acknowledgements that the broker did not take.", self.failures
            )
        )

    def failures(self) -> int:
        """Acknowledgements that failed, on any broker."""
        return self.acks_failed + self.store_failures()

    def found(self, reason: str, task: str, sentence: str) -> None:
        """A risk was seen now; *sentence* is for people and is said once for each reason."""
        key = (reason, legible(task))
        if key not in self._seen and len(self._seen) >= TASKS_NAMED:
            key = (reason, OTHER)
        self._seen[key] = monotonic()
        self._gauge.values[key] = 1
        if reason not in self._said:
            self._said.add(reason)
            say(sentence)

    # what is looked at

    def scheduled(self, task: str, eta: str) -> None:
        """A message with an ETA has arrived; it stays unacknowledged until then. Nonsense is Celery's to report."""
        ack_timeout = self.ack_timeout
        if ack_timeout is None:
            return
        try:
            due = datetime.fromisoformat(str(eta).replace("Z", "+00:00"))  # which Python 3.10 cannot read
            seconds = due.timestamp() - time()
        except (ValueError, TypeError, OverflowError):
            return
        if seconds > ack_timeout.seconds:
            self._too_long(ack_timeout, task, f"waits {seconds:.0f} s for its ETA or countdown")

    def limited(self, task: str, hard_seconds: float | None) -> None:
        """A task that is acknowledged late may run for so long."""
        ack_timeout = self.ack_timeout
        if ack_timeout is not None and hard_seconds is not None and hard_seconds > ack_timeout.seconds:
            self._too_long(ack_timeout, task, f"may run for {hard_seconds:g} s, its time limit")

    def check(
        self, running: Sequence[Any], reserved: int, threads: int, finished: int = 0, cpu_waited: float = 0.0
    ) -> None:
        """Look at the requests that run and at what waits inside the worker; every `CHECK_SECONDS`. *finished*: tasks
        so far; *cpu_waited*: seconds that the hub has wanted to run and had no CPU, so far.
        """
        ack_timeout, now = self.ack_timeout, time()
        self._check_progress(running, threads, finished)
        self._check_cpu(cpu_waited)
        if ack_timeout is not None:
            for request in running:
                if request.time_start and request.task.acks_late and now - request.time_start > ack_timeout.seconds:
                    self._too_long(ack_timeout, request.name, f"has run for {now - request.time_start:.0f} s")
        self._check_prefetch(reserved, threads)
        self._check_results()
        failures = self.failures()
        if failures > self._acks_seen:
            self._acks_seen = failures
            self.found(
                ACKS, "",
                "the broker did not take acknowledgements of finished tasks: those that cannot be sent again run "
                "twice; "
                "look at the broker's log, its connection limit and the network",
            )  # fmt: skip
        self._forget()

    def _check_prefetch(self, reserved: int, threads: int) -> None:
        """Twice in a row: a burst of arrivals between two looks is no hoard."""
        hoarding = reserved > HOARD_FACTOR * max(1, threads)
        if hoarding and self._hoarding:
            self.found(
                PREFETCH, "",
                f"{reserved} messages wait inside this worker for {threads} threads, where no other worker can "
                "take them: "
                "lower worker.prefetchMultiplier (1 holds none back) or the app's own prefetch setting",
            )  # fmt: skip
        self._hoarding = hoarding

    def _check_results(self) -> None:
        """Results that cannot be stored hold their green threads, and are lost in the end."""
        stores = self.result_stores
        if stores.failed > self._results_failed or stores.slowest_seconds() > SLOW_SECONDS:
            self._results_failed = stores.failed
            self.found(
                RESULTS, "",
                f"results cannot be stored: one has been on its way for {stores.slowest_seconds():.0f} s, and "
                f"{stores.failed} were given up: look at the result backend in the lines above; it is "
                "spec.resultBackend of the pool, or else what the app sets, for which worker.env has to bring the "
                "environment",
            )  # fmt: skip

    def _check_progress(self, running: Sequence[Any], threads: int, finished: int) -> None:
        """A worker that looks well, holds a task on every thread, and finishes none."""
        if finished != self._finished or len(running) < max(1, threads):
            self._finished, self._progressed_at = finished, monotonic()
        elif monotonic() - self._progressed_at > NO_PROGRESS_SECONDS:
            names = ", ".join(sorted({str(request.name) for request in running})[:5])
            self.found(
                NO_PROGRESS, "",
                f"all {threads} threads of this worker are busy, and no task has ended for "
                f"{NO_PROGRESS_SECONDS:.0f} s ({names}): "
                "look for calls without a time-out and for libraries that were imported before patching, or set "
                "taskTimeLimits.hard",
            )  # fmt: skip

    def _check_cpu(self, waited: float) -> None:
        """A worker whose hub is runnable and does not run: its CPU limit is used up, or its node is crowded."""
        now = monotonic()
        began, before = self._cpu_waited or (now, waited)
        if self._cpu_waited is not None and now - began < CPU_WINDOW_SECONDS:
            return
        self._cpu_waited = (now, waited)
        if now > began and (waited - before) / (now - began) > CPU_WAIT_SHARE:
            self.found(
                CPU, "",
                f"the hub of this worker wanted to run and had no CPU for {waited - before:.0f} of "
                f"{now - began:.0f} s: raise "
                "worker.resources.limits.cpu, or add nodes; no task is to blame",
            )  # fmt: skip

    def _too_long(self, ack_timeout: AckTimeout, task: str, what: str) -> None:
        self.found(
            ack_timeout.reason, task,
            f"{task} {what}, and the broker's {ack_timeout.reason} is {ack_timeout.seconds:g} s: "
            f"{ack_timeout.consequence}; "
            f"{ack_timeout.fix}",
        )  # fmt: skip

    def _forget(self) -> None:
        now = monotonic()
        for key in [key for key, seen in self._seen.items() if now - seen > MEMORY_SECONDS]:
            del self._seen[key]
            self._gauge.values.pop(key, None)


def check_tasks(task_risks: TaskRisks, app: Any, default_hard_seconds: float | None) -> None:
    """The time limits that tasks are allowed, once at the start."""
    for name, task in app.tasks.items():
        if not name.startswith("celery.") and task.acks_late:
            task_risks.limited(name, task.time_limit or default_hard_seconds)


def settles(call: object) -> bool:
    """Whether Celery's consumer is about to acknowledge or reject a message."""
    return getattr(call, "__name__", "") in ("ack_log_error", "reject_log_error")


def acknowledge(task_risks: TaskRisks, settle: Callable[..., object], *args: object) -> None:
    """Run Celery's ``ack_log_error`` or ``reject_log_error``, which logs a broken connection and goes on; count it."""
    settle(*args)
    message = getattr(settle, "__self__", None)
    if message is not None and not message.acknowledged:
        task_risks.acks_failed += 1
