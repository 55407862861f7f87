"""Depth on RabbitMQ: a passive declare says how many messages are ready, for classic and quorum queues alike.

AMQP does not tell what is unacknowledged; RabbitMQ's Prometheus plugin does, if the resource names it.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

from amqp.exceptions import NotFound
from kombu.connection import Connection

from greenworker.brokers.dead_letters import rabbit_queue
from greenworker.exporter.broker import TIMEOUT_SECONDS, Depth, Queue
from greenworker.exporter.rabbitmq_plugin import Plugin
from greenworker.tls import Trust, amqp_options, check_host_names

DEAD_EVERY_SECONDS = 5.0
"""How often dead letters are counted: a queue that does not exist costs a new channel each time."""


class RabbitBroker:
    """One connection, one channel; a queue that does not exist costs a new channel."""

    at_once = 1

    def __init__(self, url: str, trust: Trust, metrics_port: int = 0) -> None:
        check_host_names()
        self.connection: Any = Connection(
            url,
            ssl=amqp_options(trust) if url.startswith("amqps://") else False,
            connect_timeout=TIMEOUT_SECONDS,
            heartbeat=0,
            transport_options={
                "read_timeout": TIMEOUT_SECONDS,
                "write_timeout": TIMEOUT_SECONDS,
                "confirm_publish": True,
            },
        )
        self.connection.connect()
        self.channel: Any = self.connection.channel()
        self._dead: dict[str, tuple[float, int]] = {}
        """Queue → when it was asked for its dead letters, and how many there were."""
        self._next_dead_at = 0.0
        client = self.connection
        self.plugin = (
            Plugin(client.hostname or "localhost", metrics_port, client.virtual_host or "/") if metrics_port else None
        )

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`."""
        found: dict[str, Depth] = {}
        unacked = self.plugin.unacked() if self.plugin is not None else {}
        for queue in queues:
            dead = self._dead.get(queue.name, (0.0, None))[1]
            try:
                answer = self.channel.queue_declare(queue=queue.name, passive=True)
                found[queue.name] = Depth(
                    answer.message_count,
                    unacked.get(queue.name),
                    consumers=answer.consumer_count,
                    dead=dead,
                )
            except NotFound:
                found[queue.name] = Depth(0, dead=dead)
                self.channel = self.connection.channel()
        return found

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """See `Broker.count_dead_letters`. These questions take a tenth of the time, so that depths are not older for them."""
        for queue in queues:
            asked = monotonic()
            if (
                asked < self._next_dead_at
                or asked - self._dead.get(queue.name, (-DEAD_EVERY_SECONDS, 0))[0] < DEAD_EVERY_SECONDS
            ):
                continue
            try:
                dead = int(self.channel.queue_declare(queue=rabbit_queue(queue.name), passive=True).message_count)
            except NotFound:
                dead = 0
                self.channel = self.connection.channel()
            self._dead[queue.name] = asked, dead
            now = monotonic()
            self._next_dead_at = now + 9 * (now - asked)

    def dead_letters(self, queue: Queue) -> Any:
        """See `Broker.dead_letters`."""
        from greenworker.exporter.dead_letters import RabbitLetters  # noqa: PLC0415 - the command needs it, the exporter does not

        return RabbitLetters(self.connection, queue)

    def close(self) -> None:
        """See `Broker.close`."""
        with suppress(Exception):  # it is gone either way
            self.connection.release()
