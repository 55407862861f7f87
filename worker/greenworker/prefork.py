"""The prefork companion: the same metrics, health and drain around Celery's own process pool.

Everything is counted in the parent process, which sees every task being accepted and ending; children need nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import bootsteps
from celery.concurrency.prefork import TaskPool as StockPool
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer

from greenworker import unpatched
from greenworker.content import restrict_tasks
from greenworker.declarations import refuse_declarations
from greenworker.drain import LAST_RESORT_SECONDS, Drain
from greenworker.fatal import or_die
from greenworker.hazards import CHECK_SECONDS, acknowledge, look_at_tasks, settles
from greenworker.metrics import Gauge
from greenworker.outcome import FAILURE, exception_name, outcome, outcome_of_error
from greenworker.revocation import settle_revocations
from greenworker.runtime import Runtime
from greenworker.settings import AMQP_TRANSPORTS, REDIS_TRANSPORTS, broker_scheme, keep_transport, redis_transport
from greenworker.steps import Recycle, reserved

if TYPE_CHECKING:
    from greenworker.returns import Returns

BEAT_SECONDS = 1.0


class TaskPool(StockPool):  # type: ignore[misc]
    """Celery's pool with a counter at either end of a task."""

    def apply_async(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Count when the task is accepted and when it ends, whichever way it ends."""
        accept = options.get("accept_callback")
        request = getattr(accept, "__self__", None)
        if accept is not None and request is not None:
            count = Count(Runtime.current(), request)
            options["accept_callback"] = count.before(accept)
            for name in ("callback", "error_callback"):
                if options.get(name) is not None:
                    options[name] = count.after(options[name])
        return super().apply_async(target, args, kwargs, **options)


class Consumer(StockConsumer):  # type: ignore[misc]
    """Set as ``worker_consumer`` for the prefork role: on Redis, our transport for this connection only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_declarations(self)
        self._received: dict[int, Any] = {}
        self._prune_at = 100
        self._queues: dict[str, str] = {}
        self.returns: Returns | None = None
        if broker_scheme(self.app) in AMQP_TRANSPORTS:
            from greenworker.returns import Returns  # noqa: PLC0415 - needs py-amqp

            self.returns = Returns(
                self.app, lambda message: self._queues.get(message.delivery_info["consumer_tag"], "")
            )
        Runtime.current().task_buckets = self.task_buckets

    def update_strategies(self) -> None:
        """For every connection."""
        settle_revocations(self.app)
        super().update_strategies()

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Celery connects and registers with its event loop; only the transport differs."""
        transport = redis_transport(self.app)
        if transport is None:
            return super().connection_for_read(heartbeat=heartbeat)
        ours = {scheme: name.replace("redis_transport", "prefork_redis") for scheme, name in REDIS_TRANSPORTS.items()}
        connection = self.app.connection_for_read(heartbeat=heartbeat, transport=ours[broker_scheme(self.app)])
        return self.ensure_connected(keep_transport(connection, ours))

    def on_close(self) -> None:
        """The connection is lost. On Redis what runs stays ours; what has not started goes back as soon as Redis answers."""
        ledger = Runtime.current().ledger
        if ledger is not None and ledger.keys is not None:
            running = {request.message.delivery_tag for request in list(state.active_requests)}
            ledger.return_later([tag for tag in list(ledger.held) if tag not in running])
        super().on_close()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's handler; a message with an ETA is looked at first."""
        handle, runtime = super().create_task_handler(*args, **kwargs), Runtime.current()
        returns = self.returns
        self._received.clear()

        def on_message(message: Any) -> None:
            runtime.received(message)
            if returns is not None:
                self._remember(message)
                if message.headers.get("x-delivery-count"):
                    returns.look_at(message, runtime.hazards)
            handle(message)

        return on_message

    def _remember(self, message: Any) -> None:
        tag = message.delivery_info["consumer_tag"]
        if tag not in self._queues:
            self._queues = {active: name for name, active in self.task_consumer._active_tags.items()}
        self._received[message.delivery_tag] = message
        if len(self._received) >= self._prune_at:
            self._received = {key: each for key, each in self._received.items() if not each.acknowledged}
            self._prune_at = 2 * len(self._received) + 100

    def shutdown(self) -> None:
        """The end: whatever is not acknowledged goes back before the channel closes, which would count as a failure of each."""
        left = [message for message in self._received.values() if not message.acknowledged]
        if self.returns is not None and left:
            try:
                self.returns.give_back(left)
            except Exception as error:
                unpatched.say(f"{len(left)} messages were not given back, the broker delivers them again: {error!r}")
        super().shutdown()

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery acknowledges in the next round of its event loop; count what the broker does not take."""
        if not settles(p):
            return super().call_soon(p, *args, **kwargs)
        return super().call_soon(acknowledge, Runtime.current().hazards, p, *args)

    call_soon_ack = call_soon


class Count:
    """One task's way through the counters."""

    def __init__(self, runtime: Runtime, request: Any) -> None:
        self.runtime = runtime
        self.request = request
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
            return ended(result, *args, **kwargs)

        return finished


class ProcessDrain(Drain):
    """Celery's warm shutdown suits processes; at the deadline its cold one, which requeues what it kills."""

    def begin(self) -> None:
        """May be called from a signal handler, and again."""
        if self.draining:
            return
        self.draining = True
        self.began = monotonic()
        self._finished_before = self.runtime.accounting.finished_count
        unpatched.start_thread(self._deadline_by_signal, ())

    def _deadline_by_signal(self) -> None:
        unpatched.sleep(self.runtime.environment.drain_seconds)
        self.requeued = len(state.active_requests)
        self.runtime.accounting.requeued.add(self.requeued, "drain")
        os.kill(os.getpid(), signal.SIGQUIT)
        unpatched.sleep(LAST_RESORT_SECONDS)
        unpatched.say(f"the drain hangs, leaving now; {self.summary()}")
        os._exit(0)


class ParentAgent(bootsteps.StartStopStep):  # type: ignore[misc]
    """The beat of the parent's event loop, and the wish to be recycled."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.runtime = Runtime.current()
        self.recycle = Recycle(self.runtime)
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        """The pool's processes exist now."""
        or_die(restrict_tasks, worker.app, self.runtime.environment.accept_content)
        self.runtime.last_beat = monotonic()
        look_at_tasks(self.runtime.hazards, worker.app, worker.time_limit)

    def register_with_event_loop(self, worker: Any, loop: Any) -> None:
        """Called at every (re)connection; timers of the last one are gone."""
        loop.call_repeatedly(BEAT_SECONDS, self._beat)
        loop.call_repeatedly(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        pool = getattr(self.runtime.pool, "pool", None)
        threads = pool.num_processes if pool is not None else 1
        self.runtime.hazards.check(list(state.active_requests), reserved(self.runtime), threads)

    def _beat(self) -> None:
        self.runtime.last_beat = monotonic()
        self.recycle.check()

    def stop(self, worker: Any) -> None:
        """The process ends."""


class Consuming(bootsteps.StartStopStep):  # type: ignore[misc]
    """Ready while the consumer is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """After the task consumer exists."""
        Runtime.current().consuming = True

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker ends: then no further round of the loop sends what was acknowledged last."""
        runtime = Runtime.current()
        runtime.consuming = False
        if runtime.drain.draining and runtime.ledger is not None:
            runtime.ledger.send()


def install(runtime: Runtime, app: Any) -> None:
    """Put all of it into the app that is about to start."""
    from celery import signals  # noqa: PLC0415 - beside what it is for

    def use_our_pool(sender: Any, **_: Any) -> None:
        runtime.pool = sender
        sender.pool_cls = TaskPool

    def processes() -> float:
        pool = getattr(runtime.pool, "pool", None)
        return float(pool.num_processes) if pool is not None else 0.0

    if redis_transport(app) is not None:
        from greenworker.prefork_redis import ThreadLedger  # noqa: PLC0415 - needs redis

        ledger = runtime.ledger = ThreadLedger(runtime.environment.worker)
        runtime.hazards.ledger_failures = lambda: ledger.flushes_failed
        signals.worker_shutdown.connect(ledger.leave, weak=False)
    signals.worker_init.connect(use_our_pool, weak=False)
    app.steps["worker"].add(ParentAgent)
    app.steps["consumer"].add(Consuming)
    for family in (
        Gauge("greenworker_threads_limit", "Processes that may run tasks now.", processes),
        Gauge("greenworker_threads_busy", "Tasks that run now.", lambda: len(state.active_requests)),
    ):
        runtime.accounting.registry.add(family)
