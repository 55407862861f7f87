"""kombu's Redis transport with atomic fetching and batched acknowledgements; for the worker's own consumer only.

Everything that is not fetching (declaring, binding, publishing, fanout, TLS, Sentinel, key prefix) stays kombu's.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import loads

from greenworker import hub
from greenworker.runtime import Runtime

FETCH_GAP_SECONDS = 0.004
"""Two fetches are at least so far apart, so that slots which become free together are filled together."""

IDLE_WAIT_SECONDS = (0.005, 0.1)
"""An empty queue is asked again after the first, doubling up to the second: 10 questions a second at rest."""

FANOUT_WAIT_SECONDS = 0.05
"""With a fanout subscription on this very connection (gossip), which is not how we start workers."""


class QoS(stock.QoS):
    """Keeps count locally; what Redis knows is the ledger's business."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """The fetch has booked the message already; one that came by ``basic_get`` has not been."""
        if delivery_tag in self.channel.ledger.held:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            self.channel.by_get.add(delivery_tag)
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if delivery_tag in self.channel.ledger.held:
            self.channel.ledger.ack(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        elif delivery_tag in self.channel.by_get:
            self.channel.by_get.discard(delivery_tag)
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A task's own requeue goes to the tail, as in kombu: at the head it would starve all others."""
        ledger = self.channel.ledger
        if delivery_tag not in ledger.held:
            if delivery_tag in self.channel.by_get:
                super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            ledger.give_back([delivery_tag], started=True, head=False)
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Called when a channel closes. What runs goes on running and is acknowledged later, over the next connection;
        what has not started was given back by the consumer.
        """
        mine = self.channel.ledger.held
        foreign = [tag for tag in self._delivered if tag not in mine]
        with self.channel.conn_or_acquire(client) as connection:
            for tag in foreign:
                self.restore_by_tag(tag, client=connection)
        self._delivered.clear()


class Channel(stock.Channel):
    """Fetches as many messages at once as can start now."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        runtime = Runtime.current()
        assert runtime.ledger is not None
        self.runtime = runtime
        self.ledger = runtime.ledger
        self.by_get: set[str] = set()
        super().__init__(*args, **kwargs)
        if not self.ack_emulation:
            self.QoS = virtual.QoS  # type: ignore[assignment]

    def room(self) -> int:
        """Messages that may be fetched now: prefetch allows them, and the pool can start them or hold them ready."""
        allowed = self.qos.can_consume_max_estimate()
        pool = self.runtime.pool
        extra = (self.runtime.environment.prefetch_multiplier - 1) * pool.limit
        startable = max(0, pool.limit + extra - len(pool.jobs) - len(pool.line))
        return int(startable if allowed is None else min(allowed, startable))

    def fetch(self) -> int:
        """Fetch and deliver; how many."""
        queues = self.active_queues
        room = self.room() if queues and not self.runtime.drain.draining else 0
        if not room:
            return 0
        order = self._queue_cycle.consume(len(queues))
        prefix = self.global_keyprefix
        lists = [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in order]
        fetched = self.ledger.fetch(lists, len(order), room)
        if fetched:
            self._queue_cycle.rotate(order[fetched[-1][0] % len(order)])
        if self.runtime.drain.draining:
            self.ledger.give_back([tag for _, tag, _ in fetched], started=False)
            return 0
        for index, _, payload in fetched:
            self.connection._deliver(loads(payload.decode()), order[index % len(order)])
        return len(fetched)


class Poller(stock.MultiChannelPoller):
    """Waits for messages by asking, not by blocking in BRPOP, which pops before anything is booked."""

    def __init__(self) -> None:
        super().__init__()
        self.wakeup = Runtime.current().capacity
        self.pause = IDLE_WAIT_SECONDS[0]
        self.asked_at = 0.0

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
                self._rest(left)
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()

    def _fetch(self) -> bool:
        gap = self.asked_at + FETCH_GAP_SECONDS - monotonic()
        if gap > 0:
            hub.sleep(gap)
        self.asked_at = monotonic()
        count = sum(channel.fetch() for channel in list(self._channels))
        if count:
            self.pause = IDLE_WAIT_SECONDS[0]
        return bool(count)

    def _rest(self, left: float) -> None:
        """Full: until a slot becomes free. Empty: a little longer each time."""
        if any(channel.room() for channel in self._channels if channel.active_queues):
            hub.sleep(min(self.pause, left))
            self.pause = min(self.pause * 2, IDLE_WAIT_SECONDS[1])
        else:
            self.wakeup.wait(min(left, 0.5))

    def _fanout(self, seconds: float) -> bool:
        if not any(channel.active_fanout_queues for channel in self._channels):
            hub.sleep(seconds)
            return False
        for channel in self._channels:
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        return bool([self.handle_event(descriptor, event) for descriptor, event in self.poller.poll(seconds) or ()])

    def maybe_restore_messages(self) -> None:
        """The ledger's part, on a clock of its own."""


class Transport(stock.Transport):
    """What the worker's consumer connects with when the broker is Redis."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()  # type: ignore[assignment]

    def establish_connection(self) -> Any:
        connection = super().establish_connection()
        self._avail_channels[-1].ledger.attach(self._avail_channels[-1])
        return connection


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same through Redis Sentinel."""


class SentinelTransport(Transport):
    """The same through Redis Sentinel."""

    default_port = 26379  # type: ignore[assignment]
    Channel = SentinelChannel
