"""Redis for the prefork companion: kombu's own transport, with every message also booked under its worker.

So the reaper of any other worker gives back what a killed one held. Fetching stays kombu's BRPOP here: a parent process
that is killed between popping and booking loses that one message; the Eventlet workers have no such gap.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from time import monotonic, sleep, time
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import dumps

from greenworker import unpatched
from greenworker.redis_ledger import BEAT_SECONDS, DEAD_AFTER_SECONDS, Ledger
from greenworker.runtime import Runtime


class ThreadLedger(Ledger):
    """Only says that this worker lives, and reaps; an ordinary thread does both. Nothing here is green."""

    def start_background(self) -> None:
        """At the first connection."""
        self._beat(renew=False)
        unpatched.start_thread(self._live, ())

    def _live(self) -> None:
        """One client for everything: this thread is its only user."""
        self._beat_connected_at = monotonic()
        reaped = monotonic()
        while not self._closing:
            sleep(BEAT_SECONDS)
            try:
                self._beat(renew=True)
                self._beat_connected_at = self._beat_connected_at or monotonic()
                if monotonic() - reaped > DEAD_AFTER_SECONDS / 4:
                    reaped = monotonic()
                    self._reap_strangers()
            except Exception as error:
                if self._beat_connected_at:
                    unpatched.say(f"the broker does not take this worker's beat: {error!r}")
                self._beat_connected_at = 0.0


class QoS(stock.QoS):
    """Books and forgets in the same pipelines that kombu sends anyway."""

    @property
    def held_key(self) -> str:
        """Without the prefix: kombu's clients add it."""
        keys = self.channel.ledger.keys
        return str(keys.held).removeprefix(self.channel.global_keyprefix)

    def append(self, message: Any, delivery_tag: str) -> None:
        info = message.delivery_info
        exchange, routing_key = info["exchange"], info["routing_key"]
        raw = dumps(message._raw)
        channel = self.channel
        queue = routing_key if routing_key in channel.active_queues else channel._lookup(exchange, routing_key)[0]
        priority = channel._get_message_priority(message._raw, reverse=False)
        key = channel.global_keyprefix + channel._q_for_pri(queue, priority)
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: time()})
            pipe.hset(self.unacked_key, delivery_tag, f"[{raw}, {dumps(exchange)}, {dumps(routing_key)}]")
            pipe.hset(self.held_key, delivery_tag, f"{len(raw.encode())}:{key}")
            pipe.execute()
        virtual.QoS.append(self, message, delivery_tag)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return super()._remove_from_indices(delivery_tag, pipe).hdel(self.held_key, delivery_tag)


class Channel(stock.Channel):
    """The same channel with our bookkeeping."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ledger = Runtime.current().ledger
        assert ledger is not None
        self.ledger = ledger
        super().__init__(*args, **kwargs)


class Transport(stock.Transport):
    """What the companion's consumer connects with when the broker is Redis."""

    Channel = Channel

    def establish_connection(self) -> Any:
        connection = super().establish_connection()
        channel = self._avail_channels[-1]
        channel.ledger.attach(channel)
        return connection
