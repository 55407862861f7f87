"""Depth on RabbitMQ: a passive declare says how many messages are ready, for classic and quorum queues alike.

AMQP does not tell what is unacknowledged; RabbitMQ's Prometheus plugin does, if the resource names it.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

from amqp.exceptions import NotFound
from kombu.connection import Connection

from greenworker.brokers.dead_letters import AT, DELIVERIES, OURS, QUEUE, REASON, DeadLetter, rabbit_queue
from greenworker.brokers.declarations import unavailable
from greenworker.exporter.broker import TIMEOUT_SECONDS, Depth, Queue
from greenworker.exporter.rabbitmq_plugin import Plugin
from greenworker.native import say
from greenworker.protocol import number_of
from greenworker.tls import Trust, amqp_options, check_host_names

DEAD_EVERY_SECONDS = 5.0
"""How often dead letters are counted, if there are few queues."""

DEAD_PAUSE_SHARE = 9
"""The pause after a question for dead letters, in times of its answer: a queue that does not exist costs the broker a
new channel, seven times what one costs that exists. 1,000 queues without dead letters take some 12 s.
"""

DEAD_PAUSE_SECONDS = 5.0
"""The longest of these pauses."""

PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id", "timestamp")
"""AMQP properties that travel along. An ``expiration`` does not: a person decides now."""


class RabbitBroker:
    """One connection, one channel; a queue that does not exist costs a new channel."""

    at_once = 1

    def __init__(self, url: str, trust: Trust, metrics_port: int = 0) -> None:
        check_host_names()
        self._url = url
        self._trust = trust
        self.connection: Any = self._connect()
        self.channel: Any = self.connection.channel()
        self._dead: DeadLetterCount | None = None
        self._unreached: set[str] = set()
        """Queues that the broker could not reach when they were asked for last."""
        client = self.connection
        self.plugin = (
            Plugin(client.hostname or "localhost", metrics_port, client.virtual_host or "/") if metrics_port else None
        )

    def _connect(self) -> Any:
        connection = Connection(
            self._url,
            ssl=amqp_options(self._trust) if self._url.startswith("amqps://") else False,
            connect_timeout=TIMEOUT_SECONDS,
            heartbeat=0,
            transport_options={
                "read_timeout": TIMEOUT_SECONDS,
                "write_timeout": TIMEOUT_SECONDS,
                "confirm_publish": True,
            },
        )
        connection.connect()
        return connection

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`."""
        found: dict[str, Depth] = {}
        unacked = self.plugin.unacked() if self.plugin is not None else {}
        for queue in queues:
            dead = self._dead.counts.get(queue.name) if self._dead is not None else None
            try:
                answer = self.channel.queue_declare(queue=queue.name, passive=True)
                found[queue.name] = Depth(
                    answer.message_count,
                    unacked.get(queue.name),
                    consumers=answer.consumer_count,
                    dead=dead,
                )
                self._unreached.discard(queue.name)
            except NotFound as error:
                self.channel = self.connection.channel()
                if (why := unavailable(error.reply_code, error.reply_text)) is None:
                    found[queue.name] = Depth(0, dead=dead, missing=True)
                elif queue.name not in self._unreached:
                    self._unreached.add(queue.name)
                    say(f"the depth of {queue.name} is not known: {why}")
        return found

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """See `Broker.count_dead_letters`."""
        if self._dead is None:
            self._dead = DeadLetterCount(self._connect)
        self._dead.names = tuple(queue.name for queue in queues)

    def dead_letters(self, queue: Queue) -> RabbitLetters:
        """See `Broker.dead_letters`."""
        return RabbitLetters(self.connection, queue)

    def close(self) -> None:
        """See `Broker.close`."""
        if self._dead is not None:
            self._dead.close()
        with suppress(Exception):  # it is gone either way
            self.connection.release()


class DeadLetterCount:
    """Counts dead letters over a connection and in a thread of its own: no depth waits for these questions, and most of
    them are for queues that do not exist.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.names: tuple[str, ...] = ()
        """The queues whose dead letters are counted."""
        self.counts: dict[str, int] = {}
        """By queue; only what is known."""
        self._connect = connect
        self._closed = Event()
        Thread(target=self._run, name="dead letters", daemon=True).start()

    def close(self) -> None:
        """The thread ends after the answer that it waits for."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            connection = None
            try:
                connection = self._connect()
                self._count(connection)
            except Exception:  # the depths' own connection says what is wrong
                self.counts = {}
                self._closed.wait(DEAD_EVERY_SECONDS)
            finally:
                with suppress(Exception):
                    if connection is not None:
                        connection.release()

    def _count(self, connection: Any) -> None:
        channel = connection.channel()
        while not self._closed.is_set():
            began, names = monotonic(), self.names
            wanted = set(names)
            self.counts = {name: count for name, count in self.counts.items() if name in wanted}
            for name in names:
                asked = monotonic()
                try:
                    self.counts[name] = int(channel.queue_declare(queue=rabbit_queue(name), passive=True).message_count)
                except NotFound as error:
                    if unavailable(error.reply_code, error.reply_text) is None:
                        self.counts[name] = 0
                    else:
                        self.counts.pop(name, None)
                    channel = connection.channel()
                if self._closed.wait(min(DEAD_PAUSE_SECONDS, DEAD_PAUSE_SHARE * (monotonic() - asked))):
                    return
            self._closed.wait(max(0.1, DEAD_EVERY_SECONDS - (monotonic() - began)))


class RabbitLetters:
    """Messages of a queue. To look at one it is taken and published again at the tail: a quorum queue counts what is
    only returned, and would drop what was looked at too often.
    """

    def __init__(self, connection: Any, queue: Queue) -> None:
        self.connection = connection
        self.queue = queue
        self.name = rabbit_queue(queue.name)

    def each(self) -> Iterator[DeadLetter]:
        for channel, message in self._round():
            self._publish(channel, message, self.name, message.headers)
            message.ack()
            yield letter_of(message, self.queue.name)

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        taken = []
        for channel, message in self._round():
            letter = letter_of(message, self.queue.name)
            if identity and letter.id != identity:
                self._publish(channel, message, self.name, message.headers)
            else:
                if requeue:
                    headers = {name: value for name, value in message.headers.items() if name not in OURS}
                    self._publish(channel, message, self.queue.name, headers)
                taken.append(letter)
            message.ack()
        return taken

    def _round(self) -> Iterator[tuple[Any, Any]]:
        """Each message that there is now, once. What is not acknowledged goes back."""
        channel = self.connection.channel()
        try:
            count = channel.queue_declare(queue=self.name, passive=True).message_count
        except NotFound as error:
            if (why := unavailable(error.reply_code, error.reply_text)) is not None:
                raise why from error
            return
        for _ in range(count):
            raw = channel.basic_get(self.name)
            if raw is None:
                break
            yield channel, channel.message_to_python(raw)
        channel.close()

    def _publish(self, channel: Any, message: Any, queue: str, headers: Mapping[str, Any]) -> None:
        """With the broker's confirmation, so that nothing is lost between this and the acknowledgement. kombu has
        unpacked the body, unless this image lacks what it was packed with: then it travels as it is.
        """
        properties = {name: message.properties[name] for name in PROPERTIES if message.properties.get(name) is not None}
        self.connection.Producer(channel, auto_declare=False).publish(
            message.body, exchange="", routing_key=queue, mandatory=True, timeout=TIMEOUT_SECONDS,
            headers={name: value for name, value in headers.items() if name != "compression" or message.errors},
            content_type=message.content_type, content_encoding=message.content_encoding, **properties,
        )  # fmt: skip


def letter_of(message: Any, queue: str) -> DeadLetter:
    """What the message's headers say; also of one that somebody else put there."""
    headers = message.headers or {}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    return DeadLetter(
        str(headers.get(QUEUE) or queue), str(headers.get("task") or ""),
        str(headers.get("id") or message.properties.get("correlation_id") or ""), str(headers.get(REASON) or ""),
        _number(headers.get(AT)), int(_number(headers.get(DELIVERIES))), body,
    )  # fmt: skip


def _number(text: Any) -> float:
    return number_of(text) or 0.0
