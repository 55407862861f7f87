"""What this worker holds of a Redis broker, and everything it owes it.

The store outlives connections: a tag on Redis stays valid through a reconnect (unlike AMQP's), so acknowledgements that
could not be sent are sent later, tasks that run through a broker restart are not delivered a second time, and nothing
is given back while it runs. All acknowledgements of a few milliseconds travel together.

Every message is also booked under its worker (``greenworker.held.<worker>``), and a real thread says every few seconds
that the worker lives, also while the hub is blocked (`heartbeat`). Another worker gives back what a dead one held
(`recovery`): after `heartbeat.DEAD_AFTER_SECONDS`, where kombu waits for the visibility time-out, an hour. As long as a
worker lives, the visibility time-out of what it holds is renewed, so long tasks and far ETAs do not run twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub, native
from greenworker.brokers import dead_letters
from greenworker.brokers.redis.heartbeat import Heartbeat
from greenworker.brokers.redis.keys import Keys, MailboxKeys, readable
from greenworker.brokers.redis.notifier import EmptyQueueNotifier
from greenworker.brokers.redis.payloads import json_name, redelivered
from greenworker.brokers.redis.recovery import EVERYBODY_SECONDS, Recovery
from greenworker.brokers.redis.scripts import ACK, EXPIRED_WORKERS, FETCH, MARK, REMOVE_WORKER, REQUEUE
from greenworker.misconfigured import or_exit

logger = get_logger(__name__)

ACK_DELAY_SECONDS = 0.005
"""An acknowledgement waits so long for others to travel with it. A worker killed within it runs those tasks again."""

FETCH_AT_ONCE = 100
"""Messages a script takes at most, so that it never holds Redis for long."""

MOST_SAID = 1000
"""Different warnings of what is found in each round; what comes after them is not said."""

RETRY_SECONDS = 1.0
"""After an error of the broker."""


@dataclass(slots=True)
class Delivery:
    """A message that was fetched and is not settled. *key* is the list it came from."""

    key: str
    payload: bytes
    since: float


class UnackedStore:
    """One per process. Methods belong to the hub's thread, except what `heartbeat` does."""

    def __init__(self, worker: str) -> None:
        self.worker = f"{worker}.{uuid.uuid4().hex[:8]}"
        self.heartbeat = Heartbeat(self.worker)
        self.recovery = Recovery(self)
        self.held: dict[str, Delivery] = {}
        self.keys: Keys | None = None
        self.mailbox: MailboxKeys | None = None
        """Of remote control, unless it is off."""
        self.notifier: EmptyQueueNotifier | None = None
        self.flushes_failed = 0
        self._tag_stem = f"{uuid.uuid4().hex}."
        self._next_tag = 0
        self._expected: set[int] = set()
        """The first tag of each fetch whose answer is awaited."""
        self._acks: list[str] = []
        self._on_the_way: set[str] = set()
        self._returns: set[str] = set()
        self._due = hub.Wakeup()
        self.client: Any = None
        self.scripts: dict[str, Any] = {}
        self._errors: tuple[type[BaseException], ...] = (OSError,)
        self.channel: Any = None
        self._address: dict[str, str | int] = {}
        self._started = False
        self.closing = False
        self._said: set[str] = set()

    def attach(self, channel: Any) -> None:
        """Use the parameters of *channel*, which has just connected."""
        self.keys = self.heartbeat.keys = Keys.of(channel, self.worker)
        self.channel = channel
        self._errors = channel.connection_errors
        self.heartbeat.visibility_seconds = float(channel.visibility_timeout)
        self._make_clients(channel)
        self._check_rights()
        self.heartbeat.send(renew=False)  # a broker that takes no writes is none yet: the next URL, or another attempt
        if not self._started:
            self._started = True
            self.start_background()
        self._due.set()

    def start_background(self) -> None:
        """At the first connection: the beat in a real thread, the rest in the hub."""
        native.start_thread(self.heartbeat.run, ())
        hub.spawn(self._flush_for_ever)
        hub.spawn(self.recovery.run, hub.sleep, logger.warning, self.recovery.restore_visible)

    def _make_clients(self, channel: Any) -> None:
        """Clients of our own, which reconnect by themselves; new ones only if the broker is another one now."""
        # The user's own redis, after patching.
        from greenworker.brokers.redis.client import Client, impatient  # noqa: PLC0415

        pool = channel._get_pool()
        address = {name: value for name, value in pool.connection_kwargs.items() if isinstance(value, (str, int))}
        if address == self._address:
            return
        self._address = address
        self.client = Client(connection_pool=pool)
        for text in (FETCH, ACK, REQUEUE, EXPIRED_WORKERS, REMOVE_WORKER, MARK):
            self.scripts[text] = self.client.register_script(text)
        self.heartbeat.client = Client(connection_pool=impatient(channel._get_pool()))
        self._make_notifier(channel._get_pool())

    def _check_rights(self) -> None:
        """Before anything is popped. Ends the worker if a right is missing."""
        from greenworker.brokers.redis.rights import check_mailbox, check_rights  # noqa: PLC0415

        assert self.keys is not None
        keys = self.keys
        probe = keys.held_prefix.removesuffix("held.") + "probe"
        or_exit(check_rights, self.client, probe, [keys.unacked, keys.index, keys.workers, keys.held])
        if self.mailbox is not None:
            topic, names = self.channel.keyprefix_fanout + self.mailbox.exchange, self.mailbox.keys
            prefix = self.channel.global_keyprefix
            or_exit(check_mailbox, self.client, probe, [prefix + name for name in names], prefix + topic)

    def _make_notifier(self, pool: Any) -> None:
        if self.notifier is not None:
            self.notifier.close()
        self.notifier = EmptyQueueNotifier(pool)

    # the consumer's side

    def fetch(self, lists: list[str], queues: list[str], per_step: int, count: int) -> list[tuple[int, str, bytes]]:
        """Pop and book up to *count* messages from *lists*, highest priority first, *per_step* lists for each priority:
        (index into lists, delivery tag, payload). *queues*: the name of each list's queue. Acknowledgements travel
        along. Raises the broker's connection errors.
        """
        assert self.keys is not None
        count = min(count, FETCH_AT_ONCE)
        number = self._next_tag
        self._next_tag += count
        self._expected.add(number)
        try:
            with self._sending_acks() as acks:
                flat = self.scripts[FETCH](
                    keys=[self.keys.unacked, self.keys.index, self.keys.held, self.keys.workers, *lists],
                    args=[count, per_step, self._tag_stem, number, self.worker, *map(json_name, queues), *acks],
                )
            now = monotonic()
            out = []
            for position in range(0, len(flat), 3):
                index, tag, payload = int(flat[position]), flat[position + 1].decode(), flat[position + 2]
                self.held[tag] = Delivery(lists[index], payload, now)
                out.append((index, tag, payload))
            return out
        finally:
            self._expected.discard(number)

    def is_expected(self, tag: str) -> bool:
        """It may be in an answer that has not arrived yet."""
        number = tag.removeprefix(self._tag_stem)
        return bool(self._expected) and number.isdecimal() and int(number) >= min(self._expected)

    def dead_letter(self, tag: str, queue: str, reason: str) -> bool:
        """Move what no worker can run to the queue's dead letters, in one step; False if it was no longer booked here.
        Raises the broker's connection errors.
        """
        held = self.held.get(tag)
        if held is None or self.channel is None:
            return False
        key = dead_letters.key(self.channel.global_keyprefix, queue)
        text = dead_letters.entry(held.payload, queue=queue, reason=reason, at=time(), deliveries=1)
        return self.move(tag, key, text, head=True)

    def ack(self, tag: str) -> None:
        """The message is done; Redis learns it within a few milliseconds, or as soon as it answers again."""
        if self.held.pop(tag, None) is not None:
            self._acks.append(tag)
            self._due.set()

    def give_back(self, tags: list[str], *, started: bool, head: bool = True) -> int:
        """While Redis answers (a drain, a kill at its deadline): return messages to the list they came from, at once:
        to its head in their old order, or to its tail. *started* ones are marked as redelivered. Returns how many were
        still booked.
        """
        assert self.keys is not None
        order = list(reversed(tags)) if head else tags
        arguments: list[Any] = ["head" if head else "tail"]
        for tag in order:
            held = self.held.get(tag)
            if held is not None:
                arguments += [tag, held.key, redelivered(held.payload) if started else held.payload]
        if len(arguments) == 1:
            return 0
        try:
            count = self.requeue(self.keys.held, arguments)
        except BaseException:
            self.return_later(tags)  # where only the answer was lost, there is nothing to return any more
            raise
        for tag in tags:
            self.held.pop(tag, None)
        return count

    def move(self, tag: str, key: str, payload: str, *, head: bool = False) -> bool:
        """Take a message from its queue to another list, in one step; False if it was no longer booked here."""
        assert self.keys is not None
        count = self.requeue(self.keys.held, ["head" if head else "tail", tag, key, payload])
        self.held.pop(tag, None)
        return count == 1

    def mark(self, tag: str, payload: bytes) -> bool:
        """Who gets the message after this worker gets *payload*; what this one gives back itself stays as it was."""
        assert self.keys is not None
        return bool(self.scripts[MARK](keys=[self.keys.unacked, self.keys.held], args=[tag, payload]))

    def return_later(self, tags: list[str]) -> None:
        """When Redis may not answer (a lost connection, a failed script): `give_back`, unstarted, as soon as it
        does.
        """
        self._returns.update(tag for tag in tags if tag in self.held)
        self._due.set()

    def flush(self) -> None:
        """Send what is acknowledged and what is to go back. Raises the broker's connection errors; nothing is forgotten
        then.
        """
        if self._returns and self.keys is not None:
            wanted = frozenset(self._returns)
            tags = [tag for tag in self.held if tag in wanted]
            self.give_back(tags, started=False)
            self._returns -= wanted
        while self._acks and self.keys is not None:
            with self._sending_acks() as acks:
                self.scripts[ACK](keys=[self.keys.unacked, self.keys.index, self.keys.held], args=acks)

    def send_ack(self, tag: str) -> None:
        """Returns when Redis knows of an acknowledgement. Raises the broker's connection errors; it is sent again later
        then.
        """
        while tag in self._acks or tag in self._on_the_way:
            if tag in self._acks:
                self.flush()
            else:
                hub.sleep(0.001)  # another green thread sends it

    def send(self) -> None:
        """Send what is due now. What the broker does not take waits for the next round, or the next connection."""
        try:
            self.flush()
        except self._errors as error:
            self.flushes_failed += 1
            native.say(f"{len(self._acks)} acknowledgements wait for the broker: {error!r}")

    @contextmanager
    def _sending_acks(self) -> Iterator[list[str]]:
        """What is to be acknowledged, for one green thread alone. An error puts it back, to be sent again: twice is
        once.
        """
        tags, self._acks = self._acks, []
        self._on_the_way.update(tags)
        try:
            yield tags
        except BaseException:
            self._acks[:0] = tags
            self._due.set()
            raise
        finally:
            self._on_the_way.difference_update(tags)

    def close(self) -> None:
        """The worker ends: send the last acknowledgements, and leave the list of the living if nothing is booked here
        any more. The others look after what is.
        """
        self.closing = self.heartbeat.closing = True
        try:
            self.flush()
            if self.keys is not None:
                self.recovery.return_lost_deliveries()
                keys = [self.keys.workers, self.keys.held]
                self.scripts[REMOVE_WORKER](keys=keys, args=[self.worker, -EVERYBODY_SECONDS])
        except Exception as error:
            logger.warning(
                "%d acknowledgements could not be sent, the tasks will run again: %r", len(self._acks), error
            )

    # background

    def _flush_for_ever(self) -> None:
        while True:
            if not self._due.wait(60.0):
                continue
            hub.sleep(ACK_DELAY_SECONDS)
            try:
                self.flush()
            except Exception as error:
                self.flushes_failed += 1
                logger.warning("%d acknowledgements wait for the broker: %r", len(self._acks), error)
                hub.sleep(RETRY_SECONDS)
                self._due.set()

    # for the recovery as well

    def unsettled(self) -> set[str]:
        """Done, and Redis may not know it yet."""
        return {*self._acks, *self._on_the_way}

    def requeue(self, held_key: str | bytes, arguments: list[Any]) -> int:
        """How many went; what did not stays booked, and is tried again as a delivery that nobody knows."""
        assert self.keys is not None
        count: int
        count, error = self.scripts[REQUEUE](keys=[self.keys.unacked, self.keys.index, held_key], args=arguments)
        if error:
            self.warn_once(
                "Some messages cannot go to their queue's list, and stay booked in "
                f"{readable(held_key)} until they can: {readable(error)}"
            )
        return count

    def warn_once(self, text: str) -> None:
        """Of what stays as it is for long: each round of each worker finds it again."""
        if text not in self._said and len(self._said) < MOST_SAID:
            self._said.add(text)
            logger.warning("%s", text)
