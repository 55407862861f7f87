"""Redis for the prefork companion: the same atomic fetching and the same store as the green worker has.

kombu's own way is a BRPOP that pops a message and books it afterwards: a worker that is killed in between has lost it.
What differs from the green side is only who waits: Celery's event loop asks and acknowledges in each of its rounds, and
an ordinary thread says that this worker lives.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar

from kombu.transport import redis as stock

from greenworker import native
from greenworker.brokers.redis import transport
from greenworker.brokers.redis.transport import IDLE_WAIT_SECONDS
from greenworker.brokers.redis.unacked_store import FETCH_AT_ONCE, UnackedStore


class ThreadUnackedStore(UnackedStore):
    """What is held belongs to the event loop's thread; an ordinary thread sends its heartbeat and recovers what dead
    workers held.
    """

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.ticking: Any = None
        self.wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable while the event loop is to ask for messages."""

    def wake_loop(self) -> None:
        """The loop is to ask for messages."""
        os.eventfd_write(self.wakeup_fd, 1)

    def clear_wakeup(self) -> None:
        """The loop has asked."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.wakeup_fd)

    def start_background(self) -> None:
        """At the first connection: the heartbeat in one thread, the recovery in another, which may have to wait for an
        answer. kombu's loop has a timer of its own for visibility time-outs.
        """
        native.start_thread(self.heartbeat.run, ())
        native.start_thread(self.recovery.run, (native.sleep, native.say))

    def _make_notifier(self, pool: Any) -> None:
        """None: it is made of green threads. The loop asks ten times a second at rest."""

    def leave(self, **_: Any) -> None:
        """The worker ends: whatever it still holds goes back; what had started is marked as redelivered."""
        try:
            if self.keys is not None:
                self.give_back(list(self.held), started=True)
        except self._errors as error:
            native.say(f"{len(self.held)} messages come back when this worker counts as dead: {error!r}")
        self.close()


class QoS(transport.QoS):
    """Acknowledges in the loop's next round, together with whatever else ended in this one; in a drain, whose loop may
    have made its last round, at once.
    """

    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        if self.channel.runtime.drain.draining:
            self.channel.store.send()


class Channel(transport.Channel):
    """Fetches what prefetch allows, the tasks that outlived an earlier connection included."""

    QoS = QoS
    process_store: ClassVar[ThreadUnackedStore]
    store: ThreadUnackedStore

    def room(self) -> int:
        prefetch = self.qos.prefetch_count
        return max(0, prefetch - len(self.store.held)) if prefetch else FETCH_AT_ONCE


class Poller(stock.MultiChannelPoller):
    """Asks for messages as an event of Celery's loop instead of blocking in BRPOP.

    Every event is followed by a round, and whatever makes room is an event. So a round that finds room wakes the
    loop, and it asks when it comes to its events: what it then hands to the pool is written in the very next round.
    Only an empty queue says nothing when it fills; a timer asks that one again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pause = IDLE_WAIT_SECONDS[0]
        self.ask_at = 0.0
        self.leave_loop: Callable[[], None] = lambda: None
        """Ends the rounds."""

    def close(self) -> None:
        """The connection is lost, or the worker ends."""
        self.leave_loop()
        super().close()

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        """Never."""

    def on_poll_init(self, poller: Any) -> None:
        """Without kombu's look at the visibility time-outs, which has a timer of its own as well."""
        self.poller = poller

    def on_poll_start(self) -> None:
        """Once in every round. Raises the broker's connection errors, which end this life of the consumer."""
        super().on_poll_start()
        with_capacity = monotonic() >= self.ask_at
        for channel in self._consuming():
            if with_capacity and channel.room():
                channel.store.wake_loop()  # the acknowledgements travel with the question
            else:
                channel.store.flush()

    def _consuming(self) -> list[Channel]:
        return [channel for channel in self._channels if channel.active_queues]

    def ask(self, loop: Any) -> None:
        """Fetch what there is room for. A queue that could not fill it is asked again after a pause."""
        for channel in self._consuming():
            channel.store.clear_wakeup()
            room = min(channel.room(), FETCH_AT_ONCE)
            fetched = channel.fetch()
            if fetched < room:
                self.pause = IDLE_WAIT_SECONDS[0] if fetched else min(self.pause * 2, IDLE_WAIT_SECONDS[1])
                self.ask_at = monotonic() + self.pause
                loop.call_later(self.pause, _round)


class Transport(stock.Transport):
    """What the companion's consumer connects with when the broker is Redis."""

    Channel = Channel
    cycle: Poller  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def establish_connection(self) -> Any:
        connection = super().establish_connection()
        transport.attach(self._avail_channels)
        return connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """kombu's, and a timer that does nothing: the loop makes a round at least so often.

        Up to 5.6 kombu ends the rounds when any connection of its pool is closed, also one that nobody uses any more
        (redis-py 4 closes it where garbage is collected). Nobody would ask, or acknowledge, ever again. Ours end with
        the transport's connection.
        """
        others = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        rounds, closed = loop.on_tick - others, self.cycle._on_connection_disconnect

        def go_on(lost: Any) -> None:
            closed(lost)
            loop.on_tick.update(rounds)

        def leave_loop() -> None:
            loop.on_tick.difference_update(rounds)
            rounds.clear()

        self.cycle._on_connection_disconnect = go_on  # type: ignore[method-assign]
        self.cycle.leave_loop = leave_loop
        store = self._avail_channels[-1].store if self._avail_channels else connection.channels[0].store
        loop.add_reader(store.wakeup_fd, self.cycle.ask, loop)
        if store.ticking is not None:
            store.ticking.cancel()
        store.ticking = loop.call_repeatedly(IDLE_WAIT_SECONDS[1], _round)


def _round() -> None:
    """Nothing: a timer that has gone off has begun a round."""


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same through Redis Sentinel."""


class SentinelTransport(Transport):
    """The same through Redis Sentinel."""

    default_port = 26379  # type: ignore[assignment]
    Channel = SentinelChannel
