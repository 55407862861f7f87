"""The prefork companion: the same metrics, health and drain around Celery's own process pool.

Everything is counted in the parent process, which sees every task being accepted and ending; children need nothing.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import bootsteps
from celery.concurrency.prefork import TaskPool as StockPool
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer

from greenworker import compat, native
from greenworker.brokers.declarations import refuse_declarations
from greenworker.brokers.factory import settlement_of
from greenworker.brokers.serializers import restrict_tasks
from greenworker.brokers.settlement import Settlement
from greenworker.misconfigured import or_exit
from greenworker.monitoring.metrics import Gauge
from greenworker.monitoring.task_risks import ACK_TIMED_OUT, CHECK_SECONDS, acknowledge, check_tasks, settles
from greenworker.pool.drain import LAST_RESORT_SECONDS, Drain
from greenworker.pool.isolation import AGAIN_SECONDS, Isolation, dead_letter, refuse, suspicion_of, take_header
from greenworker.pool.outcome import FAILURE, exception_name, outcome, outcome_of_error
from greenworker.pool.revocation import settle_revocations
from greenworker.pool.steps import Recycle, reserved
from greenworker.prefork.credits import start_credits
from greenworker.prefork.process_pool import ProcessPool, is_sent
from greenworker.runtime import Runtime

if TYPE_CHECKING:
    from greenworker.brokers.amqp.prefetch import Credits

logger = get_logger(__name__)

HEARTBEAT_SECONDS = 1.0

LOST = "the connection to the broker is lost"


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
        """On Redis, after a lost connection: *flush* is Celery's, which forgets what no process has accepted. A process
        runs all the same what is in its pipe, so that stays under way.
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


def within(_seconds: float, what: Callable[[], Any]) -> Any:
    """Ordinary sockets have time-outs of their own."""
    return what()


def without_reconnect(connection: Any) -> Any:
    """*connection*, a connected one of AMQP, which never connects anew by itself: nothing consumes on what kombu would
    connect, and Celery's event loop does not read it. Whoever uses it once it is lost gets ``ConnectionResetError``.
    """

    def ensure_connection(*_: Any, **__: Any) -> Any:
        if not connection.connected:
            # Without an errno: so `celery.worker.loops._quick_drain` drops it, which may be called where the hub is
            # cleaned up.
            raise ConnectionResetError(LOST)
        return connection._connection

    connection._ensure_connection = ensure_connection
    return connection


def end_connection_with(channel: Any) -> None:
    """If RabbitMQ closes *channel*, of py-amqp, for its consumer_timeout, the connection ends as one that is lost does.

    To Celery that is an error from which there is no recovery: it would take no more tasks, wait for the very task that
    is late, and end.
    """
    from amqp import spec  # noqa: PLC0415 - not on Redis

    closed = channel._callbacks[spec.Channel.Close]

    def on_close(reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        if ACK_TIMED_OUT not in reply_text:
            closed(reply_code, reply_text, class_id, method_id)
            return
        channel.connection.collect()
        raise ConnectionResetError(f"RabbitMQ has closed the channel: {reply_text}")

    channel._callbacks[spec.Channel.Close] = on_close


class Consumer(StockConsumer):  # type: ignore[misc]
    """Set as ``worker_consumer`` for the prefork role: on Redis, our transport for this connection only."""

    def update_strategies(self) -> None:
        """For every connection."""
        settle_revocations(self.app)
        super().update_strategies()

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Celery connects and registers with its event loop; only the transport may differ."""
        connection = self.ensure_connected(self.runtime.broker.companion_connection(self.app, heartbeat))
        connection = compat.with_static_prefetch(self.app, connection)
        return connection if self.settlement.outlives_connection else without_reconnect(connection)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_declarations(self)
        self._received: dict[int, Any] = {}
        self._prune_at = 100
        self._queues: dict[str, str] = {}
        self.credits: Credits | None = None
        runtime = self.runtime = Runtime.of(self.app)
        runtime.task_buckets = self.task_buckets
        self.settlement: Settlement = or_exit(settlement_of, self, runtime, within)
        self.pool.isolation.attempts = self.settlement.attempts
        self.pool.timer = self.timer

    def consumed_from(self, message: Any) -> str:
        """The queue that *message* came from, on AMQP; empty if nobody can say."""
        info = message.delivery_info or {}
        tag = str(info.get("consumer_tag") or "")
        if tag not in self._queues and self.credits is not None:
            self._queues[tag] = self.credits.queue_of(tag)
        elif tag not in self._queues and self.task_consumer:
            self._queues |= {active: name for name, active in self.task_consumer._active_tags.items()}
        return str(self._queues.get(tag) or info.get("routing_key") or "")

    def held_messages(self) -> list[Any]:
        """See `settlement.Holder`."""
        return list(self._received.values())

    def unstarted_tags(self, held: Iterable[str]) -> list[str]:
        """See `settlement.Holder`."""
        running = {request.message.delivery_tag for request in self._started()}
        return [tag for tag in held if tag not in running]

    def _started(self) -> list[Any]:
        """Requests that run, or are on their way to a process."""
        return [*state.active_requests, *(item.request for item in self.pool.under_way)]

    def on_close(self) -> None:
        """The connection is lost. On Redis what runs stays ours; what has not started goes back as soon as Redis
        answers.
        """
        pool = self.pool
        pool.pending.clear()
        pool.isolation.take_waiting()
        if not self.settlement.outlives_connection:
            self.settlement.connection_lost(self)
            super().on_close()
            pool.forget_discarded()
            return
        pool.flush_unsent(super().on_close)
        pool.forget_discarded()
        for request in self._started():
            state.task_reserved(request)
        self.settlement.connection_lost(self)

    def start_credits(self) -> None:
        """A new connection. Where the broker fixes a consumer's prefetch, as quorum queues do, messages that wait for
        their ETA would take all of it, and no other would come.
        """
        self.credits = None
        self._queues.clear()
        if self.qos.value and compat.prefetch_is_static(self):
            self.credits = start_credits(self.task_consumer, self.qos, self.runtime.drain)

    def raise_if_lost(self) -> None:
        """To be asked by a timer of the event loop: the error ends the loop, and Celery connects anew. Celery reads the
        connection as its loop begins, for a tenth of a second, and drops what the broker says there of its end
        (`celery.worker.loops._quick_drain`). The socket is closed by then, so nothing else notices.
        """
        if not self.settlement.outlives_connection and self.connection is not None and not self.connection.connected:
            raise ConnectionResetError(LOST)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's handler; a message with an ETA is looked at first."""
        handle, runtime, settlement = super().create_task_handler(*args, **kwargs), self.runtime, self.settlement
        self._received.clear()
        settlement.connected()

        def on_message(message: Any) -> None:
            if settlement.count_redelivery(message):
                return
            if not settlement.outlives_connection:
                self._remember(message)
            try:
                take_header(message)
                runtime.received(message)
                settlement.check_delivery_limit(message)
                handle(message)
            except Exception as error:
                if refuse(settlement, message, error, self.pool.requests()):
                    self.pool.free_slot()

        return on_message

    def _remember(self, message: Any) -> None:
        self.consumed_from(message)  # the name is asked for when its consumer may be gone
        self._received[message.delivery_tag] = message
        if self.credits is not None:
            message.channel.unsettled.delivered(message.delivery_tag, message.delivery_info["consumer_tag"])
        if len(self._received) >= self._prune_at:
            self._received = {key: each for key, each in self._received.items() if not each.acknowledged}
            self._prune_at = 2 * len(self._received) + 100

    def shutdown(self) -> None:
        """The end: whatever is not acknowledged goes back before the channel closes, which would count as a failure of
        each.
        """
        left = [message for message in self._received.values() if not message.acknowledged]
        if left:
            try:
                self.settlement.return_messages(left)
            except Exception as error:
                native.say(f"{len(left)} messages were not given back, the broker delivers them again: {error!r}")
        super().shutdown()

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery acknowledges in the next round of its event loop; count what the broker does not take."""
        if not settles(p):
            return super().call_soon(p, *args, **kwargs)
        return super().call_soon(acknowledge, self.runtime.task_risks, p, *args)

    call_soon_ack = call_soon


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


class ParentAgent(bootsteps.StartStopStep):  # type: ignore[misc]
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


def install(runtime: Runtime, app: Any) -> None:
    """Put all of it into the app that is about to start."""
    from celery import signals  # noqa: PLC0415 - beside what it is for

    worker: Any = None

    def use_our_pool(sender: Any, **_: Any) -> None:
        nonlocal worker
        worker = sender
        sender.pool_cls = TaskPool

    def processes() -> float:
        pool = getattr(worker, "pool", None)
        return float(pool.num_processes) if pool is not None else 0.0

    signals.worker_init.connect(use_our_pool, weak=False)
    app.steps["worker"].add(ParentAgent)
    app.steps["consumer"].add(Consuming)
    for family in (
        Gauge("greenworker_threads_limit", "Processes that may run tasks now.", processes),
        Gauge("greenworker_threads_busy", "Tasks that run now.", lambda: len(state.active_requests)),
    ):
        runtime.accounting.registry.add(family)
