"""A queue of one broker, filled before a worker starts and watched while it works.

Celery's message is published once by Celery itself and then repeated with new ids: a producer must not take the bench's
time. dramatiq's messages are published by dramatiq.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from amqp import Message
from celery import Celery
from kombu import Exchange, Queue
from kombu.connection import Connection

from tests.integration.worker.harness import RabbitMQ, Redis

HERE = Path(__file__).parent
NUMBERS = itertools.count(1)


def start_broker(kind: str, directory: Path) -> Any:
    """A broker of our own. Redis writes nothing to disk here: what is measured is the worker."""
    directory.mkdir(parents=True, exist_ok=True)
    return Redis(directory, "--appendonly", "no") if kind == "redis" else RabbitMQ(directory)


class Lane:
    """One queue with *count* messages of *task*, in Celery's or dramatiq's format."""

    def __init__(self, kind: str, server: Any, framework: str) -> None:
        self.kind, self.server, self.framework = kind, server, framework
        self.name = f"bench{next(NUMBERS)}"
        self._connection: Any = None

    def environment(self) -> dict[str, str]:
        """What the apps of this directory read."""
        # kombu and pika spell RabbitMQ's default virtual host differently.
        url = self.server.url.removesuffix("//") + "/%2F" if self.kind == "rabbitmq" else self.server.url
        return {"BENCH_BROKER": self.kind, "BENCH_QUEUE": self.name, "BENCH_URL": url}

    def fill(self, task: str, count: int) -> None:
        """Add messages to the queue."""
        if self.framework == "dramatiq":
            environment = {**os.environ, **self.environment()}
            code = f"import actors\nfor number in range({count}): actors.{task}.send(number)"
            subprocess.run([sys.executable, "-c", code], cwd=HERE, env=environment, check=True)
        elif self.kind == "redis":
            self._fill_redis(task, count)
        else:
            self._fill_rabbitmq(task, count)

    def _publish_one(self, task: str, queue: Any) -> None:
        app = Celery("producer", broker=self.server.url, set_as_current=False)
        app.conf.task_ignore_result = True
        app.send_task(f"celery_app.{task}", (0,), queue=queue)
        app.close()

    def sender(self, task: str) -> Callable[[int], None]:
        """Sends one numbered message of *task*, to Redis and in Celery's format."""
        client, numbered = self.server.client(), self._template(task)
        return lambda number: client.lpush(self.name, numbered(number))

    def _template(self, task: str) -> Callable[[int], str]:
        """Celery's message of *task*, as kombu keeps it in Redis, with another number and new ids each time."""
        elsewhere = f"{self.name}.template"  # a worker may be listening here
        self._publish_one(task, elsewhere)
        text = self.server.client().rpop(elsewhere).replace(elsewhere, self.name)
        message = json.loads(text)
        old_id, old_tag = message["properties"]["correlation_id"], message["properties"]["delivery_tag"]
        body = b64decode(message["body"]).decode()

        def numbered(number: int) -> str:
            new_body = b64encode(body.replace("[[0]", f"[[{number}]").encode()).decode()
            new = text.replace(old_id, str(uuid4())).replace(old_tag, str(uuid4()))
            return str(new.replace(message["body"], new_body))

        return numbered

    def _fill_redis(self, task: str, count: int) -> None:
        numbered = self._template(task)
        pipeline = self.server.client().pipeline(transaction=False)
        for number in range(count):
            pipeline.lpush(self.name, numbered(number))
            if number % 500 == 0 or number == count - 1:
                pipeline.execute()

    def _fill_rabbitmq(self, task: str, count: int) -> None:
        queue = Queue(
            self.name, Exchange(self.name), routing_key=self.name, queue_arguments={"x-queue-type": "classic"}
        )
        self._publish_one(task, queue)
        with Connection(self.server.url) as connection:
            channel = connection.channel()
            message = None
            while message is None:
                message = channel.basic_get(self.name, no_ack=True)
            for number in range(count):
                identity = str(uuid4())
                properties = {**message.properties, "correlation_id": identity}
                properties["application_headers"] = {**message.headers, "id": identity, "root_id": identity}
                body = message.body.replace("[[0]", f"[[{number}]")
                channel.basic_publish(Message(body, **properties), self.name, self.name)

    def left(self) -> int:
        """Messages that no worker has finished; on RabbitMQ those that none has fetched."""
        if self.kind == "redis":
            client = self.server.client()
            if self.framework == "dramatiq":
                return int(client.hlen(f"dramatiq:{self.name}.msgs"))
            return int(client.llen(self.name)) + int(client.hlen("unacked"))
        if self._connection is None:
            self._connection = Connection(self.server.url)
        return int(self._connection.default_channel.queue_declare(self.name, passive=True).message_count)

    def drop(self) -> None:
        """The end: nothing of it stays at the broker."""
        if self.kind == "redis":
            self.server.client().flushall()
            return
        with Connection(self.server.url) as connection:
            connection.default_channel.queue_delete(self.name)
        if self._connection is not None:
            self._connection.release()
