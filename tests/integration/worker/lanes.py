"""A queue of its own for one test, on each kind of broker."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import itertools
import uuid
from typing import Any

from kombu import Exchange, Queue
from kombu.connection import Connection
from kombu.utils.json import dumps

from tests.integration.worker.harness import Producer, RabbitMQ, Redis

_numbers = itertools.count(1)


class Lane:
    """Same questions, whatever the broker."""

    kind = ""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.url: str = server.url
        self.queue = f"lane{next(_numbers)}"

    def producer(self, **conf: Any) -> Producer:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    def ready(self, queue: str = "") -> int:
        raise NotImplementedError


class RedisLane(Lane):
    kind = "redis"

    def __init__(self, server: Redis) -> None:
        super().__init__(server)
        server.client().flushall()

    def producer(self, **conf: Any) -> Producer:
        return Producer(self.url, queue=self.queue, **conf)

    def environment(self) -> dict[str, str]:
        return {}

    def ready(self, queue: str = "") -> int:
        return int(self.server.client().llen(queue or self.queue))


class RabbitLane(Lane):
    def __init__(self, server: RabbitMQ, kind: str, exchange_type: str = "direct") -> None:
        super().__init__(server)
        self.kind, self.exchange_type = kind, exchange_type
        with Connection(self.url) as connection:
            connection.channel().queue_declare(
                self.queue, durable=True, auto_delete=False, arguments={"x-queue-type": kind}
            )

    def producer(self, **conf: Any) -> Producer:
        exchange = Exchange(self.queue, type=self.exchange_type)
        queue = Queue(self.queue, exchange, routing_key=self.queue, queue_arguments={"x-queue-type": self.kind})
        return Producer(self.url, queue=queue, **conf)

    def environment(self) -> dict[str, str]:
        return {"QUEUE_KIND": self.kind, "QUEUE_NAME": self.queue, "EXCHANGE_TYPE": self.exchange_type}

    def ready(self, queue: str = "") -> int:
        with Connection(self.url) as connection:
            return int(connection.channel().queue_declare(queue or self.queue, passive=True).message_count)

    def consumers(self) -> int:
        with Connection(self.url) as connection:
            return int(connection.channel().queue_declare(self.queue, passive=True).consumer_count)


def publish(lane: Lane, task: str, first: int, last: int, *more: Any) -> None:
    """As Celery's protocol 2, in one go: a client that does nothing else makes 200,000 messages in reasonable time.
    Returns when RabbitMQ has confirmed them all. Redis gets all in one command, for ours writes each command to disk.
    """
    waiting: list[str] = []
    with Connection(lane.url) as connection:
        producer = connection.Producer(serializer="json", auto_declare=False)
        unconfirmed = set() if lane.kind == "redis" else confirmations(producer.channel, last - first)
        if lane.kind == "redis":
            producer.channel._put = lambda _queue, message, **_: waiting.append(dumps(message))
        for number in range(first, last):
            identity = str(uuid.uuid4())
            headers = {"lang": "py", "task": f"green_app.{task}", "id": identity, "root_id": identity, "retries": 0}
            producer.publish(
                [[number, *more], {}, {}],
                routing_key=lane.queue,
                exchange="",
                headers=headers,
                correlation_id=identity,
            )
        while unconfirmed:
            connection.drain_events(timeout=60)
    if waiting:
        lane.server.client().lpush(lane.queue, *waiting)


def confirmations(channel: Any, count: int) -> set[int]:
    """The numbers of the *count* messages that are published next over this channel of RabbitMQ, each as long as it is
    not confirmed.
    """
    unconfirmed = set(range(1, count + 1))

    def confirm(number: int, and_all_before: bool) -> None:
        unconfirmed.difference_update(range(min(unconfirmed, default=number) if and_all_before else number, number + 1))

    channel.confirm_select()
    channel.events["basic_ack"].add(confirm)
    return unconfirmed
