"""Celery's consumer with a loop for green pools: drains, resizes quorum queues, and keeps AMQP's heartbeats cheaply.

Celery's own loop drains the event dispatcher's connection for up to 0.1 s in every cycle, which is 17 tasks a second on
AMQP; it notices a new prefetch count or a shutdown only after two idle seconds; and where an acknowledgement is the
first to find the connection broken, kombu connects anew inside ``drain_events`` and says nothing, to a channel without
a consumer: the worker looks well and never gets another message.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from time import monotonic
from typing import Any
from weakref import WeakSet

from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer

from greenworker import compat, hub
from greenworker.brokers.amqp.prefetch import Credits
from greenworker.brokers.declarations import refuse_declarations
from greenworker.brokers.factory import settlement_of
from greenworker.brokers.forwarding import Forwarder
from greenworker.brokers.settlement import Settlement
from greenworker.misconfigured import or_exit
from greenworker.monitoring.task_risks import ACK_TIMED_OUT, acknowledge, settles
from greenworker.pool.isolation import refuse, take_header
from greenworker.pool.rate_limits import StartRate
from greenworker.pool.revocation import settle_revocations
from greenworker.runtime import Runtime

logger = get_logger(__name__)

CYCLE_SECONDS = 0.25
"""The loop looks up at least so often: for a new prefetch count, a shutdown, a heartbeat that failed."""

DISPATCHER_SECONDS = 1.0
"""How often the event dispatcher's connection is read, so that its heartbeats do not pile up."""


def loop(  # noqa: PLR0912, PLR0917 - Celery's signature, and what may end it
    c: Consumer, connection: Any, consumer: Any, blueprint: Any, _hub: Any, qos: Any, _heartbeat: Any, _clock: Any,
    hbrate: float = 2.0, **_: Any,
) -> None:  # fmt: skip
    """One life of a connection; an exception ends it, and Celery's consumer reconnects."""
    c.buffer_task_events()
    dispatcher = c.event_dispatcher.connection if c.event_dispatcher else None
    heartbeats = [Heartbeat(each, hbrate) for each in (connection, dispatcher) if each is not None]
    consumer.on_message = c.create_task_handler()
    if not c.runtime.drain.draining:
        c.begin_consuming()
        c.runtime.consuming = True
    c.on_ready()
    dispatcher_read = monotonic()
    try:
        while blueprint.state == bootsteps.RUN and c.connection:
            c.perform_pending_operations()
            if not c.still_draining():
                state.maybe_shutdown()
            c.apply_prefetch()
            raise_if_broken(connection, heartbeats)
            try:
                connection.drain_events(timeout=CYCLE_SECONDS)
            except TimeoutError:
                pass
            except OSError:
                if blueprint.state == bootsteps.RUN:
                    raise
            except connection.channel_errors as error:
                if ACK_TIMED_OUT not in str(error):
                    raise
                # RabbitMQ's consumer_timeout. Celery would end the worker, which waits for the very task that is late.
                raise ConnectionResetError(f"RabbitMQ has closed the channel: {error}") from error
            if dispatcher is not None and monotonic() - dispatcher_read > DISPATCHER_SECONDS:
                dispatcher_read = monotonic()
                if dispatcher.supports_heartbeats:
                    read_unless_busy(c.event_dispatcher)
    finally:
        c.runtime.consuming = False
        if c.runtime.drain.draining:
            c.send_events()
        for heartbeat in heartbeats:
            heartbeat.stop()


EVENTS_SECONDS = 0.05
"""How long a task event may wait for others that travel with it."""

EVENTS_AT_ONCE = 1000
"""From so many on they are sent at once. At Celery's own limit of 24 each of the green threads that wait for a message
to be sent would send the few events of the meantime in one of its own: 1,700 messages for 9,000 events.
"""


class Heartbeat:
    """Of one AMQP connection, for as long as its loop runs. Celery's own goes on after the connection is lost, one more
    timer with all that it refers to for each reconnect.
    """

    def __init__(self, connection: Any, rate: float) -> None:
        """*rate*: how often to look, in times per negotiated interval."""
        self.error: BaseException | None = None
        self._connection = connection
        self._rate = rate
        interval = connection.get_heartbeat_interval()
        self._seconds = interval / rate if interval and connection.supports_heartbeats else 0.0
        self._next: Any = None
        self._wait()

    def _wait(self) -> None:
        if self._seconds:
            self._next = hub.call_after(self._seconds, self._beat)

    def _beat(self) -> None:
        try:
            if self._connection.connected:
                self._connection.heartbeat_check(self._rate)
        except Exception as error:
            self.error = error
        else:
            self._wait()

    def stop(self) -> None:
        """The connection is lost or closed."""
        self._seconds = 0.0
        if self._next is not None:
            self._next.cancel()


def raise_if_broken(connection: Any, heartbeats: list[Heartbeat]) -> None:
    """To be asked right before reading, which would connect anew by itself."""
    for heartbeat in heartbeats:
        if heartbeat.error is not None:
            raise heartbeat.error
    if not connection.connected:
        raise ConnectionResetError("an acknowledgement found the connection to the broker broken")


def read_what_is_there(connection: Any) -> None:
    """Read frames that have arrived, wait for none."""
    try:
        while True:
            connection.drain_events(timeout=0.001)
    except OSError as error:
        if not isinstance(error, TimeoutError) and error.errno not in (None, errno.EAGAIN):
            raise


def read_unless_busy(dispatcher: Any) -> None:
    """Not while another green thread sends task events: it waits for the broker's confirmation, and reads all that
    comes. Eventlet forbids two that read one socket.
    """
    if dispatcher.mutex.acquire(blocking=False):
        try:
            read_what_is_there(dispatcher.connection)
        finally:
            dispatcher.mutex.release()


class Consumer(StockConsumer):  # type: ignore[misc]
    """Set as ``worker_consumer`` for the Eventlet role."""

    loop = staticmethod(loop)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.runtime = Runtime.of(kwargs["app"])
        self.runtime.consumer = self
        self.credits: Credits | None = None
        self.start_rates: dict[str, StartRate] = {}
        self._events_timer: Any = None
        self._cancelled: dict[str, str] = {}
        """Queues of the consumers that the drain has cancelled, by tag."""
        super().__init__(*args, **kwargs)
        runtime = self.runtime
        self.settlement: Settlement = or_exit(settlement_of, self, runtime, hub.within)
        self.forwarder = Forwarder(self.app, runtime.routes, runtime.task_risks, self.settlement)
        refuse_declarations(self)
        self.pool.may_start = self.may_start
        self.runtime.task_buckets = self.task_buckets
        self.pool.isolation.attempts = self.settlement.attempts
        if not hasattr(state, "scheduled_requests") or isinstance(state.scheduled_requests, ScheduledRequests):
            state.scheduled_requests = ScheduledRequests(self.timer)

    def apply_eta_task(self, task: Any) -> Any:
        """Its ETA has come."""
        state.scheduled_requests.discard(task)
        return super().apply_eta_task(task)

    def _limit_post_eta(self, request: Any, bucket: Any, tokens: Any) -> Any:
        state.scheduled_requests.discard(request)
        return super()._limit_post_eta(request, bucket, tokens)

    def update_strategies(self) -> None:
        """For every connection."""
        settle_revocations(self.app)
        super().update_strategies()

    def buffer_task_events(self) -> None:
        """Several task events in one message, as Celery does for its process pool: one by one they cost a round trip
        each.
        """
        dispatcher = self.event_dispatcher
        if dispatcher:
            dispatcher.buffer_group = frozenset({"task"})
            dispatcher.buffer_limit = EVENTS_AT_ONCE
            dispatcher.on_send_buffered = self.on_send_event_buffered
            compat.keep_events_of_the_meantime(dispatcher)

    def on_send_event_buffered(self) -> None:
        """An event waits to be sent."""
        if self._events_timer is None:
            self._events_timer = hub.call_after(EVENTS_SECONDS, self.send_events)

    def send_events(self) -> None:
        """Now: those that wait."""
        self._events_timer = None
        try:
            self._flush_events()
        except Exception as error:
            logger.warning("Could not send task events: %r", error)

    def reset_rate_limits(self) -> None:
        """At the start, and when remote control sets one. Celery forgets what waits for the old rate; it waits for the
        new one.
        """
        old = {name: bucket for name, bucket in self.task_buckets.items() if bucket is not None and bucket.contents}
        super().reset_rate_limits()
        for name, bucket in old.items():
            if (new := self.task_buckets[name]) is not None:
                new.contents.extend(bucket.contents)
                bucket.clear_pending()
                self._schedule_bucket_request(new)
        self.start_rates = {
            name: StartRate(bucket.fill_rate) for name, bucket in self.task_buckets.items() if bucket is not None
        }

    def may_start(self, request: Any) -> bool:
        """False: its rate limit does not allow it yet, and it waits in its bucket again. Celery takes the token when
        the pool gets the task; those that wait for a thread together would start together.
        """
        if not self.start_rates or self.disable_rate_limits or request is None:
            return True
        rate, bucket = self.start_rates.get(request.task.name), self.task_buckets[request.task.name]
        if rate is None or bucket is None or rate.take(monotonic()):
            return True
        state.reserved_requests.discard(request)
        bucket.contents.appendleft((request, 1))
        self.timer.call_after(rate.seconds(monotonic()), self._schedule_bucket_request, (bucket,))
        return False

    def connect(self) -> Any:
        """Our transport, for this connection only."""
        connection = self.runtime.broker.connection(self.app, self.amqheartbeat)
        return compat.with_static_prefetch(self.app, self.ensure_connected(connection))

    def on_connection_error_after_connected(self, exc: Any) -> Any:
        """Celery reduces the prefetch count unless a setting says not to, which 5.3 does not have."""
        before = self.initial_prefetch_count
        super().on_connection_error_after_connected(exc)
        compat.keep_prefetch_count(self, before)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's handler, unless we drain (then the message goes back) or forward (then it goes on)."""
        handle = super().create_task_handler(*args, **kwargs)
        drain, take, received = self.runtime.drain, self.forwarder.take, self.runtime.received
        settlement = self.settlement
        settlement.connected()

        def on_message(message: Any) -> None:
            if drain.draining:
                settlement.return_soon(message)
                drain.returned += 1
                self.runtime.accounting.requeued.add(1, "drain")
            elif not take(message) and not settlement.count_redelivery(message):
                run_here(message)

        def run_here(message: Any) -> None:
            try:
                take_header(message)
                received(message)
                settlement.check_delivery_limit(message)
                handle(message)
            except Exception as error:
                refuse(settlement, message, error, self.pool.requests())

        self.forwarder.run_here = run_here
        return on_message

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now: Celery 5.6 would wait for the next message to arrive first (5.7 has ``call_soon_ack``)."""
        if not settles(p):
            return super().call_soon(p, *args, **kwargs)
        return self.call_soon_ack(p, *args)

    def call_soon_ack(self, p: Any, *args: Any, **_: Any) -> Any:
        """Acknowledge or reject now; Celery logs what the broker does not take, we also count it."""
        try:
            acknowledge(self.runtime.task_risks, p, *args)
        except Exception:
            self.runtime.task_risks.acks_failed += 1
            logger.exception("Could not acknowledge")
        return p

    def send_acknowledgement(self, message: Any) -> None:
        """An early acknowledgement reaches the broker before its task begins: a task that takes its process along at
        once does not come again. Late ones travel together. What the broker does not take is logged, as by Celery.
        """
        try:
            self.settlement.acknowledge_now(message)
        except Exception:
            self.runtime.task_risks.acks_failed += 1
            logger.exception("Could not acknowledge")

    def begin_consuming(self) -> None:
        """A new connection: all credits at once, once it is sure that what is not ours can be sent on."""
        or_exit(self.forwarder.check, [queue.name for queue in self.task_consumer.queues])
        if self.qos.value and compat.prefetch_is_static(self):
            self.credits = Credits(self.task_consumer, lambda: self.runtime.drain.draining)
            self.apply_prefetch()
        else:
            self.credits = None
            self.task_consumer.consume()

    def apply_prefetch(self) -> None:
        """Tell the broker a new prefetch count. A quorum queue's is fixed for the life of a consumer: see `Credits`."""
        qos = self.qos
        if self.credits is not None:
            qos.prev = qos.value
            self.credits.apply(qos.value)
        elif qos.prev != qos.value:
            qos.update()

    # drain

    def still_draining(self) -> bool:
        """While tasks run, the connection is kept and read; Celery's shutdown begins when the last has ended."""
        return self.runtime.drain.draining and bool(self.pool.jobs or self.settlement.busy)

    def stop_consuming(self) -> None:
        """No message comes any more; those that are on their way are known by their consumers."""
        self.runtime.consuming = False
        consumer = self.task_consumer
        if consumer is None or self.connection is None:
            return
        self._cancelled |= {tag: name for name, tag in consumer._active_tags.items()}
        self.settlement.stop_deliveries(consumer)

    def give_back_unstarted(self) -> int:
        """Return what is prefetched, held for an ETA or waits for a rate limit; how many."""
        self.pool.take_pending()
        requests = unstarted_requests(self)
        for request in requests:
            entry = getattr(request, "_eta_timer_entry", None)
            if entry is not None:
                self.timer.cancel(entry)
            state.task_ready(request)
        # A worker that starts now does not know of the revoke.
        revoked = [request for request in requests if request.id in state.revoked]
        try:
            return self._give_back([request for request in requests if request.id not in state.revoked], revoked)
        finally:
            for request in revoked:
                request.revoked()

    def _give_back(self, requests: list[Any], kept: list[Any]) -> int:
        messages = [request.message for request in requests]
        return self.settlement.return_unstarted(self, messages, [request.message for request in kept])

    def unstarted_tags(self, held: Iterable[str]) -> list[str]:
        """See `settlement.Holder`."""
        jobs = list(self.pool.running())
        if any(job.request is None for job in jobs):
            # A strategy of the app's own runs what nobody else knows of: its messages stay until it has ended.
            known = {request.message.delivery_tag for request in unstarted_requests(self, clear=False)}
            return [tag for tag in held if tag in known]
        running = {job.request.message.delivery_tag for job in jobs}
        return [tag for tag in held if tag not in running]

    def held_messages(self) -> list[Any]:
        """What has been delivered and is not settled, as far as it has requests."""
        running = [job.request for job in self.pool.running() if job.request is not None]
        requests = [*running, *unstarted_requests(self, clear=False)]
        return [request.message for request in requests]

    def requeue_started(self, requests: list[Any]) -> int:
        """Tasks that the drain is about to kill: back to their queue, marked as redelivered; how many."""
        self.settlement.requeue_started([request.message for request in requests])
        for request in requests:
            request.acknowledged = True
        return len(requests)

    def consumed_from(self, message: Any) -> str:
        """The name of the queue that *message* was consumed from; empty if its consumer is not known, as on Redis."""
        tag = (message.delivery_info or {}).get("consumer_tag")
        if tag is None:
            return ""
        if self.credits is not None and (found := self.credits.queue_of(tag)):
            return found
        active = {value: name for name, value in self.task_consumer._active_tags.items()} if self.task_consumer else {}
        return str(active.get(tag) or self._cancelled.get(tag, ""))

    # reconnect

    def on_close(self) -> None:
        """The connection is lost. On Redis what runs stays ours; what has not started goes back as soon as Redis
        answers.
        """
        self.runtime.consuming = False
        self.settlement.connection_lost(self)
        if isinstance(state.scheduled_requests, ScheduledRequests):
            state.scheduled_requests.cancel()
        super().on_close()

    def shutdown(self) -> None:
        """The end: the last acknowledgements, then Celery's."""
        self.settlement.close()
        super().shutdown()


class ScheduledRequests(WeakSet[Any]):
    """What is held for an ETA, which Celery 5.6 does not know: it only sets a timer. 5.7 has a set of that name."""

    def __init__(self, timer: Any) -> None:
        super().__init__()
        self.timer = timer
        call_at = timer.call_at

        def remember(eta: Any, function: Any, arguments: Any = (), *more: Any, **options: Any) -> Any:
            entry = call_at(eta, function, arguments, *more, **options)
            if arguments and hasattr(arguments[0], "message"):
                arguments[0]._eta_timer_entry = entry
                self.add(arguments[0])
            return entry

        timer.call_at = remember

    def cancel(self) -> None:
        """The connection is lost, and the broker delivers them again; 5.6 would let the timers fire as well."""
        for request in tuple(self):
            self.timer.cancel(request._eta_timer_entry)
        self.clear()


def unstarted_requests(c: Consumer, *, clear: bool = True) -> list[Any]:
    """Everything that was delivered and has not started: in line, held for an ETA, waiting for a rate limit."""
    running = {id(job.request) for job in c.pool.running()}
    found = {id(request): request for request in [*state.reserved_requests, *state.scheduled_requests]}
    for bucket in c.task_buckets.values():
        if bucket:
            found.update((id(entry[0]), entry[0]) for entry in bucket.contents)
            if clear:
                bucket.clear_pending()
    return [request for key, request in found.items() if key not in running and request not in state.active_requests]
