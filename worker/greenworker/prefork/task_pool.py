"""Celery's process pool with a counter at either end of a task, and suspects apart from the others.

Everything is counted in the parent process, which sees every task being accepted and ending; children need nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.prefork import TaskPool as StockPool
from celery.utils.log import get_logger

from greenworker.pool.isolation import AGAIN_SECONDS, Isolation, dead_letter, suspicion_of
from greenworker.pool.outcome import FAILURE, exception_name, outcome, outcome_of_error
from greenworker.prefork.process_pool import ProcessPool, is_sent
from greenworker.runtime import Runtime

logger = get_logger(__name__)


class Item:
    """A task on its way to a child."""

    def __init__(self, target: Any, args: Any, kwargs: Any, options: dict[str, Any], request: Any) -> None:
        self.call = (target, args, kwargs)
        self.options = options
        self.request = request
        self.job: Any = None
        """Billiard's, once it is under way."""


class TaskPool(StockPool):  # type: ignore[misc]
    """Celery's pool with a counter at either end of a task, and suspects apart from the others.

    A child that dies ends one task, and the parent knows which. What ends the parent as well (an OOM kill of the
    container) may have been any of them.
    """

    Pool = ProcessPool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runtime = Runtime.of(self.app)
        self.under_way: list[Item] = []
        self.pending: deque[Item] = deque()
        self.isolation = Isolation(
            self._start_apart, lambda item: item.request, lambda: self.runtime.drain.draining, self._dead_letter
        )
        self.isolation.max_deaths = self.runtime.environment.max_deliveries
        self.timer: Any = None
        """The event loop's, once there is a consumer."""

    def apply_async(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Count when the task is accepted and when it ends, whichever way it ends."""
        accept = options.get("accept_callback")
        request = getattr(accept, "__self__", None)
        if accept is None or request is None:
            return super().apply_async(target, args, kwargs, **options)
        item = Item(target, args, kwargs, options, request)
        count = TaskTimer(self.runtime, request, lambda: self._ended(item), self.lost)
        options["accept_callback"] = count.before(accept)
        for name in ("callback", "error_callback"):
            if options.get(name) is not None:
                options[name] = count.after(options[name])
        if self.isolation.wants(request):
            self.isolation.add(item)
            self._advance()
        elif self.isolation.active:
            self.pending.append(item)
        else:
            return self._start(item)
        return None

    def _start(self, item: Item) -> Any:
        self.under_way.append(item)
        try:
            item.job = super().apply_async(*item.call, **item.options)
        except BaseException:
            self.under_way.remove(item)
            raise
        return item.job

    def requests(self) -> list[Any]:
        """Of what is under way to a process and of what waits for one."""
        return [item.request for item in (*self.under_way, *self.pending, *self.isolation.waiting)]

    def flush_unsent(self, flush: Callable[[], None]) -> None:
        """In a drain, and on Redis after a lost connection: *flush* is Celery's, which forgets what no process has
        accepted. A process runs all the same what is in its pipe, so that stays under way.
        """
        pool = self._pool
        sent = [
            item.job for item in self.under_way
            if is_sent(item.job) and not item.job._accepted and item.job not in pool.outbound_buffer
        ]  # fmt: skip
        for job in sent:
            job._accepted = True
        try:
            flush()
        finally:
            for job in sent:
                job._accepted = job._worker_pid is not None  # its process may have said so meanwhile
                if not job._accepted and not is_sent(job):
                    job.discard()

    def forget_discarded(self) -> None:
        """The connection is lost, and Celery has discarded what no child had accepted: no callback will come for it."""
        known = getattr(self._pool, "_cache", {})
        self.under_way[:] = [item for item in self.under_way if item.job is not None and item.job._job in known]
        self.isolation.running[:] = [item for item in self.isolation.running if item in self.under_way]

    def _ended(self, item: Item) -> None:
        if item in self.under_way:
            self.under_way.remove(item)
        if self.isolation.ended(item):
            self.isolation.clear(item)
        self._advance()

    def _advance(self) -> None:
        # A slot that is freed below brings the next task in here, before the rest of its batch has started.
        while (
            self.isolation.waiting
            and not (self.under_way or self.isolation.running)
            and not self.runtime.drain.draining
        ):
            self.isolation.advance()
        while self.pending and not self.isolation.active:
            item = self.pending.popleft()
            if not self._withdrawn(item):
                self._start(item)

    def _start_apart(self, item: Item) -> None:
        if not self._withdrawn(item):
            self._start(item)
        elif self.isolation.ended(item):
            self.isolation.clear(item)

    def _withdrawn(self, item: Item) -> bool:
        """Whether it was revoked or has expired while it waited here: then Celery has settled it. It had asked before
        it came.
        """
        try:
            revoked = bool(item.request.revoked())
        except Exception:
            logger.exception("Could not find out whether %s is revoked", item.request.name)
            return False
        if revoked:
            self.free_slot()
        return revoked

    def free_slot(self) -> None:
        """Celery has taken a slot for it, which the end of a job would give back; one too many does no harm."""
        semaphore = self.options.get("semaphore")
        if semaphore is not None:
            semaphore.release()

    def lost(self, request: Any) -> bool:
        """A child has died of this task, which was all that it ran; False if Celery is to requeue it as it is."""
        attempts, message = self.isolation.attempts, request.message
        if attempts is None or self.runtime.drain.draining:
            return False
        message.suspicion = suspicion_of(request).begun(alone=True)
        if message.suspicion.deaths_alone >= self.isolation.max_deaths and dead_letter(
            attempts, self.runtime.accounting, request
        ):
            return True
        if not attempts.requeue(message, message.suspicion):
            return False
        request.acknowledged = True
        return True

    def _dead_letter(self, item: Item) -> None:
        if dead_letter(self.isolation.attempts, self.runtime.accounting, item.request):
            self.free_slot()
        else:
            self.timer.call_after(AGAIN_SECONDS, self._dead_letter_again, (item,))

    def _dead_letter_again(self, item: Item) -> None:
        self.isolation.add(item)
        self._advance()


class TaskTimer:
    """One task's way through the counters."""

    def __init__(self, runtime: Runtime, request: Any, ended: Callable[[], None], lost: Callable[[Any], bool]) -> None:
        self.runtime = runtime
        self.request = request
        self.ended = ended
        self.lost = lost
        self.started: float | None = None

    def before(self, accept: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the callback of a task that a child has taken."""

        def accepted(pid: int, time_accepted: float) -> Any:
            self.started = monotonic()
            self.runtime.accounting.task_started(self.request.name, self.request)
            return accept(pid, time_accepted)

        return accepted

    def after(self, ended: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a callback of a task that has ended."""

        def finished(result: Any, *args: Any, **kwargs: Any) -> Any:
            if self.started is not None:
                how = outcome_of_error(result.exception) if isinstance(result, ExceptionInfo) else outcome(result)
                self.runtime.accounting.task_finished(self.request.name, how, monotonic() - self.started)
                error = result.exception if isinstance(result, ExceptionInfo) else getattr(result[1], "exception", None)
                if how == FAILURE or type(error).__name__ == "TimeLimitExceeded":
                    self.runtime.accounting.task_failed(self.request.name, exception_name(error))
                self.started = None
            if isinstance(result, ExceptionInfo):
                self._reject_as_lost(result.exception)
            try:
                return ended(result, *args, **kwargs)
            finally:
                self.ended()

        return finished

    def _reject_as_lost(self, error: Any) -> None:
        """Celery decides whether a task whose child has died runs again; how often is for us to say."""
        if type(getattr(error, "exc", error)).__name__ not in ("WorkerLostError", "SystemExit"):
            return
        request, reject = self.request, self.request.reject

        def lost(requeue: bool = False) -> None:
            if not (requeue and self.lost(request)):
                reject(requeue=requeue)

        request.reject = lost
