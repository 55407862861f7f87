"""A worker whose node is gone, or its network; and a broker that gives up on a worker whose connection it still
has.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest

from greenworker.brokers.amqp.confirms import CONFIRM_SECONDS
from tests.integration.worker.harness import RabbitMQ, Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane

Start = Callable[..., Worker]

NOTICED_SECONDS = 90.0
"""Redis: 20 s until it counts as dead. RabbitMQ: two of its heartbeats, which are 8 s here and 60 by default."""


@pytest.fixture(scope="module")
def impatient_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """It looks after its clients more often than by default."""
    server = RabbitMQ(tmp_path_factory.mktemp("rabbit"), settings="heartbeat = 8\n")
    yield server
    server.stop()


@pytest.fixture(params=["redis", pytest.param("classic", marks=pytest.mark.slow), "quorum"])
def lane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lane]:
    """A queue of each kind of broker."""
    if request.param != "redis":
        yield RabbitLane(request.getfixturevalue("impatient_rabbit"), request.param)
        return
    server = Redis(tmp_path)
    yield RedisLane(server)
    server.stop()


@pytest.fixture
def rabbit_lane(impatient_rabbit: RabbitMQ) -> Lane:
    """A quorum queue."""
    return RabbitLane(impatient_rabbit, "quorum")


def test_what_a_worker_held_whose_node_is_gone_runs_elsewhere(lane: Lane, start_worker: Start) -> None:
    """Nobody closes the connections of a node without power; and its worker never comes back."""
    gone = start_worker(lane.url, queues=lane.queue, environment=lane.environment()).ready()
    lane.producer().sleep.delay(1, 3.0)
    eventually(lambda: gone.journal.counts("start")["1"] == 1, "it runs")
    gone.signal(signal.SIGSTOP)
    other = start_worker(lane.url, queues=lane.queue, environment=lane.environment()).ready()
    eventually(lambda: other.journal.counts("done")["1"] == 1, "the other does it", NOTICED_SECONDS, more=other.tail)


def test_what_a_worker_runs_that_is_cut_off_runs_twice(lane: Lane, start_worker: Start) -> None:
    relay = Relay(lane.server.port)
    through = lane.url.replace(f":{lane.server.port}", f":{relay.port}")
    lonely = start_worker(through, queues=lane.queue, environment=lane.environment()).ready()
    lane.producer().sleep.delay(1, 45.0)
    eventually(lambda: lonely.journal.counts("start")["1"] == 1, "it runs")
    relay.refuse()
    relay.silenced.update(relay.sockets)
    other = start_worker(lane.url, queues=lane.queue, environment=lane.environment()).ready()
    eventually(
        lambda: other.journal.counts("start")["1"] == 2, "the other begins it too", NOTICED_SECONDS, more=other.tail
    )
    relay.accept(lane.server.port)
    eventually(lambda: other.journal.counts("done")["1"] == 2, "both do it", NOTICED_SECONDS, more=lonely.tail)
    lane.producer().noop.delay(2)
    eventually(lambda: other.journal.counts("done")["2"] == 1, "and go on")
    relay.close()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_task_longer_than_the_consumer_timeout_runs_again(tmp_path: Path, start_worker: Start, pool: str) -> None:
    """RabbitMQ closes the channel. The worker connects again and goes on: with the late task, and with others."""
    directory = tmp_path / "rabbit"
    directory.mkdir()
    server = RabbitMQ(directory, settings="consumer_timeout = 5000\n")
    try:
        server.control("eval", "application:set_env(rabbit, channel_tick_interval, 500).")  # it looks once a minute
        lane = RabbitLane(server, "quorum")
        worker = start_worker(
            lane.url, queues=lane.queue, pool=pool, environment=lane.environment(),
            arguments=["-c", "4"] if pool == "prefork" else [],
        ).ready()  # fmt: skip
        process = worker.process
        tasks = lane.producer()
        tasks.sleep.delay(1, 45.0)
        eventually(lambda: worker.journal.counts("start")["1"] >= 2, "it begins again", 60, more=worker.tail)
        tasks.noop.delay(2)
        eventually(lambda: worker.journal.counts("done")["2"] == 1, "others run", 30, more=worker.tail)
        assert worker.process is process
        assert not worker.gone()
    finally:
        server.stop()


def test_a_broker_out_of_memory_stops_producers_and_not_workers(rabbit_lane: Lane, start_worker: Start) -> None:
    server: RabbitMQ = rabbit_lane.server
    worker = start_worker(rabbit_lane.url, queues=rabbit_lane.queue, environment=rabbit_lane.environment()).ready()
    producer = rabbit_lane.producer(broker_transport_options={"confirm_publish": True})
    for number in range(40):
        producer.sleep.delay(number, 1.0)
    server.control("set_vm_memory_high_watermark", "0")
    sent = threading.Thread(target=producer.noop.delay, args=("late",), daemon=True)
    try:
        sent.start()
        eventually(lambda: len(worker.journal.counts("done")) == 40, "workers go on", 60, more=worker.tail)
        eventually(lambda: rabbit_lane.ready() == 0, "and acknowledge")
        sleep(1.0)
        assert sent.is_alive(), "the producer waits"
        assert not worker.journal.counts("done")["late"]
    finally:
        server.control("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: worker.journal.counts("done")["late"] == 1, "then its task arrives", 60)
    sent.join(30)
    assert set(worker.journal.counts("done").values()) == {1}


def test_what_a_worker_publishes_waits_while_the_broker_blocks_and_arrives_once(
    rabbit_lane: Lane, start_worker: Start
) -> None:
    server: RabbitMQ = rabbit_lane.server
    rabbit_lane.producer().retry_after.delay(1, 0.0)
    server.control("set_vm_memory_high_watermark", "0")
    try:
        worker = start_worker(rabbit_lane.url, queues=rabbit_lane.queue, environment=rabbit_lane.environment()).ready()
        eventually(lambda: worker.journal.counts("start")["1"] == 1, "it runs")
        sleep(CONFIRM_SECONDS + 10.0)  # it has waited for longer than a living broker needs
        assert worker.journal.counts("start")["1"] == 1
    finally:
        server.control("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: worker.journal.done() == 1, "then its retry arrives", 60, more=worker.tail)
    rabbit_lane.producer().noop.delay(2)
    eventually(lambda: worker.journal.counts("done")["2"] == 1, "what is published later")
    assert worker.journal.counts("start")["1"] == 2
