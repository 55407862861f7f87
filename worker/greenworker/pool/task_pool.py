"""The green pool: Celery's pool interface on the hub's primitives.

Why not Celery's own: a full one blocks the consumer inside ``GreenPool.spawn``, so that nobody reads the broker's
heartbeats and every prefetched message runs before a shutdown; it ignores time limits; and a killed task counts as a
success. Here a task that finds no free thread waits in a queue of the pool, which the drain can give back.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger
from celery.worker.request import Request

from greenworker import hub
from greenworker.pool.isolation import AGAIN_SECONDS, Isolation, dead_letter
from greenworker.pool.outcome import FAILURE, KILLED, SUCCESS, exception_name, outcome
from greenworker.runtime import Runtime

logger = get_logger(__name__)

LOOK_SECONDS = 1.0
"""How often it is looked whether anything but suspects is left: so long the next messages may take to come."""


class Job:
    """One task on its way through the pool; without a *request* a call that a strategy of the app's own makes
    (batches).
    """

    __slots__ = (
        "accept",
        "args",
        "callback",
        "hard",
        "killed",
        "name",
        "on_error",
        "request",
        "soft",
        "started",
        "target",
        "thread",
    )

    def __init__(
        self, target: Callable[..., Any], args: tuple[Any, ...], callback: Any, request: Any, accept: Any = None
    ) -> None:
        self.target = target
        self.args = args
        self.callback = callback
        self.request = request
        self.accept = accept
        self.on_error: Any = None
        self.soft: float | None = None
        self.hard: float | None = None
        self.started = 0.0
        self.killed = False
        self.thread: Any = None
        self.name = str(request.name if request is not None else getattr(args[0] if args else None, "name", "unknown"))


class TaskPool(BasePool):  # type: ignore[misc]
    """Green threads up to an absolute limit that may change at any moment."""

    signal_safe = False
    is_green = True
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runtime = Runtime.of(self.app)
        self.may_start: Callable[[Any], bool] = lambda request: True
        """Asked before a request starts; whoever says no has taken it back. Set by the consumer, for rate limits."""
        environment = self.runtime.environment
        self.jobs: dict[int, Job] = {}
        self.pending: deque[Job] = deque()
        self.isolation = Isolation(
            self._start, lambda job: job.request, lambda: self.runtime.drain.draining, self._dead_letter, self._rest
        )
        self.isolation.max_deaths = environment.max_deliveries
        self._isolating = False
        self.idle = hub.Wakeup()
        self.default_soft = self.options.get("soft_timeout") or environment.soft_limit_seconds
        self.default_hard = self.options.get("timeout") or environment.hard_limit_seconds
        self.runtime.pool = self

    Timer = hub.timer_class()

    # Celery's interface

    def on_start(self) -> None:
        """Nothing to start; tell those who listen for the Eventlet pool's signals."""
        signals.eventlet_pool_started.send(sender=self)

    def on_stop(self) -> None:
        """Wait for the tasks that run. What never started is not acknowledged, so the broker keeps it."""
        signals.eventlet_pool_preshutdown.send(sender=self)
        self.take_pending()
        while self.jobs:
            self.idle.wait(1.0)
        signals.eventlet_pool_postshutdown.send(sender=self)

    def on_terminate(self) -> None:
        """Kill what runs."""
        self.take_pending()
        for job in list(self.jobs.values()):
            self.kill(job)

    def flush(self) -> None:
        """The connection is lost: what has not started will be delivered again."""
        self.take_pending()

    def apply_async(  # noqa: PLR0917 - Celery's signature
        self, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, accept_callback: Any = None,
        error_callback: Any = None, soft_timeout: float | None = None, timeout: float | None = None, **_: Any,
    ) -> None:  # fmt: skip
        """Start the task now, or let it wait. Never blocks. Celery's own adds a log line and a copy of *kwargs*."""
        if kwargs:
            bound = target

            def target(*positional: Any) -> Any:
                return bound(*positional, **kwargs)

        if signals.eventlet_pool_apply.receivers:
            signals.eventlet_pool_apply.send(sender=self, target=target, args=args, kwargs=kwargs)
        request = getattr(accept_callback, "__self__", None)
        request = request if isinstance(request, Request) else None
        job = Job(target, decoded_once(tuple(args or ()), request), callback, request, accept_callback)
        job.on_error = error_callback
        job.soft = soft_timeout or self.default_soft
        job.hard = timeout or self.default_hard
        if self.runtime.drain.draining:
            return  # its message goes back, or has gone back
        if self.isolation.wants(request):
            self.isolation.add(job)
        else:
            self.pending.append(job)
        self._advance()

    def grow(self, n: int = 1) -> None:
        """Celery's relative resize; ours is `resize`."""
        self.resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Celery's relative resize; ours is `resize`."""
        self.resize(self.limit - n)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Kill the task that runs as *pid*; Celery has announced it as revoked."""
        job = self.jobs.get(pid)
        if job is not None:
            self.kill(job)

    def spawn_n(self, function: Any, *args: Any) -> None:
        """For Celery's remote control, which wants a green thread outside of the pool."""
        hub.spawn(function, *args)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        info.update({"max-concurrency": self.limit, "free-threads": self.free(), "running-threads": len(self.jobs)})
        return info

    # ours

    def resize(self, threads: int) -> None:
        """Set the limit. Growing starts what waits; shrinking lets what runs finish."""
        self.limit = max(1, threads)
        self._advance()
        self.runtime.capacity.set()

    def free(self) -> int:
        """Tasks that could start now; not negative."""
        if self.isolation.active:
            return 0
        return max(0, self.limit - len(self.jobs) - len(self.pending))

    def running(self) -> Iterator[Job]:
        """A snapshot of the jobs that have started."""
        return iter(list(self.jobs.values()))

    def requests(self) -> list[Any]:
        """Of what runs and of what waits for a green thread."""
        jobs = [*self.jobs.values(), *self.pending, *self.isolation.waiting]
        return [job.request for job in jobs if job.request is not None]

    def take_pending(self) -> list[Job]:
        """Take everything that has not started, oldest first."""
        jobs = [*self.isolation.take_waiting(), *self.pending]
        self.pending.clear()
        return jobs

    def kill(self, job: Job) -> None:
        """End a running task without a result. The caller has settled its message."""
        job.killed = True
        if job.started == 0.0 or job.thread is hub.current():
            return
        try:
            hub.kill(job.thread)
        except Exception as error:
            logger.warning("A killed task raised %r: %s", error, job.name)

    def _advance(self) -> None:
        if self.isolation.active:
            if not self.jobs and not self._isolating:
                self._isolating = True
                hub.spawn(self._isolate)
            return
        while self.pending and len(self.jobs) < self.limit:
            job = self.pending.popleft()
            if self.may_start(job.request):
                self._start(job)

    def _isolate(self) -> None:
        """In a green thread of its own: it waits for the broker."""
        try:
            self.isolation.advance()
        except Exception:
            logger.exception("Could not start what has to run apart")
        finally:
            self._isolating = False
        if not self.jobs and not self.runtime.drain.draining:
            self._advance()
            self.runtime.capacity.set()

    def _rest(self, seconds: float) -> None:
        """Suspects wait while everything else runs, for so long, or until nothing else is there."""
        hub.call_after(min(seconds, LOOK_SECONDS), self._resume, monotonic() + seconds)

    def _resume(self, at: float) -> None:
        if monotonic() < at and (self.jobs or self.pending):
            hub.call_after(LOOK_SECONDS, self._resume, at)
            return
        self.isolation.resume()
        self._advance()

    def _dead_letter(self, job: Job) -> None:
        if not dead_letter(self.isolation.attempts, self.runtime.accounting, job.request):
            hub.call_after(AGAIN_SECONDS, self._dead_letter_again, job)

    def _dead_letter_again(self, job: Job) -> None:
        if not self.runtime.drain.draining:
            self.isolation.add(job)
            self._advance()

    def _start(self, job: Job) -> None:
        job.thread = hub.spawn(self._run, job)
        self.jobs[id(job.thread)] = job

    def _run(self, job: Job) -> None:
        request, accounting = job.request, self.runtime.accounting
        if self._withdrawn(job):
            self._leave(job)
            return
        job.started = monotonic()
        state = KILLED
        try:
            accounting.task_started(job.name, request)
            if job.accept is not None:
                job.accept(id(job.thread), job.started)
            if job.killed:  # it was terminated while it waited; Celery announces that once it is accepted
                return
            if request is not None and not request.task.acks_late:
                assert self.runtime.consumer is not None
                self.runtime.consumer.send_acknowledgement(request.message)
            result = self._limited(job)
            if not job.killed:
                state = outcome(result) if request is not None else SUCCESS
                if state == FAILURE:
                    accounting.task_failed(job.name, exception_name(result[1].exception))
                if job.callback is not None:
                    job.callback(result)
        except hub.killed_exception():
            if not job.killed and job.callback is not None:
                job.callback((False, None, None))
        except BaseException:
            state = FAILURE
            accounting.task_failed(job.name, exception_name(sys.exc_info()[1]))
            self._broke(job)
        finally:
            self.runtime.task_ended(request.task if request is not None else next(iter(job.args), job.name))
            accounting.task_finished(job.name, state, monotonic() - job.started)
            self._leave(job)

    def _withdrawn(self, job: Job) -> bool:
        """Whether it must not start: killed, revoked or expired while it waited. Celery has asked before it came into
        the line.
        """
        try:
            revoked = job.request is not None and job.request.revoked()
        except Exception:
            logger.exception("Could not find out whether %s is revoked", job.name)
            revoked = False
        return bool(revoked or job.killed)

    def _leave(self, job: Job) -> None:
        self.jobs.pop(id(job.thread), None)
        if self.isolation.ended(job):
            hub.spawn(self.isolation.clear, job)
        self._advance()
        self.runtime.capacity.set()
        if not self.jobs:
            self.idle.set()

    def _limited(self, job: Job) -> Any:
        if job.soft is None and job.hard is None:
            return job.target(*job.args)
        timers = []
        if job.soft is not None:
            timers.append(hub.raise_after(job.soft, SoftTimeLimitExceeded(job.soft)))
        if job.hard is not None:
            timers.append(hub.call_after(job.hard, self._hard_limit, job))
        try:
            return job.target(*job.args)
        finally:
            for timer in timers:
                timer.cancel()

    def _hard_limit(self, job: Job) -> None:
        """Record TimeLimitExceeded, settle the message as ``acks_on_failure_or_timeout`` says, then kill."""
        if job.killed or id(job.thread) not in self.jobs:
            return
        job.killed = True
        self.runtime.accounting.task_failed(job.name, "TimeLimitExceeded")
        try:
            if job.request is not None:
                job.request.on_timeout(False, job.hard)
                if job.request.task.acks_late and not job.request.acknowledged:  # Celery 5.6
                    job.request.reject(requeue=True)
                if job.request.task.acks_late and not acks_on_timeout(job.request.task):
                    self.runtime.accounting.requeued.add(1, "hard_limit")
            elif job.callback is not None:
                job.callback(None)
        except Exception:
            logger.exception("Could not settle %s after its hard time limit", job.name)
            self._give_back(job)
        self.kill(job)

    def _give_back(self, job: Job) -> None:
        """Celery stores the failure before it settles the message. Without a result backend nobody would: the message
        stayed with this worker for ever.
        """
        if job.request is None or not job.request.task.acks_late or job.request.acknowledged:
            return
        try:
            job.request.reject(requeue=True)
        except Exception:
            logger.exception("Could not give %s back", job.name)
        else:
            self.runtime.accounting.requeued.add(1, "hard_limit")

    def _broke(self, job: Job) -> None:
        """Celery's tracer itself failed (a result backend that is down, sys.exit() in a task): record, never crash."""
        problem = sys.exc_info()[1]
        logger.error("Task %s broke outside of its own code: %r", job.name, problem, exc_info=True)
        if job.on_error is None or job.killed:
            return
        try:
            if not isinstance(problem, Exception):
                try:
                    raise RuntimeError(f"{type(problem).__name__} raised in a task: {problem}") from problem
                except RuntimeError:
                    job.on_error(ExceptionInfo())
            else:
                job.on_error(ExceptionInfo())
        except Exception:
            logger.exception("Could not record the failure of %s", job.name)


def decoded_once(args: tuple[Any, ...], request: Any) -> tuple[Any, ...]:
    """The tracer's arguments with the body that Celery's strategy has decoded already: it asks for the payload to tell
    the protocol, and the tracer would decode the same text again.
    """
    payload = getattr(getattr(request, "message", None), "_decoded_cache", None)
    if payload is None or len(args) != 6 or not args[4] or args[3] is not request.message.body:
        return args
    return (*args[:3], payload, None, None)


def acks_on_timeout(task: Any) -> bool:
    """Celery 5.7 has a setting of its own for it, 5.6 one for failures and time-outs together."""
    return bool(getattr(task, "acks_on_timeout", getattr(task, "acks_on_failure_or_timeout", True)))
