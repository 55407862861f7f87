"""Celery's consumer for green pools: it takes messages or sends them on, settles them, and gives back what has not
started. Its loop is in `consumer_loop`.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

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
from greenworker.monitoring.task_risks import acknowledge, settles
from greenworker.pool.consumer_loop import loop
from greenworker.pool.isolation import refuse, take_header
from greenworker.pool.rate_limits import StartRate
from greenworker.pool.revocation import settle_revocations
from greenworker.pool.unstarted import ScheduledRequests, unstarted_requests
from greenworker.runtime import Runtime

logger = get_logger(__name__)

EVENTS_SECONDS = 0.05
"""How long a task event may wait for others that travel with it."""

EVENTS_AT_ONCE = 1000
"""From so many on they are sent at once. At Celery's own limit of 24 each of the green threads that wait for a message
to be sent would send the few events of the meantime in one of its own: 1,700 messages for 9,000 events.
"""


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
