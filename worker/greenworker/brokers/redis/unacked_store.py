"""What this worker holds of a Redis broker, and everything it owes it.

The store outlives connections: a tag on Redis stays valid through a reconnect (unlike AMQP's), so acknowledgements that
could not be sent are sent later, tasks that run through a broker restart are not delivered a second time, and nothing
is given back while it runs. All acknowledgements of a few milliseconds travel together.

Every message is also booked under its worker (``greenworker.held.<worker>``), and a real thread says every few seconds
that the worker lives, also while the hub is blocked. Another worker gives back what a dead one held: after
`DEAD_AFTER_SECONDS`, where kombu waits for the visibility time-out, an hour. As long as a worker lives, the visibility
time-out of what it holds is renewed, so long tasks and far ETAs do not run twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from json import dumps, loads
from time import monotonic, time
from typing import Any

from celery.utils.log import get_logger
from redis.exceptions import ResponseError

from greenworker import hub, native
from greenworker.brokers import dead_letters
from greenworker.brokers.redis.notifier import EmptyQueueNotifier
from greenworker.brokers.redis.scripts import ACK, EXPIRED_WORKERS, FETCH, HEARTBEAT, MARK, REMOVE_WORKER, REQUEUE
from greenworker.brokers.suspicion import after_death
from greenworker.misconfigured import or_exit

logger = get_logger(__name__)

ACK_DELAY_SECONDS = 0.005
"""An acknowledgement waits so long for others to travel with it. A worker killed within it runs those tasks again."""

FETCH_AT_ONCE = 100
"""Messages a script takes at most, so that it never holds Redis for long."""

HEARTBEAT_SECONDS = 4.0
HEARTBEAT_AGAIN_SECONDS = 0.5
"""After a heartbeat that failed, over a new connection."""
DEAD_AFTER_SECONDS = 20.0
"""Five missed beats."""

EVERYBODY_SECONDS = 1e9
"""Beats so far in the future are all there are."""

LONGEST_LENGTH = 10
"""Digits of a message's length in bytes; Redis keeps no value of more than 512 MB."""

RENEW_SECONDS = 60.0
"""How often the visibility time-out of what is held starts anew, or a quarter of the time-out if that is less."""

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


@dataclass(frozen=True, slots=True)
class Keys:
    """Redis keys of one broker, prefix included."""

    unacked: str
    index: str
    workers: str
    held: str
    held_prefix: str

    @classmethod
    def of(cls, channel: Any, worker: str) -> Keys:
        """The keys that *channel* is configured to use."""
        prefix = channel.global_keyprefix
        held_prefix = f"{prefix}greenworker.held."
        return cls(
            unacked=prefix + channel.unacked_key,
            index=prefix + channel.unacked_index_key,
            workers=f"{prefix}greenworker.workers",
            held=held_prefix + worker,
            held_prefix=held_prefix,
        )


@dataclass(frozen=True, slots=True)
class MailboxKeys:
    """What Celery's remote control uses, without prefixes."""

    exchange: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, mailbox: Any, hostname: str) -> MailboxKeys:
        """*mailbox*: kombu's, of the app."""
        queue, answers = mailbox.get_queue(hostname), mailbox.get_reply_queue()
        bindings = [f"_kombu.binding.{each.exchange.name}" for each in (queue, answers)]
        return cls(queue.exchange.name, (queue.name, answers.name, *bindings))


class UnackedStore:
    """One per process. Methods belong to the hub's thread, except `_beat_for_ever`."""

    def __init__(self, worker: str) -> None:
        self.worker = f"{worker}.{uuid.uuid4().hex[:8]}"
        self.restarts_in_place = False
        """Whether *worker* names a pod: another process of that name has ended."""
        self.held: dict[str, Delivery] = {}
        self.keys: Keys | None = None
        self.mailbox: MailboxKeys | None = None
        """Of remote control, unless it is off."""
        self.notifier: EmptyQueueNotifier | None = None
        self.recovered = 0
        self.flushes_failed = 0
        self._tag_stem = f"{uuid.uuid4().hex}."
        self._next_tag = 0
        self._expected: set[int] = set()
        """The first tag of each fetch whose answer is awaited."""
        self._acks: list[str] = []
        self._on_the_way: set[str] = set()
        self._returns: set[str] = set()
        self._due = hub.Wakeup()
        self._client: Any = None
        self._scripts: dict[str, Any] = {}
        self._errors: tuple[type[BaseException], ...] = (OSError,)
        self._channel: Any = None
        self._address: dict[str, str | int] = {}
        self._beat_client: Any = None
        self._beat_connected_at = 0.0
        self._visibility_seconds = 3600.0
        self._started = False
        self._closing = False
        self._suspects: set[str] = set()
        self._said: set[str] = set()
        self._flushing = False

    def attach(self, channel: Any) -> None:
        """Use the parameters of *channel*, which has just connected."""
        self.keys = Keys.of(channel, self.worker)
        self._channel = channel
        self._errors = channel.connection_errors
        self._visibility_seconds = float(channel.visibility_timeout)
        self._make_clients(channel)
        self._check_rights()
        self._beat(renew=False)  # a broker that takes no writes is none yet: the next URL, or another attempt
        if not self._started:
            self._started = True
            self.start_background()
        self._due.set()

    def start_background(self) -> None:
        """At the first connection: the beat in a real thread, the rest in the hub."""
        native.start_thread(self._beat_for_ever, ())
        hub.spawn(self._flush_for_ever)
        hub.spawn(self._recover_for_ever)

    def _make_clients(self, channel: Any) -> None:
        """Clients of our own, which reconnect by themselves; new ones only if the broker is another one now."""
        # The user's own redis, after patching.
        from greenworker.brokers.redis.client import Client, impatient  # noqa: PLC0415

        pool = channel._get_pool()
        address = {name: value for name, value in pool.connection_kwargs.items() if isinstance(value, (str, int))}
        if address == self._address:
            return
        self._address = address
        self._client = Client(connection_pool=pool)
        for text in (FETCH, ACK, REQUEUE, EXPIRED_WORKERS, REMOVE_WORKER, MARK):
            self._scripts[text] = self._client.register_script(text)
        self._beat_client = Client(connection_pool=impatient(channel._get_pool()))
        self._make_notifier(channel._get_pool())

    def _check_rights(self) -> None:
        """Before anything is popped. Ends the worker if a right is missing."""
        from greenworker.brokers.redis.rights import check_mailbox, check_rights  # noqa: PLC0415

        assert self.keys is not None
        keys = self.keys
        probe = keys.held_prefix.removesuffix("held.") + "probe"
        or_exit(check_rights, self._client, probe, [keys.unacked, keys.index, keys.workers, keys.held])
        if self.mailbox is not None:
            topic, names = self._channel.keyprefix_fanout + self.mailbox.exchange, self.mailbox.keys
            prefix = self._channel.global_keyprefix
            or_exit(check_mailbox, self._client, probe, [prefix + name for name in names], prefix + topic)

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
                flat = self._scripts[FETCH](
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

    def _is_expected(self, tag: str) -> bool:
        """It may be in an answer that has not arrived yet."""
        number = tag.removeprefix(self._tag_stem)
        return bool(self._expected) and number.isdecimal() and int(number) >= min(self._expected)

    def dead_letter(self, tag: str, queue: str, reason: str) -> bool:
        """Move what no worker can run to the queue's dead letters, in one step; False if it was no longer booked here.
        Raises the broker's connection errors.
        """
        held = self.held.get(tag)
        if held is None or self._channel is None:
            return False
        key = dead_letters.key(self._channel.global_keyprefix, queue)
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
            count = self._requeue(self.keys.held, arguments)
        except BaseException:
            self.return_later(tags)  # where only the answer was lost, there is nothing to return any more
            raise
        for tag in tags:
            self.held.pop(tag, None)
        return count

    def move(self, tag: str, key: str, payload: str, *, head: bool = False) -> bool:
        """Take a message from its queue to another list, in one step; False if it was no longer booked here."""
        assert self.keys is not None
        count = self._requeue(self.keys.held, ["head" if head else "tail", tag, key, payload])
        self.held.pop(tag, None)
        return count == 1

    def mark(self, tag: str, payload: bytes) -> bool:
        """Who gets the message after this worker gets *payload*; what this one gives back itself stays as it was."""
        assert self.keys is not None
        return bool(self._scripts[MARK](keys=[self.keys.unacked, self.keys.held], args=[tag, payload]))

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
                self._scripts[ACK](keys=[self.keys.unacked, self.keys.index, self.keys.held], args=acks)

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
        """The worker ends: send the last acknowledgements and leave the list of the living."""
        self._closing = True
        try:
            self.flush()
            if self.keys is not None and not self.held:
                self._client.zrem(self.keys.workers, self.worker)
        except self._errors as error:
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

    def _recover_for_ever(self) -> None:
        try:
            self.recover_predecessors()
        except Exception as error:
            logger.warning("Could not look for messages of an earlier process: %r", error)
        while not self._closing:
            hub.sleep(DEAD_AFTER_SECONDS / 4)
            try:
                self._recover_dead_workers()
                self._recover_lost_deliveries()
                self._restore_visible()
            except Exception as error:
                logger.warning("Could not look for messages of dead workers: %r", error)

    def _recover_dead_workers(self) -> None:
        """Give back what dead workers hold. After a restart of Redis everybody looks dead: wait until the living have
        had the time to say so.
        """
        if (
            self.keys is None
            or monotonic() - self._beat_connected_at < DEAD_AFTER_SECONDS
            or not self._beat_connected_at
        ):
            return
        for raw in self._scripts[EXPIRED_WORKERS](keys=[self.keys.workers], args=[DEAD_AFTER_SECONDS]):
            if raw != self.worker.encode():
                self._recover(raw, DEAD_AFTER_SECONDS)

    def recover_predecessors(self) -> None:
        """What ended processes of this pod hold: kubelet starts a container again only after it has ended."""
        if self.keys is None or not self.restarts_in_place:
            return
        pod = self.worker.rpartition(".")[0]
        for raw in self._scripts[EXPIRED_WORKERS](keys=[self.keys.workers], args=[-EVERYBODY_SECONDS]):
            name = raw.decode(errors="replace")
            if name != self.worker and name.rpartition(".")[0] == pod:
                self._recover(raw, 0.0)

    def _recover(self, raw: bytes, silent_seconds: float) -> None:
        """*raw*: the worker's name as Redis has it. Somebody else may have written it, and need not know UTF-8."""
        assert self.keys is not None
        key, name = self.keys.held_prefix.encode() + raw, raw.decode(errors="replace")
        try:
            count = self._return_lost(key, self._client.hgetall(key), died=True)
        except ResponseError as error:  # a key of another type must not keep us from the next worker's messages
            self._warn_once(f"Could not give back what the dead worker {name} held (Redis key {_text(key)}): {error}")
            count = 0
        self._scripts[REMOVE_WORKER](keys=[self.keys.workers, key], args=[raw, silent_seconds])
        if count:
            self.recovered += count
            logger.warning("Gave back %d messages that the dead worker %s held", count, name)

    def _recover_lost_deliveries(self) -> None:
        """A fetch whose answer was lost with its connection has booked messages that nobody knows here. Seen twice:
        back.
        """
        if self.keys is None or self._client.hlen(self.keys.held) == len(self.held) + len(self._unsettled()):
            self._suspects.clear()
            return
        entries = self._client.hgetall(self.keys.held)
        pending = self._unsettled()
        unknown = {
            tag
            for tag in (raw.decode(errors="replace") for raw in entries)
            if tag not in self.held and tag not in pending and not self._is_expected(tag)
        }
        confirmed = unknown & self._suspects
        self._suspects = unknown - confirmed
        if confirmed:
            count = self._return_lost(
                self.keys.held,
                {tag: value for tag, value in entries.items() if tag.decode(errors="replace") in confirmed},
            )
            if count:
                logger.warning("Gave back %d messages whose delivery was lost with a connection", count)

    def _unsettled(self) -> set[str]:
        """Done, and Redis may not know it yet."""
        return {*self._acks, *self._on_the_way}

    def _restore_visible(self) -> None:
        """What stock workers hold for longer than the visibility time-out. kombu's own attempt is never reached on an
        idle green worker: BRPOP's time-out beats the drain's.
        """
        if not self._channel.closed:
            self._channel.qos.restore_visible(num=self._channel.unacked_restore_limit, interval=1)

    def _return_lost(self, held_key: str | bytes, entries: dict[bytes, bytes], *, died: bool = False) -> int:
        """*entries*: delivery tag to length and list of each. *died*: whoever held them ended with them, and one of
        them may be why. Returns how many were still booked. An entry that no worker has written is taken out: it would
        keep a dead worker in the list of workers. A message that is booked under its tag comes back when its visibility
        time-out ends.
        """
        assert self.keys is not None
        count, tags = 0, list(entries)
        for first in range(0, len(tags), 100):
            chunk = tags[first : first + 100]
            arguments: list[Any] = ["head"]
            foreign: list[bytes] = []
            for tag, booked in zip(chunk, self._client.hmget(self.keys.unacked, chunk), strict=True):
                length, _, key = entries[tag].partition(b":")
                if not length.isdigit() or len(length) > LONGEST_LENGTH:
                    foreign.append(tag)
                    continue
                payload = booked[1 : 1 + int(length)] if booked else b""
                arguments += [tag, key, redelivered(after_death(payload) if died else payload) if booked else b""]
            count += self._requeue(held_key, arguments)
            if foreign:
                logger.warning(
                    "Took %d entries that no worker has written out of the Redis key %s, such as %r",
                    len(foreign),
                    _text(held_key),
                    entries[foreign[0]][:100],
                )
                self._client.hdel(held_key, *foreign)
        return count

    def _requeue(self, held_key: str | bytes, arguments: list[Any]) -> int:
        """How many went; what did not stays booked, and is tried again as a delivery that nobody knows."""
        assert self.keys is not None
        count: int
        count, error = self._scripts[REQUEUE](keys=[self.keys.unacked, self.keys.index, held_key], args=arguments)
        if error:
            self._warn_once(
                "Some messages cannot go to their queue's list, and stay booked in "
                f"{_text(held_key)} until they can: {_text(error)}"
            )
        return count

    def _warn_once(self, text: str) -> None:
        """Of what stays as it is for long: each round of each worker finds it again."""
        if text not in self._said and len(self._said) < MOST_SAID:
            self._said.add(text)
            logger.warning("%s", text)

    def _beat(self, *, renew: bool) -> None:
        assert self.keys is not None
        keys = self.keys
        self._beat_client.eval(HEARTBEAT, 3, keys.workers, keys.held, keys.index, self.worker, int(renew))

    def _beat_for_ever(self) -> None:
        """In a real thread: a task that blocks the hub must not make its worker look dead."""
        renewed = self._beat_connected_at = monotonic()
        while not self._closing:
            native.sleep(HEARTBEAT_SECONDS if self._beat_connected_at else HEARTBEAT_AGAIN_SECONDS)
            renew_every = min(RENEW_SECONDS, self._visibility_seconds / 4)
            renew = monotonic() - renewed >= renew_every
            client = self._beat_client
            try:
                self._beat(renew=renew)
                if renew:
                    renewed = monotonic()
                if not self._beat_connected_at:
                    self._beat_connected_at = monotonic()
            except Exception as error:
                if self._beat_connected_at:
                    native.say(f"the broker does not take this worker's beat: {error!r}")
                self._beat_connected_at = 0.0
                with suppress(Exception):
                    client.connection_pool.disconnect()


def _text(raw: str | bytes) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def redelivered(payload: bytes) -> bytes:
    """The same message, marked as kombu marks one that had been delivered before; what cannot be marked stays
    as it is.
    """
    try:
        message = loads(payload)
        properties = message.get("properties")
        info = properties.get("delivery_info") if isinstance(properties, dict) else None
        for part in (message.get("headers"), info):
            if isinstance(part, dict):
                part["redelivered"] = True
        return dumps(message).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return payload


@lru_cache(maxsize=4096)
def json_name(queue: str) -> str:
    """The name of a queue as JSON has it, with as little escaped as possible: the exporter compares it with the
    name.
    """
    return dumps(queue, ensure_ascii=False)
