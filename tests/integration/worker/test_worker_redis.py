"""Redis: nothing is lost, nothing runs twice without a reason, and mixed fleets work."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from kombu.connection import Connection

from greenworker.brokers.redis.client import UnavailableError
from greenworker.brokers.redis.unacked_store import UnackedStore
from tests.integration.worker.harness import Redis, Worker, eventually

Start = Callable[..., Worker]


def test_runs_tasks_and_counts_them(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url).ready()
    for number in range(200):
        tasks.noop.delay(number)
    eventually(lambda: worker.journal.done() == 200, "200 tasks done")
    assert max(worker.journal.counts("done").values()) == 1
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "everything is acknowledged")
    worker.reaches("greenworker_tasks_started_total", 200, task="green_app.noop")
    worker.reaches("greenworker_tasks_finished_total", 200, task="green_app.noop", state="SUCCESS")
    assert worker.metric("greenworker_task_wait_seconds_count", task="green_app.noop") == 0, "the producer is stock"
    as_dashboards_ask = {"name": "green_app.noop", "hostname": worker.name, "queue_name": "feeds"}
    for name in ("celery_task_received_total", "celery_task_succeeded_total", "celery_task_runtime_count"):
        worker.reaches(name, 200, **as_dashboards_ask)
    assert worker.metric("celery_worker_up", hostname=worker.name) == 1
    assert worker.metric("greenworker_threads_limit") == 20
    for key in worker.samples():
        labels = dict(key[1])
        assert (labels["pool"], labels["role"], labels["worker"]) == ("test/feeds", "eventlet", worker.name)


def test_follows_the_threads_file_up_and_down(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=2).ready()
    for number in range(120):
        tasks.sleep.delay(number, 0.4)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.resize(60)
    eventually(lambda: worker.metric("greenworker_threads_busy") > 40, "many run")
    worker.resize(3)
    eventually(lambda: worker.metric("greenworker_threads_limit") == 3, "the limit falls")
    eventually(lambda: worker.metric("greenworker_threads_busy") <= 3, "few run")
    worker.resize(50)
    eventually(lambda: worker.journal.done() == 120, "all done")
    assert max(worker.journal.counts("done").values()) == 1
    worker.threads_file.write_text("")
    eventually(lambda: worker.metric("greenworker_threads_limit") == 2, "an empty file means the start value")


def test_never_fetches_more_than_can_start(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=5).ready()
    for number in range(50):
        tasks.early.delay(number, 3)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 5, "five run")
    assert redis_broker.client().llen("feeds") == 45
    worker.reaches("greenworker_tasks_reserved", 0)


def test_drain_gives_back_what_has_not_started_in_order(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=4, environment={"GREENWORKER_PREFETCH_MULTIPLIER": "4"}).ready()
    for number in range(40):
        tasks.sleep.delay(number, 2)
    eventually(lambda: worker.metric("greenworker_tasks_reserved") == 12, "twelve wait inside the worker")
    worker.signal(signal.SIGTERM)
    eventually(lambda: redis_broker.client().llen("feeds") == 36, "all that had not started is back", 5)
    assert worker.status("/readyz") == 503
    assert worker.metric("greenworker_draining") == 1
    assert worker.wait(20) == 0, worker.tail()
    assert worker.journal.done() == 4, "what ran has finished"
    assert redis_broker.client().hlen("unacked") == 0
    second = start_worker(redis_broker.url, threads=1).ready()
    eventually(lambda: len(second.journal.order("start")) >= 7, "the next worker goes on")
    assert second.journal.order("start")[4:7] == ["4", "5", "6"], "oldest first"


def test_what_was_given_back_belongs_to_who_fetched_it_next(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    """Also when the first worker ends, for kombu restores what a channel that closes has delivered and not settled."""
    tasks = client_app(redis_broker.url)
    leaving = start_worker(redis_broker.url).ready()
    tasks.sleep.delay(0, 4)
    for number in range(1, 4):
        tasks.sleep.apply_async((number, 1), countdown=8)
    eventually(lambda: leaving.metric("greenworker_tasks_scheduled") == 3, "three wait for their ETA")
    staying = start_worker(redis_broker.url).ready()
    leaving.signal(signal.SIGTERM)
    eventually(lambda: staying.metric("greenworker_tasks_scheduled") == 3, "the other worker has them")
    assert leaving.wait(20) == 0, leaving.tail()
    eventually(lambda: staying.journal.done() == 4, "all are done", 20)
    sleep(1)
    assert set(staying.journal.counts("start").values()) == {1}
    assert redis_broker.client().llen("feeds") == redis_broker.client().hlen("unacked") == 0


def test_a_drain_in_the_middle_of_a_delivery_doubles_nothing(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url)
    for number in range(60):
        tasks.sleep.delay(number, 5)
    leaving = start_worker(redis_broker.url, app="leaving_app", threads=100)
    eventually(lambda: leaving.journal.counts("start"), "it has begun, and is leaving")
    staying = start_worker(redis_broker.url, threads=100).ready()
    eventually(lambda: len(staying.journal.counts("start")) == 60, "the other worker has what did not start")
    assert not leaving.gone(), "it still runs what it had started"
    assert leaving.wait(30) == 0, leaving.tail()
    eventually(lambda: staying.journal.done() == 60, "all are done")
    assert set(staying.journal.counts("start").values()) == {1}
    client = redis_broker.client()
    eventually(lambda: client.llen("feeds") == client.hlen("unacked") == 0, "nothing is left")


@pytest.mark.slow
def test_drain_deadline_requeues_and_leaves(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=30, environment={"GREENWORKER_DRAIN_SECONDS": "2"}).ready()
    for number in range(40):
        tasks.sleep.delay(number, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 30, "thirty run")
    began = monotonic()
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert monotonic() - began < 12
    assert redis_broker.client().llen("feeds") == 40, worker.tail()
    assert redis_broker.client().hlen("unacked") == 0
    assert "30 requeued at the deadline" in worker.tail()


@pytest.mark.slow
def test_a_hanging_task_cannot_hold_the_worker(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=5, environment={"GREENWORKER_DRAIN_SECONDS": "1"}).ready()
    tasks.stubborn.delay(1)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1, "it runs")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert redis_broker.client().llen("feeds") == 1


def test_messages_of_a_killed_worker_come_back_soon(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    victim = start_worker(redis_broker.url, threads=20).ready()
    for number in range(60):
        tasks.sleep.delay(number, 0.5 if number >= 20 else 8)
    eventually(lambda: victim.metric("greenworker_threads_busy") == 20, "twenty run")
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = start_worker(redis_broker.url, threads=40).ready()
    eventually(lambda: other.journal.done() == 60, "every task is done, long before the visibility time-out", 90)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "nothing is left over")


def test_broker_restart_loses_nothing_and_doubles_nothing(
    own_redis: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url, threads=30).ready()
    for number in range(300):
        tasks.sleep.delay(number, 0.5)
    eventually(lambda: worker.journal.done() > 60, "under way")
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    eventually(lambda: worker.journal.done() == 300, "all done", 60)
    twice = [number for number, count in worker.journal.counts("done").items() if count > 1]
    assert not twice, f"run twice: {twice}"
    eventually(lambda: own_redis.client().hlen("unacked") == 0, "nothing is left over")


def test_shares_a_queue_with_stock_workers_and_prefix(
    redis_broker: Redis, start_worker: Start, client_app: Any, tmp_path: Path
) -> None:
    options = {"global_keyprefix": "tenant:"}
    tasks = client_app(redis_broker.url, broker_transport_options=options)
    ours = start_worker(redis_broker.url, threads=10, environment={"GREENWORKER_KEY_PREFIX": "tenant:"}).ready()
    stock = start_worker(
        redis_broker.url, threads=10, stock=True,
        environment={"APP_CONF": repr({"broker_transport_options": options, "task_acks_late": True})},
    )  # fmt: skip
    eventually(lambda: "ready" in stock.tail() or "celery@" in stock.tail(), "stock worker starts")
    for number in range(200):
        tasks.sleep.apply_async((number, 0.1), priority=number % 10)
    eventually(lambda: ours.journal.done() == 200, "all done")
    assert max(ours.journal.counts("done").values()) == 1
    assert 0 < ours.metric("greenworker_tasks_started_total") <= 200
    eventually(lambda: redis_broker.client().hlen("tenant:unacked") == 0, "nothing is left over")
    strangers = [str(key) for key in redis_broker.client().scan_iter() if not str(key).startswith("tenant:")]
    assert not strangers, "every key has the prefix"


def test_a_worker_whose_first_heartbeat_was_refused_is_known_to_the_others_later(own_redis: Redis) -> None:
    """Else nobody gives back what it fetches, should it die: its heartbeat began with its first connection or never."""
    client = own_redis.client()
    store, connection = UnackedStore("w"), Connection(own_redis.url)
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(UnavailableError):
        store.attach(connection.channel())
    client.replicaof("NO", "ONE")
    store.attach(connection.channel())
    assert store.worker in client.zrange("greenworker.workers", 0, -1)
    store.close()


def test_who_fetches_is_known_to_the_others_by_the_same_step(own_redis: Redis) -> None:
    """A worker that dies before its next heartbeat can be found by what it holds."""
    client = own_redis.client()
    store, connection = UnackedStore("w"), Connection(own_redis.url)
    store.attach(connection.channel())
    client.delete("greenworker.workers")
    client.lpush("feeds", json.dumps({"body": "", "headers": {}, "properties": {}}))
    assert len(store.fetch(["feeds"], ["feeds"], 1, 1)) == 1
    assert client.zrange("greenworker.workers", 0, -1) == [store.worker]
