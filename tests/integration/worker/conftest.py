"""Fixtures of the worker's integration tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.harness import Producer, RabbitMQ, Redis, Relay, Sentinel, Worker
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane
from tests.integration.worker.redis_consumer import Consumer
from tests.ports import free_port


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One Redis for all tests that do not hurt it."""
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_broker(redis_server: Redis) -> Redis:
    """The same, empty."""
    redis_server.client().flushall()
    return redis_server


@pytest.fixture
def consumer(redis_broker: Redis) -> Iterator[Consumer]:
    """A consumer of the Redis transport in this process, behind a relay."""
    relay = Relay(redis_broker.port)
    consumer = Consumer(redis_broker, relay)
    yield consumer
    consumer.close()
    relay.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that a test may kill."""
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    """Redis behind a Sentinel, whose master a test may kill."""
    servers = Sentinel(tmp_path)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """One RabbitMQ for all tests; each uses queues of its own name. GREENFLEET_TESTS_RABBITMQ_URL names another one, of
    another version.
    """
    if url := os.environ.get("GREENFLEET_TESTS_RABBITMQ_URL"):
        other = RabbitMQ.__new__(RabbitMQ)
        other.url = url
        yield other
        return
    port = free_port()
    settings = f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\ncollect_statistics_interval = 1000\n"
    server = RabbitMQ(tmp_path_factory.mktemp("rabbit"), plugins=("rabbitmq_prometheus",), settings=settings)
    server.metrics_port = port
    yield server
    server.stop()


@pytest.fixture
def own_rabbit(tmp_path: Path) -> Iterator[RabbitMQ]:
    """A RabbitMQ that a test may stop or kill."""
    directory = tmp_path / "rabbit"
    directory.mkdir()
    server = RabbitMQ(directory)
    yield server
    server.stop()


@pytest.fixture(params=["redis", pytest.param("classic", marks=pytest.mark.slow), "quorum"])
def any_lane(request: pytest.FixtureRequest) -> Lane:
    """The same test on Redis, on a classic and on a quorum queue of RabbitMQ."""
    if request.param == "redis":
        return RedisLane(request.getfixturevalue("redis_server"))
    return RabbitLane(request.getfixturevalue("rabbit_server"), request.param)


@pytest.fixture(params=[pytest.param("classic", marks=pytest.mark.slow), "quorum"])
def rabbit_lane(request: pytest.FixtureRequest, rabbit_server: RabbitMQ) -> Lane:
    """The same test on a classic and on a quorum queue."""
    return RabbitLane(rabbit_server, request.param)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers; whatever is left of them is killed at the end."""
    workers: list[Worker] = []
    numbers = itertools.count(1)

    def start(broker_url: str, **options: Any) -> Worker:
        options.setdefault("name", f"w{next(numbers)}")
        worker = Worker(broker_url, tmp_path / "worker", **options)
        workers.append(worker)
        return worker.start()

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def client_app() -> Iterator[Callable[..., Producer]]:
    """``client_app(url).sleep.delay(1, 0.5)``: a stock producer of the test app's tasks."""
    made: list[Producer] = []

    def make(url: str, **conf: Any) -> Producer:
        made.append(Producer(url, **conf))
        return made[-1]

    yield make
    for producer in made:
        producer.app.close()
