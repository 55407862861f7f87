"""The bootsteps of the prefork companion: one belongs to the worker, one to each connection of its consumer."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state

from greenworker.brokers.serializers import restrict_tasks
from greenworker.misconfigured import or_exit
from greenworker.monitoring.task_risks import CHECK_SECONDS, check_tasks
from greenworker.pool.steps import Recycle, reserved
from greenworker.prefork.consumer import end_connection_with
from greenworker.runtime import Runtime

if TYPE_CHECKING:
    from greenworker.prefork.consumer import Consumer

HEARTBEAT_SECONDS = 1.0
"""Between two signs of life of the parent's event loop."""


class ParentStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """The beat of the parent's event loop, and the wish to be recycled."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.runtime = Runtime.of(worker.app)
        self.worker = worker
        self.recycle = Recycle(self.runtime)
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        """The pool's processes exist now."""
        or_exit(restrict_tasks, worker.app, self.runtime.environment.accept_content)
        self.runtime.last_beat = monotonic()
        check_tasks(self.runtime.task_risks, worker.app, worker.time_limit)

    def register_with_event_loop(self, worker: Any, loop: Any) -> None:
        """Called at every (re)connection; timers of the last one are gone."""
        loop.call_repeatedly(HEARTBEAT_SECONDS, self._beat)
        loop.call_repeatedly(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        pool = self.worker.pool
        threads = pool.num_processes if pool is not None else 1
        self.runtime.task_risks.check(
            list(state.active_requests), reserved(self.runtime), threads, self.runtime.accounting.finished_count
        )

    def _beat(self) -> None:
        self.runtime.last_beat = monotonic()
        self.recycle.check()
        if self.runtime.consuming:
            consumer: Consumer = self.worker.consumer
            consumer.raise_if_lost()
            if (prefetch := consumer.credits) is not None:
                prefetch.apply(prefetch.limit)

    def stop(self, worker: Any) -> None:
        """The process ends."""


class Consuming(bootsteps.StartStopStep):  # type: ignore[misc]
    """Ready while the consumer is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """After the task consumer exists."""
        if not consumer.settlement.outlives_connection:
            end_connection_with(consumer.task_consumer.channel)
        consumer.start_credits()
        Runtime.of(consumer.app).consuming = True

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker ends: then no further round of the loop sends what was acknowledged
        last.
        """
        runtime = Runtime.of(consumer.app)
        runtime.consuming = False
        if runtime.drain.draining:
            consumer.settlement.flush()
