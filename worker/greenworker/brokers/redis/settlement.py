"""Settles messages of Redis: the unacked store knows each of them, in the order in which they came, and outlives
connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json import dumps, loads
from typing import Any

from greenworker.brokers.dead_letters import REFUSED
from greenworker.brokers.redis.attempts import RedisAttempts
from greenworker.brokers.redis.unacked_store import UnackedStore
from greenworker.brokers.settlement import Holder, Surroundings
from greenworker.misconfigured import MisconfiguredError


class RedisSettlement:
    """See `settlement.Settlement`."""

    busy = False
    outlives_connection = True

    def __init__(self, store: UnackedStore, surroundings: Surroundings) -> None:
        self._store = store
        self._accounting = surroundings.accounting
        self.attempts = RedisAttempts(self._store) if surroundings.max_deliveries else None

    def queue_of(self, message: Any) -> str:
        """The list that it was fetched from, without prefix and priority."""
        held, channel = self._store.held.get(message.delivery_tag), message.channel
        if held is not None:
            name = held.key.removeprefix(channel.global_keyprefix)
            return str(name.rsplit(channel.sep, 1)[0])
        return str((message.delivery_info or {}).get("routing_key") or "")

    def connected(self) -> None:
        """Nothing: the store is attached by the transport."""

    def count_redelivery(self, message: Any) -> bool:
        """Nothing: who recovers what a dead worker held counts its death."""
        return False

    def check_delivery_limit(self, message: Any) -> None:
        """Redis has none."""

    def refuse(self, message: Any, error: Exception) -> bool:
        """As the transport does with what nobody can read."""
        channel, tag = message.channel, message.delivery_tag
        if channel.is_not_its_fault(error):
            return False
        channel.set_aside(tag, self.queue_of(message), REFUSED, error)
        message._state = "REJECTED"
        return True

    def stop_deliveries(self, consumer: Any) -> None:
        """The poller no longer asks for its queues."""
        consumer.cancel()

    def acknowledge_now(self, message: Any) -> None:
        """See `UnackedStore.send_ack`."""
        self._store.send_ack(message.delivery_tag)

    def flush(self) -> None:
        """What the broker does not take waits for the next round, or the next connection."""
        self._store.send()

    def return_messages(self, messages: Sequence[Any]) -> None:
        """To the head of their lists, unmarked. What came by ``basic_get`` goes back as in kombu."""
        for message in messages:
            if message.delivery_tag in self._store.held:
                self._store.give_back([message.delivery_tag], started=False)
                message.channel.qos._quick_ack(message.delivery_tag)
            else:
                message.requeue()

    def return_soon(self, message: Any) -> None:
        """At once: no other green thread is needed for that."""
        self.return_messages([message])

    def return_unstarted(self, holder: Holder, messages: Sequence[Any], kept: Sequence[Any]) -> int:
        """All at once and in their order; what Redis does not take goes back as soon as it answers."""
        settled = {message.delivery_tag for message in kept}
        tags = [tag for tag in holder.unstarted_tags(self._store.held) if tag not in settled]
        try:
            count: int = self._store.give_back(tags, started=False)
        except Exception:
            self._store.return_later(tags)
            raise
        return count

    def requeue_started(self, messages: Sequence[Any]) -> None:
        """To the head of their lists."""
        held = [message for message in messages if message.delivery_tag in self._store.held]
        if held:
            self._store.give_back([message.delivery_tag for message in held], started=True)
        for message in held:
            message.channel.qos._quick_ack(message.delivery_tag)
            message._state = "REQUEUED"
        self.return_messages([message for message in messages if message not in held])

    def declare(self, queue: Any) -> None:
        """A list exists when something is in it."""

    def forward(self, message: Any, task: str, queue: Any, otherwise: Callable[[MisconfiguredError], None]) -> None:
        """In one step, by a script. Raises the broker's errors."""
        store, channel = self._store, message.channel
        if message.delivery_tag not in store.held:
            return  # it went back with its connection, and is another worker's by now
        payload = loads(store.held[message.delivery_tag].payload)
        # Whoever restores it later must put it back there, not here.
        payload["properties"]["delivery_info"] = {"exchange": "", "routing_key": queue.name}
        priority = channel._get_message_priority(payload, reverse=False)
        key = channel.global_keyprefix + channel._q_for_pri(queue.name, priority)
        try:
            store.move(message.delivery_tag, key, dumps(payload))
        except Exception:
            store.return_later([message.delivery_tag])
            raise
        channel.qos._quick_ack(message.delivery_tag)
        message._state = "ACK"
        self._accounting.forwarded.add(1, task)

    def connection_lost(self, holder: Holder) -> None:
        """What runs stays ours."""
        if self._store.keys is not None:
            self._store.return_later(holder.unstarted_tags(self._store.held))

    def close(self) -> None:
        """See `UnackedStore.close`."""
        self._store.close()
