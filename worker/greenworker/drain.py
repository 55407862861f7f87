"""SIGTERM: stop consuming, give back what has not started, let what runs finish, leave before the grace period ends.

Celery's warm shutdown waits for ever and its cold one breaks the hub. Here the deadline first rejects what still runs,
while the channel is open, and only then kills it; and a real thread ends the process if all of that hangs.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from greenworker import hub, unpatched

if TYPE_CHECKING:
    from greenworker.pool import Job
    from greenworker.runtime import Runtime

LAST_RESORT_SECONDS = 10.0
"""After the drain's own time; the grace period is 15 s longer than that (docs/contract.md)."""


class Drain:
    """The end of a worker. `begin` may be called from a signal handler, and again."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.draining = False
        self.returned = 0
        self.requeued = 0
        self.killed_early_ack = 0
        self.began = 0.0
        self._finished_before = 0

    def begin(self) -> None:
        """Start draining; a second call changes nothing."""
        if self.draining:
            return
        self.draining = True
        self.began = monotonic()
        self._finished_before = self.runtime.accounting.finished_count
        unpatched.start_thread(self._last_resort, ())
        hub.call_after(0, self._stop_consuming)
        hub.call_after(self.runtime.environment.drain_seconds, self._deadline)

    def summary(self) -> str:
        """What the drain did, for the log."""
        finished = (
            self.runtime.accounting.finished_count - self._finished_before - self.requeued - self.killed_early_ack
        )
        return (
            f"drained in {monotonic() - self.began:.1f} s: {finished} finished, {self.returned} given back unstarted, "
            f"{self.requeued} requeued at the deadline, {self.killed_early_ack} early-ack tasks killed"
        )

    def _last_resort(self) -> None:
        unpatched.sleep(self.runtime.environment.drain_seconds + LAST_RESORT_SECONDS)
        unpatched.say(f"the drain hangs, leaving now; {self.summary()}")
        os._exit(0)

    def _stop_consuming(self) -> None:
        consumer = self.runtime.consumer
        if consumer is None:
            return
        try:
            consumer.stop_consuming()
        except Exception as error:
            unpatched.say(f"could not cancel the consumer: {error!r}")
        try:
            count = consumer.give_back_unstarted()
            self.returned += count
            if count:
                self.runtime.accounting.requeued.add(count, "drain")
        except Exception as error:
            unpatched.say(f"could not give back what had not started: {error!r}")

    def _deadline(self) -> None:
        pool, consumer = self.runtime.pool, self.runtime.consumer
        jobs: list[Job] = list(pool.running()) if pool is not None else []
        for job in jobs:
            if job.killed:
                continue
            self._settle(job, consumer)
        for job in jobs:
            pool.kill(job)

    def _settle(self, job: Job, consumer: Any) -> None:
        from celery.worker import state  # noqa: PLC0415 - not before patching

        request = job.request
        job.killed = True
        if request is None:
            return
        try:
            if request.task.acks_late and not request.acknowledged:
                consumer.requeue_started(request)
                self.requeued += 1
                self.runtime.accounting.requeued.add(1, "drain")
            elif not request.task.acks_late:
                self.killed_early_ack += 1
                self.runtime.accounting.early_ack_killed.add(1)
        except Exception as error:
            unpatched.say(f"could not requeue {request.id}: {error!r}")
        state.task_ready(request)
