"""kombu's Redis transport with atomic fetching and batched acknowledgements; for the worker's own consumer only.

Everything that is not fetching (declaring, binding, publishing, fanout, TLS, Sentinel, key prefix) stays kombu's. Why
fetching does not: kombu pops a message before it books it, acknowledges with a round trip each, and on a green pool
never restores what a dead worker held.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from celery.utils.log import get_logger
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import loads
from kombu.utils.scheduling import priority_cycle

from greenworker import hub
from greenworker.brokers import dead_letters
from greenworker.brokers.redis.client import Client, UnavailableError, client_class, is_full, unavailable
from greenworker.brokers.redis.notifier import ASK_ANYWAY_SECONDS, EmptyQueueNotifier
from greenworker.brokers.redis.rights import refusing
from greenworker.brokers.redis.unacked_store import FETCH_AT_ONCE, UnackedStore

if TYPE_CHECKING:
    from greenworker.runtime import Runtime

logger = get_logger(__name__)

FETCH_GAP_SECONDS = 0.004
"""Two fetches are at least so far apart, so that slots which become free together are filled together."""

IDLE_WAIT_SECONDS = (0.005, 0.1)
"""Without a notifier an empty queue is asked again after the first, doubling up to the second: 10 questions a second at
rest. With one, so long is the pause before listening again where other workers took the message first: a hundred idle
workers are not to run for each message.
"""

FLOW_SECONDS = 0.03
"""Where messages come closer together than this, they are asked for together."""

FANOUT_WAIT_SECONDS = 0.05
"""With a fanout subscription on this very connection (gossip), which is not how we start workers."""


class QoS(stock.QoS):
    """Keeps count locally; what Redis knows is the store's business."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """The fetch has booked the message already; one that came by ``basic_get`` has not been."""
        if delivery_tag in self.channel.store.held:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            self.channel.by_get.add(delivery_tag)
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if delivery_tag in self.channel.store.held:
            self.channel.store.ack(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        elif delivery_tag in self.channel.by_get:
            self.channel.by_get.discard(delivery_tag)
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A task's own requeue goes to the tail, as in kombu: at the head it would starve all others."""
        store = self.channel.store
        if delivery_tag not in store.held:
            if delivery_tag in self.channel.by_get:
                super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            try:
                store.give_back([delivery_tag], started=True, head=False)
            except Exception:
                store.return_later([delivery_tag])
                raise
            finally:
                virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Called when a channel closes. What runs goes on running and is acknowledged later, over the next connection;
        what has not started was given back by the consumer, and is another worker's by now. What is left came by
        ``basic_get``.
        """
        got = [tag for tag in self._delivered if tag in self.channel.by_get]
        with self.channel.conn_or_acquire(client) as connection:
            for tag in got:
                self.restore_by_tag(tag, client=connection)
        self._delivered.clear()


class Channel(stock.Channel):
    """Fetches as many messages at once as can start now."""

    QoS = QoS
    runtime: ClassVar[Runtime]
    process_store: ClassVar[UnackedStore]
    """Both are set by `RedisKind`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.store = self.process_store
        self.by_get: set[str] = set()
        self.emptied = False
        """The last fetch took all that its queues had."""
        super().__init__(*args, **kwargs)
        if not self.ack_emulation:
            self.QoS = virtual.QoS  # type: ignore[assignment]

    def _get_client(self) -> Any:
        super()._get_client()  # checks the version
        return client_class(self.global_keyprefix)

    def _size(self, queue: str) -> int:
        """kombu asks in a transaction, which a full Redis refuses, and with it the declaration of the queue."""
        with refusing(self._plain(), self.lists([queue])), self.conn_or_acquire() as client:
            return sum(client.llen(self._q_for_pri(queue, step)) for step in self.priority_steps)

    def _plain(self) -> Client:
        """A client that adds no prefix."""
        return Client(connection_pool=self.pool)

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        """A full Redis refuses the binding, which only producers need, and has one already where they have sent
        anything: the worker goes on, for nobody else empties it.
        """
        try:
            with unavailable(), refusing(self._plain(), ()):
                super()._queue_bind(*args, **kwargs)
        except UnavailableError as error:
            if not is_full(error):
                raise
            logger.warning("Redis is full, a binding could not be written: %r", error)

    def room(self) -> int:
        """Messages that may be fetched now: prefetch allows them, and the pool can start them or hold them ready."""
        allowed = self.qos.can_consume_max_estimate()
        pool, consumer = self.runtime.pool, self.runtime.consumer
        assert pool is not None and consumer is not None
        multiplier = consumer.prefetch_multiplier
        if pool.isolation.active:
            return 0
        if not multiplier:  # the app wants all that there is
            return FETCH_AT_ONCE if allowed is None else int(allowed)
        startable = max(0, pool.limit * multiplier - len(pool.jobs) - len(pool.pending))
        return int(startable if allowed is None else min(allowed, startable))

    def lists(self, queues: Sequence[str]) -> list[str]:
        """Redis keys of *queues*, highest priority first."""
        prefix = self.global_keyprefix
        return [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]

    def fetch(self) -> int:
        """Fetch and deliver; how many."""
        queues = self.active_queues
        room = self.room() if queues and not self.runtime.drain.draining else 0
        self.emptied = False
        if not room:
            return 0
        order = self._queue_cycle.consume(len(queues))
        lists = self.lists(order)
        with refusing(self._plain(), lists):
            fetched = self.store.fetch(lists, order * len(self.priority_steps), self._width(order), room)
        self.emptied = len(fetched) < min(room, FETCH_AT_ONCE)
        if fetched:
            self._queue_cycle.rotate(order[fetched[-1][0] % len(order)])
        for position, (index, tag, payload) in enumerate(fetched):
            if self.runtime.drain.draining:
                # It may have begun while the one before was delivered, and have given all back itself.
                self.store.give_back([later for _, later, _ in fetched[position:]], started=False)
                return position
            self._hand_over(tag, payload, order[index % len(order)])
        return len(fetched)

    def _width(self, order: Sequence[str]) -> int:
        """How many queues the script takes from in turn. The orders ``priority`` and ``sorted`` empty one before the
        next.
        """
        return 1 if isinstance(self._queue_cycle, priority_cycle) else len(order)

    def _hand_over(self, tag: str, payload: bytes, queue: str) -> None:
        """Give the message to Celery, as kombu does. What nobody can read or take becomes a dead letter: a worker
        that ended with it would only hand it on to the next one. Raises what is not the message's fault.
        """
        reason = dead_letters.UNDECODABLE
        try:
            message = loads(payload.decode())
            message["properties"]["delivery_tag"] = tag
            reason = dead_letters.REFUSED
            self.connection._deliver(message, queue)
        except Exception as error:
            if isinstance(error, MemoryError) or (reason == dead_letters.REFUSED and self.is_not_its_fault(error)):
                raise
            self.set_aside(tag, queue, reason, error)

    def is_not_its_fault(self, error: Exception) -> bool:
        """Whether *error* says nothing of the message that was taken. kombu counts KeyError among the errors of its
        connection; here it is a header that is missing.
        """
        return isinstance(error, (MemoryError, *self.connection_errors)) and not isinstance(error, KeyError)

    def set_aside(self, tag: str, queue: str, reason: str, error: Exception) -> None:
        """Make a message that cannot be taken a dead letter. One that is settled meanwhile stays as it is."""
        if tag not in self.store.held:
            logger.error("A message of %s is settled, and Celery raised: %r", queue, error, exc_info=error)
            return
        text = dead_letters.refusal(reason, error)
        if self.store.dead_letter(tag, queue, text):
            self.runtime.accounting.dead_letters.add(1, queue, "", reason)
        if tag in self.qos._delivered:
            virtual.QoS.ack(self.qos, tag)
        logger.error(
            "A message of %s cannot be taken and is among its dead letters now (Redis list %s): %s",
            queue, dead_letters.key(self.global_keyprefix, queue), text, exc_info=error,
        )  # fmt: skip


class Poller(stock.MultiChannelPoller):
    """Waits for messages with a notifier or by asking, not by blocking in BRPOP, which pops before anything is
    booked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wakeup = Channel.runtime.capacity
        self.pause = IDLE_WAIT_SECONDS[0]
        self.asked_at = 0.0
        self.found_at = 0.0
        self.known_empty = False
        """The last question emptied the queues, and Redis is to say when that has changed."""
        self.lost_race = False
        """Redis had notified us, and other workers were faster."""
        self.in_flow = False
        """The next message is near, and asking is cheaper than a notification."""

    def _refresh_bindings(self) -> None:
        refresh = getattr(super(), "maybe_refresh_binding_expiry", None)  # kombu 5.7
        if refresh is not None:
            refresh()

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        """Never."""

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Deliver what there is, or wait for at most *timeout* seconds and raise Empty."""
        deadline = monotonic() + (1.0 if timeout is None else timeout)
        self._in_protected_read = True
        try:
            while True:
                self._refresh_bindings()
                if self._fetch():
                    return
                left = deadline - monotonic()
                if left <= 0 or not any(channel.active_queues for channel in self._channels):
                    self._fanout(min(max(left, 0.0), 0.2))
                    raise Empty
                if any(channel.active_fanout_queues for channel in self._channels):
                    if self._fanout(min(left, FANOUT_WAIT_SECONDS)):
                        return
                    continue
                self._wait(left)
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()

    def _fetch(self) -> bool:
        """Ask, unless Redis would have notified us."""
        anyway = self.known_empty
        if anyway and monotonic() - self.asked_at < ASK_ANYWAY_SECONDS:
            return False
        gap = self.asked_at + FETCH_GAP_SECONDS - monotonic()
        if gap > 0:
            hub.sleep(gap)
        self.asked_at = monotonic()
        consuming, notifier = self._consuming(), self._notifier()
        count = sum(channel.fetch() for channel in consuming)
        self.known_empty = notifier is not None and all(channel.emptied for channel in consuming)
        self.lost_race = notifier is not None and notifier.connected and not (count or anyway or self.in_flow)
        if count:
            self.pause = IDLE_WAIT_SECONDS[0]
            self.in_flow = self.asked_at - self.found_at < FLOW_SECONDS
            self.found_at = self.asked_at
            if anyway and notifier is not None and notifier.quiet:
                notifier.reconnect_later()
        return bool(count)

    def _consuming(self) -> list[Channel]:
        return [channel for channel in self._channels if channel.active_queues]

    def _notifier(self) -> EmptyQueueNotifier | None:
        return next((channel.store.notifier for channel in self._consuming()), None)

    def _wait(self, left: float) -> None:
        """Full: until a slot becomes free. Empty: until the notifier reports a message; without one, a little longer
        each time.
        """
        with_capacity = [channel for channel in self._consuming() if channel.room()]
        if not with_capacity:
            self.wakeup.wait(min(left, 0.5))
        elif self.in_flow:
            self.known_empty = False
            self.in_flow = self.pause < FLOW_SECONDS / 2
            self._back_off(left)
        elif self.lost_race:
            self.lost_race = False
            self._back_off(left)
        else:
            self._listen(with_capacity, left)

    def _listen(self, with_capacity: list[Channel], left: float) -> None:
        notifier = self._notifier()
        lists = [name for channel in with_capacity for name in channel.lists(sorted(channel.active_queues))]
        empty = notifier.listen(lists) if notifier is not None else None
        if notifier is None or empty is None:
            self._back_off(left)
        elif empty:
            notifier.wait(left)
        self.known_empty = notifier is not None and notifier.quiet

    def _back_off(self, left: float) -> None:
        hub.sleep(min(self.pause, left))
        self.pause = min(self.pause * 2, IDLE_WAIT_SECONDS[1])

    def _fanout(self, seconds: float) -> bool:
        if not any(channel.active_fanout_queues for channel in self._channels):
            hub.sleep(seconds)
            return False
        for channel in self._channels:
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        return bool([self.handle_event(descriptor, event) for descriptor, event in self.poller.poll(seconds) or ()])

    def maybe_restore_messages(self) -> None:
        """The store's part, on a clock of its own."""


def attach(channels: list[Any]) -> None:
    """Have the store use the last of *channels*, which has just connected. Raises the broker's connection errors."""
    channel = channels[-1]
    try:
        channel.store.attach(channel)
    except Exception:
        channels.remove(channel)
        with suppress(Exception):
            channel.close()
        raise


class Transport(stock.Transport):
    """What the worker's consumer connects with when the broker is Redis."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()  # type: ignore[assignment]

    def establish_connection(self) -> Any:
        connection = super().establish_connection()
        attach(self._avail_channels)
        return connection


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same through Redis Sentinel."""


class SentinelTransport(Transport):
    """The same through Redis Sentinel."""

    default_port = 26379  # type: ignore[assignment]
    Channel = SentinelChannel
