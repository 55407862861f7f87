"""SIGTERM: stop consuming, give back what has not started, let what runs finish, leave before the grace period ends.

Celery's warm shutdown waits for ever and its cold one breaks the hub. Here the deadline first rejects what still runs,
while the channel is open, and only then kills it; and a real thread ends the process if all of that hangs.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from greenworker import hub, native

if TYPE_CHECKING:
    from greenworker.pool.task_pool import Job
    from greenworker.runtime import GreenConsumer, Runtime

LAST_RESORT_SECONDS = 10.0
"""How long leaving may take after the last task has ended, and after the drain's own time; the grace period is 15 s
longer than that (docs/contract.md).
"""


class Drain:
    """The end of a worker. `begin` may be called from a signal handler, and again."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.draining = False
        self.returned = 0
        self.requeued = 0
        self.abandoned = 0
        self.killed_early_ack = 0
        self.began = 0.0
        self._finished_before = 0

    def begin(self) -> None:
        """Start draining; a second call changes nothing. May be called from a signal handler."""
        if self.draining:
            return
        self.draining = True
        self.began = monotonic()
        self._finished_before = self.runtime.accounting.finished_count
        self._start()

    def _start(self) -> None:
        native.start_thread(self._last_resort, ())
        hub.call_after(0, self._stop_consuming)
        hub.call_after(self.runtime.environment.drain_seconds, self._deadline)

    def summary(self) -> str:
        """What the drain did, for the log."""
        running = self._running()
        ended = self.runtime.accounting.finished_count - self._finished_before
        killed = self.requeued + self.abandoned + self.killed_early_ack - sum(job.killed for job in running)
        parts = [
            f"{max(0, ended - killed)} finished",
            f"{self.returned} given back unstarted",
            f"{self.requeued} requeued at the deadline",
            f"{self.killed_early_ack} early-ack tasks killed",
        ]
        if self.abandoned:
            parts.append(f"{self.abandoned} left for the broker to deliver again")
        if running:
            parts.append(f"{len(running)} still running")
        return f"drained in {monotonic() - self.began:.1f} s: {', '.join(parts)}"

    def _running(self) -> list[Job]:
        pool = self.runtime.pool
        return list(pool.jobs.values()) if pool is not None else []

    def _last_resort(self) -> None:
        """In a real thread: neither a blocked hub nor a broker that swallows everything keeps the process."""
        end = self.began + self.runtime.environment.drain_seconds + LAST_RESORT_SECONDS
        last_ran = self.began
        while monotonic() < min(end, last_ran + LAST_RESORT_SECONDS):
            native.sleep(0.1)
            if self._running():
                last_ran = monotonic()
        native.say(f"shutting down hangs, leaving now; {self.summary()}")
        os._exit(0)

    def _stop_consuming(self) -> None:
        consumer = self.runtime.consumer
        if consumer is None:
            return
        try:
            consumer.stop_consuming()
        except Exception as error:
            native.say(f"could not cancel the consumer: {error!r}")
        try:
            count = consumer.give_back_unstarted()
            self.returned += count
            if count:
                self.runtime.accounting.requeued.add(count, "drain")
        except Exception as error:
            native.say(f"could not give back what had not started: {error!r}")

    def _deadline(self) -> None:
        pool, consumer = self.runtime.pool, self.runtime.consumer
        if pool is None or consumer is None:
            return  # Celery has not made them: nothing runs
        jobs = [job for job in pool.running() if not job.killed]
        for job in jobs:
            job.killed = True
        self._requeue([job.request for job in jobs if job.request is not None], consumer)
        for job in jobs:
            pool.kill(job)

    def _requeue(self, requests: list[Any], consumer: GreenConsumer) -> None:
        """Settle what is about to be killed, while the channel is open."""
        from celery.worker import state  # noqa: PLC0415 - not before patching

        late = [request for request in requests if request.task.acks_late and not request.acknowledged]
        early = sum(not request.task.acks_late for request in requests)
        try:
            self.requeued += consumer.requeue_started(late)
        except Exception as error:
            native.say(f"could not requeue what runs: {error!r}")
        self.abandoned = len(late) - self.requeued
        self.killed_early_ack += early
        self.runtime.accounting.requeued.add(self.requeued, "drain")
        self.runtime.accounting.early_ack_killed.add(early)
        for request in requests:
            state.task_ready(request)
