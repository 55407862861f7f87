"""The bootstep that belongs to the worker: live resize, the wish to be recycled, the hub monitor, the look at task
risks, and the routes to the companion.
"""

from __future__ import annotations

import signal
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

from greenworker import hub
from greenworker.brokers.serializers import restrict_tasks
from greenworker.misconfigured import MisconfiguredError, or_exit
from greenworker.monitoring.celery_exporter_metrics import families
from greenworker.monitoring.hub_monitor import MAIN_THREAD, HubMonitor, SchedulerTimes, hub_cpu_wait
from greenworker.monitoring.metrics import CounterFunction, Gauge, GaugeSet, resident_bytes
from greenworker.monitoring.task_risks import CHECK_SECONDS, check_tasks
from greenworker.runtime import Runtime

logger = get_logger(__name__)

RESIZE_POLL_SECONDS = 0.25
RECYCLE_POLL_SECONDS = 5.0


class Resize:
    """Makes the pool as large as the threads file says. Empty: as large as the start file says."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def run(self) -> None:
        """For ever, in a green thread."""
        while True:
            hub.sleep(RESIZE_POLL_SECONDS)
            try:
                self.apply()
            except Exception as error:
                logger.warning("Could not resize the pool: %r", error)

    def apply(self) -> None:
        """Once."""
        pool, consumer = self.runtime.pool, self.runtime.consumer
        if pool is None or consumer is None or self.runtime.drain.draining:
            return
        wanted = self.runtime.start_threads()
        change = wanted - pool.limit
        if not change:
            return
        pool.resize(wanted)
        if consumer.qos is not None:
            consumer._update_prefetch_count(change)
        else:
            consumer.initial_prefetch_count = wanted * consumer.prefetch_multiplier
        self.runtime.capacity.set()


class Recycle:
    """Asks to be evicted. Leaving by itself would only restart the container in place."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.wanted = GaugeSet("greenworker_recycle_wanted", "1: this worker asks to be evicted.", ["reason"])
        runtime.accounting.registry.add(self.wanted)

    def check(self) -> None:
        """A wish stays once it is there."""
        environment = self.runtime.environment
        if environment.max_age_seconds and monotonic() - self.runtime.born > environment.max_age_seconds:
            self.wanted.values[("age",)] = 1
        if environment.max_tasks and self.runtime.accounting.finished_count >= environment.max_tasks:
            self.wanted.values[("tasks",)] = 1
        if environment.max_memory_bytes and resident_bytes() > environment.max_memory_bytes:
            self.wanted.values[("memory",)] = 1

    def run(self) -> None:
        """For ever, in a green thread."""
        while True:
            self.check()
            hub.sleep(RECYCLE_POLL_SECONDS)


class RiskChecker:
    """Asks for task_risks from time to time."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._hub = SchedulerTimes(MAIN_THREAD)

    def run(self) -> None:
        """For ever, in a green thread."""
        from celery.worker import state  # noqa: PLC0415 - not before patching

        while True:
            hub.sleep(CHECK_SECONDS)
            try:
                assert self.runtime.pool is not None
                self.runtime.task_risks.check(
                    list(state.active_requests),
                    reserved(self.runtime),
                    self.runtime.pool.limit,
                    self.runtime.accounting.finished_count,
                    self._hub.seconds()[1],
                )
            except Exception as error:
                logger.warning("Could not look for task_risks: %r", error)


class WorkerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts with the worker, after its pool."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Called once; the threads live as long as the process."""
        runtime = Runtime.of(worker.app)
        or_exit(restrict_tasks, worker.app, runtime.environment.accept_content)
        or_exit(check_hub, hub.blocking_detection())
        # Celery's cold shutdown runs inside the hub and loses tasks: every signal that asks for an end drains.
        for number in (signal.SIGQUIT, signal.SIGINT):
            signal.signal(number, signal.getsignal(signal.SIGTERM))
        HubMonitor(runtime).start()
        hub.spawn(Resize(runtime).run)
        hub.spawn(Recycle(runtime).run)
        assert runtime.pool is not None
        check_tasks(runtime.task_risks, worker.app, runtime.pool.default_hard)
        hub.spawn(RiskChecker(runtime).run)
        runtime.routes.mark(worker.app)
        hub.spawn(runtime.routes.watch)

    def stop(self, worker: Any) -> None:
        """The process ends; so do they."""


def check_hub(blocking_detection: bool) -> None:
    """Once the app is imported: refuse what it switched on in the hub itself."""
    if blocking_detection:
        raise MisconfiguredError(
            "app", "eventlet.debug.hub_blocking_detection(True)",
            "it raises into whatever task runs when the hub was blocked, so that tasks fail and acknowledgements "
            "can break",
            "remove the call; hubWatchdog.warnAfter names the task that blocks, and only looks",
        )  # fmt: skip


def reserved(runtime: Runtime) -> int:
    """Requests that were fetched and have not started, without those held for an ETA. From any thread."""
    from celery.worker import state  # noqa: PLC0415 - not before patching

    return max(0, len(state.reserved_requests) - len(state.active_requests)) + runtime.held_for_rates()


def add_gauges(runtime: Runtime) -> None:
    """What both roles have, read from live objects at the moment of the scrape."""
    from celery.worker import state  # noqa: PLC0415 - not before patching

    for family in (
        Gauge("greenworker_tasks_reserved", "Tasks fetched and not started.", lambda: reserved(runtime)),
        Gauge(
            "greenworker_tasks_scheduled",
            "Tasks held for an ETA.",
            lambda: len(getattr(state, "scheduled_requests", ())),
        ),
        Gauge("greenworker_draining", "1 after SIGTERM.", lambda: float(runtime.drain.draining)),
        CounterFunction(
            "greenworker_hub_busy_seconds_total", "Seconds the hub ran something.", runtime.idle_clock.busy_seconds
        ),
    ):
        runtime.accounting.registry.add(family)


def add_celery_exporter_metrics(runtime: Runtime, queues: str) -> None:
    """Under the names of celery-exporter."""
    from celery.worker import state  # noqa: PLC0415 - not before patching

    for family in families(
        runtime.accounting, runtime.environment.worker, queues,
        lambda: float(runtime.consuming), lambda: len(state.active_requests),
    ):  # fmt: skip
        runtime.accounting.registry.add(family)


def add_green_gauges(runtime: Runtime) -> None:
    """Of the green pool."""

    def limit() -> float:
        return runtime.pool.limit if runtime.pool is not None else 0

    def busy() -> float:
        return len(runtime.pool.jobs) if runtime.pool is not None else 0

    runtime.accounting.registry.add(hub_cpu_wait())
    runtime.accounting.registry.add(Gauge("greenworker_threads_limit", "Green threads that may run now.", limit))
    runtime.accounting.registry.add(Gauge("greenworker_threads_busy", "Tasks that run now.", busy))
