"""The six defects of a green worker on stock Celery 5.7: each fails there (a strict xfail proves it) and passes
here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RedisLane

Start = Callable[..., Worker]
LATE = repr({"task_acks_late": True, "task_reject_on_worker_lost": True})

on_both = pytest.mark.parametrize(
    "stock",
    [
        False,
        pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xfail(strict=True, reason="a defect of stock Celery")]),
    ],
    ids=["ours", "stock"],
)


def late(stock: bool, **more: str) -> dict[str, str]:
    """Stock workers are given what they can be given by configuration alone."""
    return {**({"APP_CONF": LATE} if stock else {}), **more}


@on_both
def test_1_amqp_is_fast_with_celerys_default_options(rabbit_lane: Lane, start_worker: Start, stock: bool) -> None:
    """Gossip, mingle, heartbeats and the event dispatcher's connection are on; 17 tasks a second on stock."""
    tasks = rabbit_lane.producer()
    worker = start_worker(
        rabbit_lane.url,
        queues=rabbit_lane.queue,
        stock=stock,
        lean=False,
        environment=late(stock, **rabbit_lane.environment()),
    ).connected()
    tasks.noop.delay(-1)
    eventually(lambda: worker.journal.done() == 1, "warm")
    began = monotonic()
    for number in range(300):
        tasks.noop.delay(number)
    eventually(lambda: worker.journal.done() == 301, "300 done", 60)
    assert 300 / (monotonic() - began) > 60


@on_both
def test_2_redis_restores_what_a_stock_worker_left(redis_broker: Redis, start_worker: Start, stock: bool) -> None:
    """An idle green worker reaches kombu's restore never."""
    options = {"broker_transport_options": {"visibility_timeout": 4}, "task_acks_late": True}
    conf = {"APP_CONF": repr(options)}
    producer = _producer(redis_broker)
    victim = start_worker(redis_broker.url, stock=True, threads=10, environment=conf).connected()
    for number in range(10):
        producer.sleep.delay(number, 3)
    eventually(lambda: len(victim.journal.counts("start")) == 10, "ten run")
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = start_worker(redis_broker.url, stock=stock, threads=10, environment=conf).connected()
    eventually(lambda: other.journal.done() == 10, "all ten are done by the other", 30)


@pytest.mark.slow
@on_both
def test_3_redis_acknowledges_however_many_end_at_once(redis_broker: Redis, start_worker: Start, stock: bool) -> None:
    """kombu's pool of ten connections refuses the eleventh acknowledgement."""
    producer = _producer(redis_broker)
    worker = start_worker(redis_broker.url, stock=stock, threads=200, environment=late(stock)).connected()
    for number in range(600):
        producer.sleep.delay(number, 1)
    eventually(lambda: worker.journal.done() == 600, "all done", 60)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "all acknowledged", 5)
    assert "Couldn't ack" not in worker.log.read_text()


@on_both
def test_4_sigquit_loses_nothing(any_lane: Lane, start_worker: Start, stock: bool) -> None:
    """Cold shutdown switches inside the hub. With us every signal that asks for an end drains."""
    producer = any_lane.producer()
    worker = start_worker(
        any_lane.url, queues=any_lane.queue, stock=stock, threads=10,
        environment=late(stock, GREENWORKER_DRAIN_SECONDS="1", **any_lane.environment()),
    ).connected()  # fmt: skip
    for number in range(10):
        producer.sleep.delay(number, 30)
    eventually(lambda: len(worker.journal.counts("start")) == 10, "ten run")
    worker.signal(signal.SIGQUIT)
    worker.wait(20)
    eventually(lambda: any_lane.ready() == 10, "all ten are back", 5)
    assert "Cannot switch to MAINLOOP" not in worker.log.read_text()
    assert worker.wait() == 0


@on_both
def test_5_result_backend_is_made_once(any_lane: Lane, redis_server: Redis, start_worker: Start, stock: bool) -> None:
    """Thread-local turns greenlet-local: a backend, with connections of its own, for every task."""
    redis_server.client().flushall()
    producer = any_lane.producer()
    backend = redis_server.url.replace("/0", "/1")
    conf = {"APP_CONF": repr({"task_ignore_result": False, "result_backend": backend, "task_acks_late": True})}
    worker = start_worker(
        any_lane.url, queues=any_lane.queue, stock=stock, threads=10, environment={**any_lane.environment(), **conf}
    ).connected()
    for number in range(300):
        producer.noop.apply_async((number,), ignore_result=False)
    eventually(lambda: len(worker.journal.counts("done")) == 300, "all ran", 60)
    before = int(redis_server.client().info("stats")["total_connections_received"])
    for number in range(300, 600):
        producer.noop.apply_async((number,), ignore_result=False)
    eventually(lambda: sum(1 for _ in redis_server.client(1).scan_iter("celery-task-meta-*")) == 600, "600 results", 60)
    opened = int(redis_server.client().info("stats")["total_connections_received"]) - before
    assert worker.journal.done() == 600
    assert opened < 300, f"{opened} connections for 300 tasks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "stock", [False, pytest.param(True, marks=pytest.mark.xfail(strict=True))], ids=["ours", "stock"]
)
def test_6_a_full_pool_keeps_its_connection(rabbit_lane: Lane, start_worker: Start, stock: bool) -> None:
    """A full stock pool blocks the consumer inside spawn: heartbeats go unread, the connection resets."""
    producer = rabbit_lane.producer()
    conf: dict[str, Any] = {"broker_heartbeat": 4, "task_acks_late": True, "worker_prefetch_multiplier": 4}
    worker = start_worker(
        rabbit_lane.url, queues=rabbit_lane.queue, stock=stock, threads=10, lean=False,
        environment={**rabbit_lane.environment(), "APP_CONF": repr(conf), "GREENWORKER_PREFETCH_MULTIPLIER": "4"},
    ).connected()  # fmt: skip
    for number in range(30):
        producer.sleep.delay(number, 12)
    eventually(lambda: worker.journal.done() == 30 or worker.gone(), "all done", 120)
    assert not worker.gone(), worker.tail()
    assert max(worker.journal.counts("done").values()) == 1
    log = worker.log.read_text()
    assert "Connection to broker lost" not in log
    assert "Second simultaneous" not in log


def test_7_a_broken_connection_leaves_no_worker_without_a_consumer(rabbit_lane: Lane, start_worker: Start) -> None:
    """Where an acknowledgement is the first to notice, kombu connects anew by itself, to a channel without a consumer:
    stock workers look well ever after and do nothing. One cut in three hits that moment, so no strict expectation of
    stock.
    """
    producer = rabbit_lane.producer()
    relay = Relay(rabbit_lane.server.port)
    through = rabbit_lane.url.replace(f":{rabbit_lane.server.port}", f":{relay.port}")
    worker = start_worker(through, queues=rabbit_lane.queue, threads=100, environment=rabbit_lane.environment()).ready()
    for cut in range(8):
        for number in range(400):
            producer.noop.delay(cut * 400 + number)
        eventually(lambda cut=cut: worker.journal.done() > cut * 400 + 50, "under way")
        relay.cut()
        eventually(lambda cut=cut: worker.journal.done() == (cut + 1) * 400, f"all are done after cut {cut}")
    relay.close()


def _producer(server: Redis) -> Any:
    from tests.integration.worker.harness import Producer

    return Producer(server.url)


def test_an_early_acknowledgement_is_sent_before_its_task_begins(any_lane: Lane, start_worker: Start) -> None:
    """Else a task that takes its process along comes again, to take along the next one, although its app asked for at
    most once.
    """
    any_lane.producer().early_exit.delay(1)
    options: dict[str, Any] = {"queues": any_lane.queue, "environment": any_lane.environment()}
    start_worker(any_lane.url, **options).wait(30)
    if isinstance(any_lane, RedisLane):
        assert any_lane.server.client().hlen("unacked") == 0, "nothing is left to be given back in 20 s"
    second = start_worker(any_lane.url, **options).ready()
    any_lane.producer().noop.delay(2)
    eventually(lambda: second.journal.done() == 1, "the next task is done")
    assert second.journal.counts("start")["1"] == 1
    assert not second.gone()
