"""Attempts and dead letters on Redis: the attempts are written into the held message itself."""

from __future__ import annotations

from time import time
from typing import Any

from greenworker.brokers.dead_letters import WORKER_LOST, DeadLetter, key
from greenworker.brokers.redis.unacked_store import UnackedStore
from greenworker.brokers.suspicion import Suspicion, with_header


class RedisAttempts:
    """See `settlement.Attempts`."""

    def __init__(self, store: UnackedStore) -> None:
        self.store = store

    def so_far(self, message: Any, known: Suspicion) -> Suspicion:
        """The message has come with them."""
        return known

    def begin(self, message: Any, after: Suspicion) -> None:
        """Who gets the message after the death of this process sees one more; who gets it from this process
        does not.
        """
        held = self.store.held.get(message.delivery_tag)
        if held is not None:
            self.store.mark(message.delivery_tag, with_header(held.payload, after))

    def end(self, message: Any) -> None:
        """Whatever settles the message forgets them."""

    def requeue(self, message: Any, suspicion: Suspicion) -> bool:
        """After a child died of it: notes the record, and leaves the way back to the caller, whose requeue takes what
        is held.
        """
        held = self.store.held.get(message.delivery_tag)
        if held is not None:
            held.payload = with_header(held.payload, suspicion)
        return False

    def dead_letter(self, message: Any, task: str, task_id: str, deaths: int) -> str:
        """One script. A message that is no longer ours is another worker's to settle."""
        held, channel = self.store.held.get(message.delivery_tag), message.channel
        if held is None:
            raise LookupError("this worker no longer holds the message")
        queue = held.key.removeprefix(channel.global_keyprefix).rsplit(channel.sep, 1)[0]
        letter = DeadLetter(queue, task, task_id, WORKER_LOST, round(time(), 3), deaths, held.payload)
        if not self.store.move(message.delivery_tag, key(channel.global_keyprefix, queue), letter.to_json(), head=True):
            raise LookupError("another worker has the message by now")
        channel.qos._quick_ack(message.delivery_tag)
        message._state = "ACK"
        return queue
