"""Celery's consumer, as the prefork companion has it: what becomes of a message, a lost connection and, at the end, of
what is not acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer

from greenworker import compat, native
from greenworker.brokers.declarations import refuse_declarations
from greenworker.brokers.factory import settlement_of
from greenworker.brokers.settlement import Settlement
from greenworker.misconfigured import or_exit
from greenworker.monitoring.task_risks import ACK_TIMED_OUT, acknowledge, settles
from greenworker.pool.isolation import refuse, take_header
from greenworker.pool.revocation import settle_revocations
from greenworker.prefork.credits import start_credits
from greenworker.runtime import Runtime

if TYPE_CHECKING:
    from greenworker.brokers.amqp.prefetch import Credits

LOST = "the connection to the broker is lost"


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

    def ensure_connected(self, conn: Any) -> Any:
        """Celery tries until it is connected, and nothing else runs meanwhile: not even the beat, without which kubelet
        would restart the container, and with it end what runs, when the broker is away for longer than
        ``hubWatchdog.restartAfter``.
        """
        ensure = conn.ensure_connection

        def ensure_and_beat(*args: Any, callback: Callable[[], None], **kwargs: Any) -> Any:
            def between() -> None:
                self.runtime.last_beat = monotonic()
                callback()

            return ensure(*args, callback=between, **kwargs)

        conn.ensure_connection = ensure_and_beat
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_declarations(self)
        self._received: dict[int, Any] = {}
        self._prune_at = 100
        self._settlements: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """Acknowledgements that wait for the next round of the event loop."""
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
        """The connection is lost, or a drain begins. In a drain, and on Redis, what runs stays ours; what has not
        started goes back, on Redis as soon as it answers. A drain leaves the event loop no further round: what has
        ended is settled first, or it would go back as well.
        """
        self._settle()
        pool = self.pool
        pool.pending.clear()
        pool.isolation.take_waiting()
        if not (self.settlement.outlives_connection or self.runtime.drain.draining):
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
        self._settlements.append((p, args))
        return super().call_soon(self._settle)

    def _settle(self) -> None:
        while self._settlements:
            settle, args = self._settlements.popleft()
            acknowledge(self.runtime.task_risks, settle, *args)

    call_soon_ack = call_soon
