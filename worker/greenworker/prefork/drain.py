"""SIGTERM to the prefork companion: Celery's own shutdowns, and the same deadline as the green worker's."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from celery.worker import state

from greenworker import compat, native
from greenworker.pool.drain import LAST_RESORT_SECONDS, Drain


class ProcessDrain(Drain):
    """Celery's warm shutdown suits processes; at the deadline its cold one, which requeues what it kills."""

    def _start(self) -> None:
        if not compat.cold_shutdown_ends_tasks():
            signal.signal(signal.SIGQUIT, self._end_tasks)
        native.start_thread(self._deadline_by_signal, ())

    @staticmethod
    def _end_tasks(*_: object) -> None:
        """What Celery's cold shutdown does from 5.5 on: earlier ones wait for what runs. The messages go back as the
        worker ends.
        """
        for request in list(state.active_requests):
            request._already_cancelled = request.acknowledged = True  # nobody settles its message but the end
            with suppress(ProcessLookupError, TypeError):
                os.kill(request.worker_pid, signal.SIGKILL)

    def _deadline_by_signal(self) -> None:
        native.sleep(self.runtime.environment.drain_seconds)
        self.requeued = len(state.active_requests)
        self.runtime.accounting.requeued.add(self.requeued, "drain")
        os.kill(os.getpid(), signal.SIGQUIT)
        native.sleep(LAST_RESORT_SECONDS)
        native.say(f"the drain hangs, leaving now; {self.summary()}")
        os._exit(0)
