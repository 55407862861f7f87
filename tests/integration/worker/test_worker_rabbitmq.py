"""RabbitMQ, classic and quorum queues."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from kombu import Exchange, Queue
from kombu.connection import Connection

from tests.integration.worker.harness import RabbitMQ, Worker, eventually

Start = Callable[..., Worker]
_numbers = itertools.count(1)


class Lane:
    """A queue of its own for one test."""

    def __init__(self, server: RabbitMQ, kind: str) -> None:
        self.server, self.kind = server, kind
        self.queue = f"feeds{next(_numbers)}"
        self.url = server.url

    def declare(self) -> None:
        with Connection(self.url) as connection:
            connection.channel().queue_declare(
                self.queue, durable=True, auto_delete=False, arguments={"x-queue-type": self.kind}
            )

    def ready(self) -> int:
        with Connection(self.url) as connection:
            return int(connection.channel().queue_declare(self.queue, passive=True).message_count)

    def declared(self) -> Queue:
        return Queue(
            self.queue, Exchange(self.queue), routing_key=self.queue, queue_arguments={"x-queue-type": self.kind}
        )

    def send(self, task: Any, *arguments: Any, **options: Any) -> None:
        task.apply_async(arguments, **options)

    def conf(self) -> dict[str, str]:
        return {"QUEUE_KIND": self.kind, "QUEUE_NAME": self.queue}


@pytest.fixture(params=["classic", "quorum"])
def lane(request: pytest.FixtureRequest, rabbit_server: RabbitMQ) -> Lane:
    made = Lane(rabbit_server, request.param)
    made.declare()
    return made


def worker_on(start_worker: Start, lane: Lane, **options: Any) -> Worker:
    environment = {**lane.conf(), **options.pop("environment", {})}
    return start_worker(lane.url, queues=lane.queue, environment=environment, **options).ready()


def test_resizes_up_and_down(lane: Lane, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(lane.url, queue=lane.declared())
    worker = worker_on(start_worker, lane, threads=2)
    for number in range(150):
        lane.send(tasks.nap, number, 0.5)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.resize(60)
    eventually(lambda: worker.metric("greenworker_threads_busy") > 40, "many run")
    worker.resize(3)
    eventually(lambda: worker.metric("greenworker_threads_busy") <= 3, "few run")
    worker.resize(60)
    eventually(lambda: worker.ledger.done() == 150, "all done")
    assert max(worker.ledger.counts("done").values()) == 1


def test_drain_gives_back_and_finishes(lane: Lane, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(lane.url, queue=lane.declared())
    worker = worker_on(start_worker, lane, threads=4, environment={"GREENWORKER_PREFETCH_MULTIPLIER": "4"})
    for number in range(40):
        lane.send(tasks.nap, number, 3)
    eventually(lambda: worker.metric("greenworker_tasks_reserved") == 12, "twelve wait inside the worker")
    worker.signal(signal.SIGTERM)
    eventually(lambda: lane.ready() == 36, "all that had not started is back", 10)
    assert worker.wait(20) == 0, worker.tail()
    assert worker.ledger.done() == 4, worker.tail()
    assert lane.ready() == 36


def test_drain_deadline_requeues(lane: Lane, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(lane.url, queue=lane.declared())
    worker = worker_on(start_worker, lane, threads=30, environment={"GREENWORKER_DRAIN_SECONDS": "2"})
    for number in range(40):
        lane.send(tasks.nap, number, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 30, "thirty run")
    began = monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert monotonic() - began < 12
    eventually(lambda: lane.ready() == 40, "all are back")
    assert "30 requeued at the deadline" in worker.tail()


def test_kill_loses_nothing(lane: Lane, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(lane.url, queue=lane.declared())
    victim = worker_on(start_worker, lane, threads=20)
    for number in range(60):
        lane.send(tasks.nap, number, 0.5 if number >= 20 else 5)
    eventually(lambda: victim.metric("greenworker_threads_busy") == 20, "twenty run")
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = worker_on(start_worker, lane, threads=40)
    eventually(lambda: other.ledger.done() == 60, "every task is done")
