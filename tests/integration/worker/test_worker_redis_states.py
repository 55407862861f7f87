"""Redis that is silent, read-only, full or another one: the worker keeps what it holds, waits, and goes on."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Timer
from time import monotonic, time
from typing import Any

import celery.exceptions
import pytest
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu import Exchange, Queue
from kombu.asynchronous import Hub

from greenworker.brokers.redis import results
from greenworker.brokers.redis.heartbeat import DEAD_AFTER_SECONDS
from tests.integration.worker.harness import Producer, Redis, Relay, Worker, eventually
from tests.integration.worker.redis_consumer import Consumer
from tests.ports import free_port

Start = Callable[..., Worker]
POOLS = pytest.mark.parametrize("pool", ["eventlet", "prefork"])


def start_as(pool: str, start_worker: Start, url: str, **options: Any) -> Worker:
    return start_worker(url, pool=pool, arguments=["-c", "4"] if pool == "prefork" else [], **options)


def test_a_silent_connection_is_replaced_long_before_others_take_over(redis_broker: Redis) -> None:
    """With the time-outs that a worker has."""
    relay = Relay(redis_broker.port)
    consumer = Consumer(redis_broker, relay, socket_timeout=15.0, socket_connect_timeout=5.0)
    client = redis_broker.client()

    def last_beat() -> float:
        return float(client.zscore("greenworker.workers", consumer.store.worker) or 0)

    first = last_beat()
    beat = eventually(lambda: last_beat() > first and last_beat(), "it beats")
    relay.move(redis_broker.port)
    eventually(lambda: last_beat() > beat, "it beats again", DEAD_AFTER_SECONDS / 2)
    consumer.close()
    relay.close()


@POOLS
def test_survives_a_failover_that_leaves_its_redis_read_only(
    own_redis: Redis, start_worker: Start, client_app: Any, pool: str
) -> None:
    tasks, client = client_app(own_redis.url), own_redis.client()
    worker = start_as(pool, start_worker, own_redis.url, threads=4).ready()
    for number in range(16):
        tasks.sleep.delay(number, 1)
    eventually(lambda: worker.journal.counts("done"), "under way")
    client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    eventually(lambda: worker.status("/readyz") == 503 or worker.gone(), "it does not consume")

    def refused() -> int:
        # redis-py before 6 leaves this line of INFO as it is
        found = client.info("errorstats").get("errorstat_READONLY", "count=0")
        return int(found["count"] if isinstance(found, dict) else found.partition("=")[2])

    eventually(lambda: refused() > 12 or worker.gone(), "it has tried again and again")
    assert not worker.gone(), worker.tail()
    client.execute_command("REPLICAOF", "NO", "ONE")
    eventually(lambda: worker.journal.done() == 16 or worker.gone(), "all are done", more=worker.tail)
    if pool == "eventlet":  # Celery's processes may run what was on its way to them and was given back as not started
        assert set(worker.journal.counts("done").values()) == {1}
    eventually(lambda: client.hlen("unacked") == 0, "everything is acknowledged")


@POOLS
def test_empties_a_redis_that_is_full(own_redis: Redis, start_worker: Start, client_app: Any, pool: str) -> None:
    """It comes to one that is full, and keeps its heartbeat."""
    tasks, client = client_app(own_redis.url), own_redis.client()
    for number in range(40):
        tasks.sleep.delay(number, 0.2)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1_000_000 if client.info("memory")["used_memory"] > 1_000_000 else 500_000)
    with pytest.raises(Exception, match="maxmemory"):
        client.set("more", "x")
    worker = start_as(pool, start_worker, own_redis.url, threads=4)
    eventually(lambda: worker.journal.done() == 40 or worker.gone(), "all are done")
    assert not worker.gone(), worker.tail()
    assert set(worker.journal.counts("done").values()) == {1}
    eventually(lambda: client.hlen("unacked") == 0, "everything is acknowledged", 10)
    ((_, beat),) = client.zrange("greenworker.workers", 0, -1, withscores=True)
    assert time() - beat < DEAD_AFTER_SECONDS


@POOLS
def test_remote_control_comes_back_once_a_redis_that_was_full_has_room(
    own_redis: Redis, start_worker: Start, client_app: Any, pool: str
) -> None:
    """Full from the start, so that the mailbox could not be declared."""
    tasks, client = client_app(own_redis.url), own_redis.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 500_000)
    worker = start_as(pool, start_worker, own_redis.url, threads=4).ready()
    if pool == "eventlet":
        eventually(lambda: "Remote control" in worker.log.read_text(), "the worker says that it receives nothing")
    client.config_set("maxmemory", 0)
    assert tasks.remote_control_answers()
    assert "Traceback" not in worker.log.read_text()
    assert not worker.gone(), worker.tail()


@POOLS
def test_remote_control_outlives_its_connection(
    own_redis: Redis, start_worker: Start, client_app: Any, pool: str
) -> None:
    """Redis drops subscribers that read too slowly, and them alone."""
    tasks, client = client_app(own_redis.url), own_redis.client()
    worker = start_as(pool, start_worker, own_redis.url, threads=4).ready()
    assert tasks.remote_control_answers()
    killed = client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert killed, "there was a subscriber"
    assert tasks.remote_control_answers(), "again"
    assert not worker.gone(), worker.tail()


@POOLS
def test_the_second_of_two_urls_is_as_safe_as_the_first(
    redis_broker: Redis, start_worker: Start, client_app: Any, pool: str
) -> None:
    """Written as people write them: with blanks, line breaks and a ``;`` at the end."""
    tasks, client = client_app(redis_broker.url), redis_broker.client()
    first = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    worker = start_as(pool, start_worker, f"{first}; {first};\n {redis_broker.url};\n", threads=4).ready()
    assert "hunter2" not in worker.log.read_text()
    for number in range(8):
        tasks.sleep.delay(number, 1)
    eventually(lambda: client.keys("greenworker.held.*"), "what it holds is booked under its name")
    assert client.zcard("greenworker.workers") == 1
    eventually(lambda: worker.journal.done() == 8, "all are done")
    eventually(lambda: client.hlen("unacked") == 0 and not client.keys("greenworker.held.*"), "and acknowledged")


def test_of_two_urls_the_one_that_takes_writes_is_used(
    own_redis: Redis, redis_broker: Redis, start_worker: Start
) -> None:
    own_redis.client().execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    start_worker(f"{own_redis.url};{redis_broker.url}").ready()
    assert redis_broker.client().zcard("greenworker.workers") == 1


def test_a_connection_that_is_closed_unused_ends_no_rounds(consumer: Consumer, redis_broker: Redis) -> None:
    """redis-py 4 closes one where garbage is collected. kombu took that for the end of the consumer's own, and Celery's
    event loop never asked again.
    """
    taken: list[Any] = []
    consumer.take = taken.append
    Queue("told", Exchange("told", type="fanout"), channel=consumer.channel).declare()
    consumer.channel.basic_consume("told", True, taken.append, "remote control")
    hub, pool = Hub(), consumer.channel.async_pool
    consumer.connection.register_with_event_loop(hub)
    rounds = hub.create_loop()
    next(rounds)
    unused = pool.connection_class(**pool.connection_kwargs)
    unused.connect()
    unused.disconnect()
    Producer(redis_broker.url).noop.delay(1)

    def told() -> bool:
        next(rounds)
        return bool(taken)

    eventually(told, "the message is fetched", 10)
    consumer.connection.collect()
    assert not hub.on_tick, "and the rounds end with the connection"
    hub.close()


@pytest.fixture
def results_behind_a_relay(redis_broker: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Celery, Relay]]:
    """An app that waits for results in this process, as a task in a worker does."""
    monkeypatch.setattr(RedisBackend, "ResultConsumer", RedisBackend.ResultConsumer)
    results.own_consumers()
    relay = Relay(redis_broker.port)
    yield Celery("waits", backend=f"redis://127.0.0.1:{relay.port}/0", set_as_current=False), relay
    relay.close()


def test_who_looks_for_a_result_keeps_a_timeout_that_is_shorter_than_that_of_the_connection(
    results_behind_a_relay: tuple[Celery, Relay],
) -> None:
    """Celery's is 120 s."""
    app, relay = results_behind_a_relay
    silence = Timer(1.0, setattr, (relay, "deaf", True))
    silence.start()
    began = monotonic()
    with pytest.raises(celery.exceptions.TimeoutError):
        app.AsyncResult("nobody").get(timeout=4)
    assert monotonic() - began < 60


def test_a_message_that_comes_after_a_look_tells_nothing_new(
    results_behind_a_relay: tuple[Celery, Relay], redis_broker: Redis
) -> None:
    app, _ = results_behind_a_relay
    told: list[Any] = []
    backend: Any = app.backend
    consumer, result = backend.result_consumer, app.AsyncResult("looked-for")
    consumer.on_message = told.append
    backend.add_pending_result(result)
    eventually(lambda: redis_broker.client().pubsub_numsub(backend.get_key_for_task(result.id))[0][1], "it subscribes")
    Celery("stores", backend=redis_broker.url, set_as_current=False).backend.store_result(result.id, 7, "SUCCESS")
    consumer._look()
    assert result.result == 7
    for _ in range(3):
        with suppress(TimeoutError):
            consumer.drain_events(timeout=0.5)
    assert len(told) == 1
    assert not backend._pending_messages.total, "Celery keeps none of it"
