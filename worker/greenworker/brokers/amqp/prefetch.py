"""Prefetch where the broker fixes it for the life of a consumer, as quorum queues do: several consumers, each with
credits.

A cancelled consumer keeps what it was given until that is settled. Cancel one and add another with the new prefetch,
and the worker holds up to both together. So growth adds a consumer with the difference; a shrink cancels as many as it
must, and their credits come back as their messages are settled. What may be delivered, over all queues (the credits of
the consumers, and what the cancelled ones still hold), is never more than the limit; after a shrink never more than
what was held at that moment, and from there it only falls.

Each queue has a share of the limit: what it needs, and evenly where not all can have that. A queue with a backlog gets
what the others do not use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)

CONSUMERS = 12
"""At most, for one queue. AMQP 0-9-1 asks a broker for 16 at least; with 8 pieces after a shrink there is room
to grow.
"""

PIECES = 8
"""What comes back from cancelled consumers is handed out again in pieces of an eighth at least, so that they
stay few.
"""

SHARE_SECONDS = 1.0
"""How often the shares of several queues are looked at. Each move costs three round trips to the broker."""

WORTH_MOVING = 0.1
"""Of its own share: a queue that would get less than that more is left as it is."""

CREDITS_MAX = 65_535
"""What ``basic.qos`` can say (a short); 0 would mean: no limit."""


class Unsettled:
    """What a channel was given and has not acknowledged or rejected, by consumer."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self._consumer_of: dict[int, str] = {}

    def delivered(self, delivery_tag: int, consumer_tag: str) -> None:
        """A message has arrived."""
        self._consumer_of[delivery_tag] = consumer_tag
        self.held[consumer_tag] += 1

    def settled(self, delivery_tag: int) -> None:
        """It is acknowledged or rejected; a second time changes nothing."""
        consumer_tag = self._consumer_of.pop(delivery_tag, None)
        if consumer_tag is not None:
            self.held[consumer_tag] -= 1

    def settled_until(self, delivery_tag: int) -> None:
        """AMQP's *multiple*: this one and all before it; 0 is all."""
        for tag in [tag for tag in self._consumer_of if not delivery_tag or tag <= delivery_tag]:
            self.settled(tag)

    def clear(self) -> None:
        """The channel is a new one."""
        self.held.clear()
        self._consumer_of.clear()


def shares(limit: int, wants: Mapping[str, int | None]) -> dict[str, int]:
    """The *limit* divided by need: *wants* says how much each can use, None is all it gets. At least 1 each."""
    left = max(limit, len(wants))
    result = dict.fromkeys(wants, 0)
    waiting = sorted(wants, key=lambda name: (wants[name] is None, wants[name] or 0, name))
    for position, name in enumerate(waiting):
        fair = left // (len(waiting) - position)
        want = wants[name]
        result[name] = max(1, fair if want is None else min(fair, want))
        left -= result[name]
    for position, name in enumerate(waiting):
        more = left // (len(waiting) - position)
        result[name] += more
        left -= more
    return result


class QueueConsumers:
    """The consumers of one queue, by tag."""

    def __init__(self, queue: Any, held: Counter[str]) -> None:
        self.queue = queue
        self.credits: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.share = 0
        self.peak = 0
        self._held = held

    @property
    def open(self) -> int:
        """Credits of the consumers that get messages."""
        return sum(self.credits.values())

    @property
    def kept(self) -> int:
        """Messages that cancelled consumers hold."""
        return sum(self._held[tag] for tag in self.cancelled)

    @property
    def held(self) -> int:
        """Messages that all of them hold."""
        return self.kept + sum(self._held[tag] for tag in self.credits)

    @property
    def committed(self) -> int:
        """What they may hold at most."""
        return self.open + self.kept

    def forget(self) -> None:
        """Cancelled consumers whose last message is settled."""
        for tag in [tag for tag in self.cancelled if not self._held[tag]]:
            self.cancelled.discard(tag)
            del self._held[tag]

    def smallest_first(self) -> list[str]:
        """Tags of the consumers that get messages."""
        return sorted(self.credits, key=self.credits.__getitem__)


class Credits:
    """The consumers of one connection. Only the loop that reads the connection may use it: it waits for answers."""

    def __init__(self, consumer: Any, stopped: Callable[[], bool]) -> None:
        """*consumer*: kombu's, with our channel; it keeps the tags, so that whoever cancels it cancels all of ours.
        *stopped*: True as soon as no consumer may be added any more.
        """
        self.limit = 0
        self._consumer = consumer
        self._channel = consumer.channel
        self._unsettled: Unsettled = self._channel.unsettled
        self._stopped = stopped
        self._queues: dict[str, QueueConsumers] = {}
        self._looked = 0.0
        # Celery's remote control adds a queue to kombu's consumer and lets it consume: `apply` does that in its next
        # turn.
        consumer.consume = lambda *_, **__: None

    def apply(self, limit: int) -> None:
        """Make the credits agree with the *limit* (messages) and with what was settled meanwhile; to be called
        often.
        """
        if self._stopped():
            return
        grown = limit > self.limit
        if self._notice_queues() or limit != self.limit:
            self.limit = limit
            self._share(always=True)
        elif len(self._queues) > 1:
            self._share(always=False)
        if any(each.committed != each.share or len(each.credits) > 1 for each in self._queues.values()):
            self._channel._flush_soon()  # what is settled here is to be settled there before it is asked for more
            self._shrink()
            self._hand_out(at_once=grown)

    def queue_of(self, consumer_tag: str) -> str:
        """The queue that this consumer's messages come from; empty if it is none of ours."""
        for name, each in self._queues.items():
            if consumer_tag in each.credits or consumer_tag in each.cancelled:
                return name
        return ""

    @property
    def held(self) -> int:
        """Messages that this worker holds."""
        return sum(each.held for each in self._queues.values())

    @property
    def committed(self) -> int:
        """Messages that it may hold at most, as things are."""
        return sum(each.committed for each in self._queues.values())

    def _notice_queues(self) -> bool:
        wanted = self._consumer._queues
        gone = [name for name in self._queues if name not in wanted]
        for name in gone:
            self._cancel_all(self._queues[name])
            del self._queues[name]
        new = [name for name in wanted if name not in self._queues]
        for name in new:
            self._queues[name] = QueueConsumers(wanted[name], self._unsettled.held)
        return bool(gone or new)

    def _share(self, *, always: bool) -> None:
        for each in self._queues.values():
            each.peak = max(each.peak, each.held)
        if not always and monotonic() - self._looked < SHARE_SECONDS:
            return
        self._looked = monotonic()
        wants = {
            name: None if each.share and each.peak >= each.share else each.peak + 1
            for name, each in self._queues.items()
        }
        found = shares(self.limit, wants)
        for name, each in self._queues.items():
            always = always or (wants[name] is None and found[name] > each.share * (1 + WORTH_MOVING))
            each.peak = 0
        if always:
            for name, each in self._queues.items():
                each.share = found[name]

    def _shrink(self) -> None:
        for each in self._queues.values():
            each.forget()
            for tag in each.smallest_first():
                if each.open <= each.share:
                    break
                self._cancel(each, tag)
            if len(each.credits) > 1 and not each.held:
                self._cancel_all(each)  # at rest one consumer will do
        for each in self._queues.values():
            for tag in each.smallest_first():
                if self.committed <= max(self._ceiling(), self.held):
                    return
                if self._unsettled.held[tag] < each.credits[tag]:
                    self._cancel(each, tag)

    def _hand_out(self, *, at_once: bool) -> None:
        for each in self._queues.values():
            room = self._room(each)
            if room > 0 and (at_once or not each.kept or room * PIECES >= each.share):
                if len(each.credits) >= CONSUMERS:
                    for tag in each.smallest_first()[: CONSUMERS // 2]:
                        self._cancel(each, tag)
                self._add(each)

    def _ceiling(self) -> int:
        return sum(each.share for each in self._queues.values())

    def _room(self, each: QueueConsumers) -> int:
        return min(each.share - each.committed, self._ceiling() - self.committed, CREDITS_MAX)

    def _add(self, each: QueueConsumers) -> None:
        room = self._room(each)
        if room < 1 or self._stopped():
            return
        self._channel.basic_qos(0, room, False)
        if self._stopped():
            return  # it changed while we waited for the answer
        consumer = self._consumer
        tag = f"{consumer.tag_prefix or ''}{next(consumer._tags)}"
        each.credits[tag] = room
        consumer._active_tags[tag] = tag
        each.queue.consume(tag, consumer._receive_callback, no_ack=consumer.no_ack, nowait=True)
        logger.debug("Queue %s: %d more credits, %d consumers", each.queue.name, room, len(each.credits))

    def _cancel(self, each: QueueConsumers, tag: str) -> None:
        """Returns when the broker has answered: no message comes after that."""
        del each.credits[tag]
        each.cancelled.add(tag)
        self._consumer._active_tags.pop(tag, None)
        self._channel.basic_cancel(tag)

    def _cancel_all(self, each: QueueConsumers) -> None:
        for tag in list(each.credits):
            self._cancel(each, tag)
