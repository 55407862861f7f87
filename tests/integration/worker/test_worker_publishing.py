"""What a task publishes at its end, while the broker cannot be reached."""

from __future__ import annotations

import signal
from collections.abc import Callable
from threading import Timer
from time import sleep

import celery
import pytest
from celery import chain, chord
from kombu import Connection, Queue
from kombu.transport.redis import Channel

from greenworker.bootstrap.settings import PUBLISH_RETRY_POLICY
from greenworker.brokers.redis.publishing import notice_closed_channels
from tests.integration.worker.harness import Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RedisLane

Start = Callable[..., Worker]

AWAY_SECONDS = 3.0
"""Longer than Celery's own three attempts to publish, which take less than a second."""


@pytest.fixture(params=["eventlet", "prefork"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def behind_a_relay(start_worker: Start, lane: Lane, pool: str, children: int = 2) -> tuple[Worker, Relay]:
    relay = Relay(lane.server.port)
    worker = start_worker(
        lane.url.replace(f":{lane.server.port}", f":{relay.port}"), queues=lane.queue, pool=pool,
        arguments=["-c", str(children)] if pool == "prefork" else [], environment=lane.environment(),
    )  # fmt: skip
    return worker.ready(), relay


def be_away(relay: Relay) -> None:
    relay.refuse()
    relay.cut()
    sleep(AWAY_SECONDS)
    relay.accept(relay.target)


def test_a_retry_that_cannot_be_published_is_not_lost(any_lane: Lane, start_worker: Start, pool: str) -> None:
    worker, relay = behind_a_relay(start_worker, any_lane, pool)
    any_lane.producer().retry_after.delay(1, 1.0)
    eventually(lambda: worker.journal.counts("start"), "it runs")
    be_away(relay)
    eventually(lambda: worker.journal.done() == 1, "it is done in the end", 40, more=worker.tail)
    relay.close()


def test_the_rest_of_a_chain_that_cannot_be_published_is_not_lost(
    any_lane: Lane, start_worker: Start, pool: str
) -> None:
    worker, relay = behind_a_relay(start_worker, any_lane, pool)
    producer = any_lane.producer()
    chain(producer.sleep.s(1, 1.0).set(immutable=True), producer.noop.s(2).set(immutable=True)).apply_async()
    eventually(lambda: worker.journal.counts("start"), "the first runs")
    be_away(relay)
    eventually(lambda: worker.journal.counts("done")["2"], "the second is done", 40, more=worker.tail)
    relay.close()


def test_a_queue_that_is_declared_over_a_lost_connection_gets_its_message(
    redis_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kombu declares a queue before it publishes to it for the first time over a connection, and connects anew by
    itself if that fails. It went on with the channel that it had closed, whose error is none of the broker's.
    """
    monkeypatch.setattr(Channel, "basic_publish", Channel.basic_publish)  # restored afterwards
    notice_closed_channels()
    relay = Relay(redis_broker.port)
    with Connection(f"redis://127.0.0.1:{relay.port}/0") as connection:
        producer = connection.Producer()

        def publish(name: str) -> None:
            policy = PUBLISH_RETRY_POLICY
            producer.publish({}, routing_key=name, declare=[Queue(name)], retry=True, retry_policy=policy)

        publish("declared-before")
        back = Timer(AWAY_SECONDS, relay.accept, (relay.target,))
        relay.refuse()
        relay.cut()
        back.start()
        publish("declared-meanwhile")
        back.join()
    assert redis_broker.client().llen("declared-meanwhile") == 1
    relay.close()


@pytest.mark.parametrize("ends", [True, False], ids=["and-ends", "and-stays"])
def test_a_retry_that_a_silent_connection_swallows_is_not_lost(
    rabbit_lane: Lane, start_worker: Start, pool: str, ends: bool
) -> None:
    worker, relay = behind_a_relay(start_worker, rabbit_lane, pool, children=1)
    producer = rabbit_lane.producer()
    before = len(relay.sockets)
    producer.retry_after.delay(1, 0.0)
    eventually(lambda: worker.journal.done() == 1, "a retry works", more=worker.tail)
    published_over = relay.sockets[before:]
    assert published_over
    relay.silenced.update(published_over)
    producer.retry_after.delay(2, 0.0)
    eventually(lambda: worker.journal.counts("start")["2"] == 1, "the second one runs")
    sleep(2.0)  # time enough to publish, and to acknowledge
    if ends:
        for side in published_over:
            side.close()
    eventually(lambda: worker.journal.done() == 2, "it is done in the end", 60, more=worker.tail)
    relay.close()


@pytest.mark.parametrize(
    ("broker", "end"), [("refuses", "SIGTERM"), ("is silent", "SIGTERM"), ("is silent", "SIGKILL")]
)
def test_the_body_of_a_chord_outlasts_the_worker_that_sends_it(
    redis_broker: Redis, own_redis: Redis, start_worker: Start, broker: str, end: str
) -> None:
    """Celery has counted all parts by then, and the one that has completed the chord runs again."""
    lane, relay, results = RedisLane(own_redis), Relay(own_redis.port), redis_broker.client()
    conf = {"task_ignore_result": False, "result_backend": redis_broker.url, "task_default_queue": lane.queue}
    environment = {"APP_CONF": repr(conf), "GREENWORKER_DRAIN_SECONDS": "3"}
    url = lane.url.replace(f":{own_redis.port}", f":{relay.port}")
    first = start_worker(url, queues=lane.queue, name="w1", environment=environment).ready()
    producer = lane.producer(result_backend=redis_broker.url)
    result = chord([producer.late.s(n, 3.0) for n in range(3)], app=producer.app)(producer.add.s())
    eventually(lambda: lane.ready() == 0, "they run")
    if broker == "refuses":
        relay.refuse()
        relay.cut()
    with own_redis.silent():
        eventually(lambda: [results.zcard(key) for key in results.keys("*.j")] == [3], "all parts are counted")
        sleep(0.5)
        first.signal(signal.Signals[end])
        first.wait(40)
    relay.accept(relay.target)
    second = start_worker(url, queues=lane.queue, name="w1", environment=environment).ready()
    eventually(result.ready, "the body ends", 60, more=second.tail)
    assert result.result == 3
    if celery.VERSION >= (5, 7):  # up to 5.6 all parts may send it
        assert second.journal.counts("sum") == {"3": 1}
    relay.close()
