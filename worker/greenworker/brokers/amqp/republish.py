"""Publishes a message that was received once more, as it is, and says whether the broker has it: AMQP only.

Whoever settles the original waits for that. Copies go to a queue by its name, over a connection of their own: the
worker's consumer reads the other one. Many travel together, and the broker confirms them when it likes.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from celery.utils.log import get_logger

logger = get_logger(__name__)

PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id", "timestamp")
"""AMQP properties that travel along; ``expiration`` does too, in its own unit."""

OF_THE_QUEUE = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers that a quorum queue writes, and would show for the copy as well."""

AT_ONCE = 1_000
"""Copies on their way before the first one is confirmed."""


class Copy(NamedTuple):
    """*message* (kombu's) as it will be published to the queue of that name, with *more* headers."""

    message: Any
    queue: str
    more: Mapping[str, Any] = {}


class Republisher:
    """One connection, made when it is needed. Not for two green threads at once."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None
        self._channel: Any = None
        self._published = 0
        self._waiting: dict[int, int] = {}
        self._confirmed: set[int] = set()
        self._unroutable: set[str] = set()

    def declare(self, queue: Any) -> None:
        """Make sure that *queue* (kombu's) exists as it says. Raises the channel's errors, and those of the
        connection.
        """
        channel = self._connected().channel()
        try:
            bound = queue.bind(channel)
            bound.declare()
            bound.queue_declare(passive=True)  # there are queues that kombu leaves to others to declare
        finally:
            if channel.connection is not None:
                channel.close()

    def publish(self, copies: Sequence[Copy], seconds: float) -> set[int]:
        """The positions of the *copies* that the broker has, within *seconds*. The others it may have, or not. Never
        raises.
        """
        deadline = monotonic() + seconds
        self._confirmed, self._waiting, self._unroutable = set(), {}, set()
        try:
            channel = self._open_channel()
            producer = self._connection.Producer(channel, auto_declare=False)
            for position, copy in enumerate(copies):
                self._published += 1
                self._waiting[self._published] = position
                publish(producer, copy)
                if len(self._waiting) >= AT_ONCE:
                    self._wait(AT_ONCE // 2, deadline)
            self._wait(0, deadline)
        except Exception as error:
            logger.warning("Could not publish %d messages again: %r", len(copies) - len(self._confirmed), error)
            self.close()
        if self._waiting:
            self.close()  # an answer that comes later must not be taken for another's
        return {position for position in self._confirmed if copies[position].queue not in self._unroutable}

    def close(self) -> None:
        """Leave nothing behind."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.collect(socket_timeout=1.0)
            except Exception as error:
                logger.debug("Closing the connection for copies: %r", error)

    def _connected(self) -> Any:
        if self._connection is None:
            options = {"confirm_publish": False}  # what this would do is to wait for each alone
            connection = self._app.connection_for_write(transport_options=options, connect_timeout=4.0)
            connection.connect()
            self._connection = connection
        return self._connection

    def _open_channel(self) -> Any:
        connection = self._connected()
        if self._channel is None or self._channel.connection is None:
            self._channel = channel = connection.channel()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            channel.confirm_select()
            self._published = 0
        return self._channel

    def _wait(self, left: int, deadline: float) -> None:
        while len(self._waiting) > left:
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise TimeoutError("the broker did not confirm in time")
            self._connection.drain_events(timeout=remaining)

    def _settled(self, delivery_tag: int, multiple: bool) -> list[int]:
        tags: Iterable[int] = [tag for tag in self._waiting if tag <= delivery_tag] if multiple else [delivery_tag]
        return [self._waiting.pop(tag) for tag in tags if tag in self._waiting]

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._confirmed.update(self._settled(delivery_tag, multiple))

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        self._settled(delivery_tag, multiple)

    def _on_return(self, _error: Any, _exchange: str, routing_key: str, _message: Any) -> None:
        self._unroutable.add(routing_key)  # its confirmation follows all the same


def publish(producer: Any, copy: Copy) -> None:
    """Body, headers and properties as they came; what was unpacked on its arrival travels unpacked."""
    message = copy.message
    properties = {name: message.properties[name] for name in PROPERTIES if message.properties.get(name) is not None}
    expiration = message.properties.get("expiration")
    if expiration is not None:
        properties["expiration"] = int(expiration) / 1000
    dropped = OF_THE_QUEUE if message.errors else OF_THE_QUEUE | {"compression"}
    headers = {name: value for name, value in (message.headers or {}).items() if name not in dropped}
    producer.publish(
        message.body, exchange="", routing_key=copy.queue, headers={**headers, **copy.more}, mandatory=True,
        content_type=message.content_type, content_encoding=message.content_encoding, **properties,
    )  # fmt: skip
