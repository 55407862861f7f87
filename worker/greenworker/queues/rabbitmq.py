"""Depth on RabbitMQ: a passive declare says how many messages are ready, for classic and quorum queues alike.

AMQP does not tell what is unacknowledged; RabbitMQ's Prometheus plugin does, if the resource names it.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from contextlib import suppress
from typing import Any

from amqp.exceptions import NotFound
from kombu.connection import Connection

from greenworker.queues.broker import TIMEOUT_SECONDS, Depth, Queue
from greenworker.queues.plugin import Plugin
from greenworker.tls import Trust, amqp_options, check_host_names


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
            transport_options={"read_timeout": TIMEOUT_SECONDS, "write_timeout": TIMEOUT_SECONDS},
        )
        self.connection.connect()
        self.channel: Any = self.connection.channel()
        client = self.connection
        self.plugin = (
            Plugin(client.hostname or "localhost", metrics_port, client.virtual_host or "/") if metrics_port else None
        )

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`."""
        found: dict[str, Depth] = {}
        unacked = self.plugin.unacked() if self.plugin is not None else {}
        for queue in queues:
            try:
                answer = self.channel.queue_declare(queue=queue.name, passive=True)
                found[queue.name] = Depth(
                    answer.message_count, unacked.get(queue.name), consumers=answer.consumer_count
                )
            except NotFound:
                found[queue.name] = Depth(0)
                self.channel = self.connection.channel()
        return found

    def close(self) -> None:
        """See `Broker.close`."""
        with suppress(Exception):  # it is gone either way
            self.connection.release()
