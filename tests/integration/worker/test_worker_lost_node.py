"""A node of RabbitMQ's cluster is down, and with it the classic queues that have it for their home. Who is connected
to another node is told that the queue cannot be had, by the same code as for one that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import pytest
from amqp.exceptions import NotFound
from celery import chain
from kombu.connection import Connection

from tests.integration.worker.harness import Exporter, Producer, RabbitMQ, Worker, eventually

Start = Callable[..., Worker]

LIVE_SECONDS = 6.0
"""A worker that shows no sign of life for so long fails its probe here."""

BACK_SECONDS = 60.0
"""Within so long after the node's return everyone consumes."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, RabbitMQ]]:
    """Two nodes: one for the workers, and one that goes and comes back."""
    directory = tmp_path_factory.mktemp("cluster")
    for name in ("stays", "goes"):
        (directory / name).mkdir()
    stays = RabbitMQ(directory / "stays")
    goes = RabbitMQ(directory / "goes", beside=stays)
    yield stays, goes
    stays.stop()


def declare(server: RabbitMQ, *queues: str) -> None:
    """The node that declares a classic queue is its home."""
    with Connection(server.url) as connection:
        for queue in queues:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False)  # type: ignore[no-untyped-call]


@contextmanager
def down(node: RabbitMQ) -> Iterator[None]:
    node.kill()
    try:
        yield
    finally:
        if node.process is None:
            node.start()


def test_workers_outlive_the_home_node_of_their_classic_queues(
    cluster: tuple[RabbitMQ, RabbitMQ], start_worker: Start, tmp_path: Path
) -> None:
    stays, goes = cluster
    declare(goes, "shop", "shop.prefork")
    declare(stays, "else")
    environment = {"GREENWORKER_RESTART_AFTER_SECONDS": str(LIVE_SECONDS), "GREENWORKER_DRAIN_SECONDS": "2"}

    def pair(name: str) -> list[Worker]:
        return [
            start_worker(stays.url, queues="shop", threads=5, name=f"green-{name}", environment=environment),
            start_worker(
                stays.url, queues="shop.prefork", pool="prefork", arguments=["-c", "1"], name=f"companion-{name}",
                environment=environment,
            ),
        ]  # fmt: skip

    watched = Exporter(stays.url, tmp_path / "exporter", queues="shop,else")
    watched.start()
    before = pair("before")
    try:
        for worker in before:
            worker.ready(60)
        eventually(lambda: watched.depth("shop") == 0.0, "the depth is known")
        Producer(stays.url, queue="shop.prefork").sleep.delay(1, 10.0)
        eventually(lambda: before[1].journal.counts("start")["1"] == 1, "the companion runs it")
        with down(goes):
            for worker in before:
                eventually(lambda worker=worker: worker.status("/readyz") == 503, "not ready", 60)
            everyone = [*before, *pair("meanwhile"), *pair("asked to leave")]
            for worker in everyone:
                eventually(
                    lambda worker=worker: worker.tail(500).count("Cannot consume: broker=\"queue 'shop") >= 3,
                    "it tries again", 90, every=0.5, more=worker.tail,
                )  # fmt: skip
                assert not worker.gone(), worker.tail()
                status, said = worker.get("/readyz")
                assert status == 503
                assert "is down or inaccessible" in said
            for worker in before:
                eventually(lambda worker=worker: worker.status("/healthz") == 200, "it lives", more=worker.tail)
            assert before[1].journal.counts("done")["1"] == 1, "what the companion ran, it has ended"
            eventually(lambda: watched.depth("shop") is None, "no depth is shown", more=watched.tail)
            assert watched.depth("else") == 0.0
            assert watched.up() == 1.0
            for worker in everyone[4:]:
                worker.process.terminate()  # type: ignore[union-attr]
                assert worker.wait(30) == 0, worker.tail()
            goes.start()
            for worker in everyone[:4]:
                worker.ready(BACK_SECONDS)
        eventually(lambda: watched.depth("shop") == 0.0, "the depth is known again")
        tasks = Producer(stays.url, queue="shop")
        for number in range(10, 20):
            tasks.noop.delay(number)
            tasks.marked.delay(number + 10)
        eventually(
            lambda: all(before[0].journal.counts("done")[str(number)] for number in range(10, 30)),
            "all are done",
            more=before[1].tail,
        )
    finally:
        watched.stop()


def test_the_next_task_of_a_chain_waits_for_the_node_of_its_queue(
    cluster: tuple[RabbitMQ, RabbitMQ], start_worker: Start
) -> None:
    stays, goes = cluster
    declare(stays, "here")
    declare(goes, "far")
    worker = start_worker(stays.url, queues="here", threads=1).ready(60)
    tasks = Producer(stays.url, queue="here")
    with down(goes):
        eventually(lambda: not consumable(stays, "far"), "the queue is away")
        link = tasks.app.signature("green_app.noop", (2,), queue="far", immutable=True)
        chain(tasks.noop.s(1), link).apply_async()
        eventually(lambda: worker.journal.counts("done")["1"] == 1, "its first task runs", more=worker.tail)
        sleep(3.0)  # the worker tries, in vain
    other = start_worker(stays.url, queues="far", threads=5).ready(BACK_SECONDS)
    eventually(lambda: other.journal.counts("done")["2"] == 1, "its next task runs", BACK_SECONDS, more=worker.tail)
    assert worker.journal.counts("done")["1"] == 1, "once"


def consumable(server: RabbitMQ, queue: str) -> bool:
    with Connection(server.url) as connection:
        try:
            connection.channel().queue_declare(queue, passive=True)  # type: ignore[no-untyped-call]
        except NotFound:
            return False
        return True
