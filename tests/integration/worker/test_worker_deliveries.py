"""A quorum queue drops what was delivered too often: clean drains must not count."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from typing import Any

import celery
import pytest
from kombu import Exchange, Queue
from kombu.connection import Connection

from greenworker.brokers.amqp.returns import COUNT, EARLIER, nack
from tests.integration.worker.harness import Producer, RabbitMQ, Worker, eventually

Start = Callable[..., Worker]

LIMIT = 2


class Limited:
    """A quorum queue that drops a message after its third delivery, and who uses it."""

    def __init__(self, server: RabbitMQ, exchange: str = "direct") -> None:
        self.server = server
        self.name = f"limited-{uuid.uuid4().hex[:8]}"  # on a broker that others use as well
        self.arguments = {"x-queue-type": "quorum", "x-delivery-limit": LIMIT}
        bound = Exchange(self.name, type=exchange)
        queue = Queue(self.name, bound, routing_key=self.name, queue_arguments=self.arguments)
        self.producer = Producer(server.url, queue=queue)
        of = f"Exchange({self.name!r}, type={exchange!r})"
        declared = f"Queue({self.name!r}, {of}, routing_key={self.name!r}, queue_arguments={self.arguments})"
        self.environment = {
            "APP_CONF": f"{{'task_queues': [{declared}], 'worker_detect_quorum_queues': True}}",
            "GREENWORKER_DRAIN_SECONDS": "0.5",
            "GREENWORKER_PREFETCH_MULTIPLIER": "2",
        }

    def ready(self) -> int:
        with Connection(self.server.url) as connection:
            return int(connection.channel().queue_declare(self.name, passive=True).message_count)

    def headers(self) -> list[dict[str, Any]]:
        """Of every message that waits."""
        found = []
        with Connection(self.server.url) as connection:
            channel = connection.channel()
            while (message := channel.basic_get(self.name)) is not None:
                found.append(message.properties["application_headers"])
        return found


@pytest.fixture
def limited(rabbit_server: RabbitMQ) -> Limited:
    return Limited(rabbit_server)


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_no_clean_drain_uses_up_a_delivery(limited: Limited, start_worker: Start, pool: str) -> None:
    """What runs when the drain's time ends, what waits for a thread, and what waits for its ETA."""
    for number in range(6):
        limited.producer.sleep.delay(number, 60)
    for number in range(6, 9):
        limited.producer.noop.apply_async((number,), countdown=600)
    more: dict[str, Any] = {"arguments": ["-c", "2"]} if pool == "prefork" else {"threads": 2}
    for _ in range(LIMIT + 2):
        worker = start_worker(
            limited.server.url, queues=limited.name, pool=pool, environment=limited.environment, **more
        ).ready()
        eventually(lambda worker=worker: worker.metric("greenworker_threads_busy") == 2, "two run")
        worker.signal(signal.SIGTERM)
        worker.wait(30)
        eventually(
            lambda: limited.ready() == 9,
            "all are back",
            10,
            more=lambda worker=worker: f"{limited.ready()} ready; {worker.tail()}",
        )
    headers = limited.headers()
    assert sorted(each["task"].partition(".")[2] for each in headers) == ["noop"] * 3 + ["sleep"] * 6
    assert [each for each in headers if each.get(COUNT) or EARLIER in each] == []


def test_a_message_near_its_limit_is_said_and_its_copy_hides_nothing(limited: Limited, start_worker: Start) -> None:
    """Without a cap of ours. With one, a redelivered message is published anew, and its queue counts from zero."""
    limited.producer.sleep.delay(1, 60)
    with Connection(limited.server.url) as connection:
        channel = connection.channel()
        message = eventually(lambda: channel.basic_get(limited.name), "it is there")
        channel.basic_reject(message.delivery_tag, requeue=True)
    worker = start_worker(
        limited.server.url,
        queues=limited.name,
        threads=2,
        environment={**limited.environment, "GREENWORKER_MAX_DELIVERIES": "0"},
    ).ready()
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1, "it runs")
    worker.reaches("greenworker_task_risk", 1, reason="delivery_limit", task="green_app.sleep")
    assert f"queue {limited.name} drops it" in worker.tail()
    worker.signal(signal.SIGTERM)
    worker.wait(30)
    eventually(lambda: limited.ready() == 1, "it is back")
    (headers,) = limited.headers()
    assert headers.get(COUNT, 0) + headers.get(EARLIER, 0) == 1, (
        "up to RabbitMQ 4.2 a copy says it, then the queue itself"
    )


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_messages_that_wait_for_their_eta_keep_no_other_back(limited: Limited, start_worker: Start, pool: str) -> None:
    """More of them than a worker prefetches, and in front."""
    for number in range(9):
        limited.producer.noop.apply_async((number,), countdown=600)
    for number in range(9, 12):
        limited.producer.noop.delay(number)
    for number in range(12, 15):
        limited.producer.noop.apply_async((number,), countdown=600)
    more: dict[str, Any] = {"arguments": ["-c", "2"]} if pool == "prefork" else {"threads": 2}
    worker = start_worker(
        limited.server.url, queues=limited.name, pool=pool, environment=limited.environment, **more
    ).ready()
    eventually(lambda: worker.journal.done() == 3, "those without are done", more=worker.tail)
    limited.producer.noop.delay(15)
    eventually(lambda: worker.journal.done() == 4, "and one that comes later")
    worker.signal(signal.SIGTERM)
    worker.wait(30)
    eventually(
        lambda: limited.ready() == 12,
        "the others are back",
        10,
        more=lambda: f"{limited.ready()} ready; {worker.tail()}",
    )


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="Celery has it from 5.5 on")
@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_where_celery_lets_rabbitmq_delay_a_task_no_worker_holds_it(
    rabbit_server: RabbitMQ, start_worker: Start, pool: str
) -> None:
    """From 5.5 on, for quorum queues on a topic exchange: what waits there for its ETA is nobody's, so no drain returns
    it.
    """
    limited = Limited(rabbit_server, "topic")
    more: dict[str, Any] = {"arguments": ["-c", "2"]} if pool == "prefork" else {"threads": 2}
    worker = start_worker(
        limited.server.url, queues=limited.name, pool=pool, environment=limited.environment, **more
    ).ready()
    for number in range(6):
        limited.producer.noop.apply_async((number,), countdown=6)
    limited.producer.noop.delay(6)
    eventually(lambda: worker.journal.done() == 1, "the one without is done", more=worker.tail)
    assert worker.metric("greenworker_tasks_scheduled") == 0
    assert worker.metric("greenworker_tasks_reserved") == 0
    eventually(lambda: worker.journal.done() == 7, "the others when their time has come", 30, more=worker.tail)
    assert max(worker.journal.counts("done").values()) == 1


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="Celery has it from 5.5 on")
@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_where_celery_lets_rabbitmq_delay_a_task_a_retry_after_less_than_a_second_is_tried_again(
    rabbit_server: RabbitMQ, start_worker: Start, pool: str
) -> None:
    """kombu refuses to delay anything by less than a second. Celery has a retry delayed where the queue is the app's
    default one.
    """
    limited = Limited(rabbit_server, "topic")
    limited.environment["APP_CONF"] = limited.environment["APP_CONF"].replace(
        "{", f"{{'task_default_queue': {limited.name!r}, ", 1
    )
    more: dict[str, Any] = {"arguments": ["-c", "2"]} if pool == "prefork" else {"threads": 2}
    worker = start_worker(
        limited.server.url, queues=limited.name, pool=pool, environment=limited.environment, **more
    ).ready()
    limited.producer.again.apply_async((1,), headers={"pause": 0.3})
    eventually(lambda: worker.journal.done() == 1, "it is done", 20, more=worker.tail)


def test_a_nack_brings_a_message_back(limited: Limited) -> None:
    """The way of RabbitMQ 4.3, which every version understands."""
    limited.producer.noop.delay(1)
    with Connection(limited.server.url) as connection:
        queue = Queue(limited.name, channel=connection.channel())
        message = eventually(queue.get, "it is there")
        nack(message)
        assert message.acknowledged
        eventually(lambda: limited.ready() == 1, "it is back")
