"""The prefork companion."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane
from tests.integration.worker.test_worker_lost_connections import relayed

Start = Callable[..., Worker]

RESTART_AFTER_SECONDS = 6
"""Shorter than the third pause between two attempts to connect."""


def test_prefork_has_the_same_metrics_and_drain(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    redis_broker.client().config_resetstat()
    worker = start_worker(
        redis_broker.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "2"],
        environment={"GREENWORKER_DRAIN_SECONDS": "2"},
    ).ready()  # fmt: skip
    assert worker.status("/healthz") == 200
    assert worker.metric("greenworker_threads_limit", role="prefork") == 2
    for number in range(5):
        tasks.noop.delay(number)
    tasks.fail.delay(9)
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="SUCCESS") == 5, "five succeed")
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="FAILURE") == 1, "one fails")
    worker.reaches("greenworker_task_runtime_seconds_count", 6)
    worker.reaches("celery_task_failed_total", 1, name="green_app.fail", exception="ValueError")
    for number in range(100, 106):
        tasks.sleep.delay(number, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.signal(signal.SIGTERM)
    eventually(lambda: worker.gone() or worker.status("/readyz") == 503, "it drains")
    worker.wait(30)
    eventually(lambda: redis_broker.client().llen("feeds.prefork") == 6, "all are back", 5)
    assert redis_broker.client().hlen("unacked") == 0
    used = redis_broker.client().info("commandstats")
    assert "cmdstat_evalsha" in used
    assert "cmdstat_brpop" not in used, "BRPOP pops before anything is booked"


def test_it_is_no_slower_than_stock_celery(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    """A full queue is never waited for: the companion once looked at it in every tenth of a second, at 18 tasks/s."""

    def seconds(queue: str, count: int = 600, **options: Any) -> float:
        tasks = client_app(redis_broker.url, queue=queue)
        for number in range(count):
            tasks.noop.delay(number)
        depth = partial(redis_broker.client().llen, queue)
        worker = start_worker(redis_broker.url, pool="prefork", queues=queue, name=queue, **options)
        eventually(lambda: depth() < count * 0.9, "it works", every=0.005)
        began = monotonic()
        eventually(lambda: depth() < count * 0.1, "most are done", 60, every=0.005)
        took = monotonic() - began
        worker.signal(signal.SIGKILL)
        return took

    ours = seconds("feeds.prefork", arguments=["-c", "2"])
    assert ours < 2 * seconds("feeds.stock", stock=True, threads=2)


def children_of(worker: Worker) -> list[int]:
    """The companion's processes."""
    assert worker.process is not None
    pid = worker.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_lost_connection_gives_back_no_task_that_is_on_its_way_to_a_process(
    own_redis: Redis, start_worker: Start, client_app: Any
) -> None:
    """The process reads it later than the parent connects again. What was not sent to a process goes back, and runs
    once as well.
    """
    tasks = client_app(own_redis.url, queue="feeds.prefork")
    worker = start_worker(
        own_redis.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "1"],
        environment={"APP_CONF": "{'worker_prefetch_multiplier': 8}"},
    ).ready()  # fmt: skip
    client = own_redis.client()
    tasks.noop.delay("first")
    eventually(lambda: worker.journal.done() == 1 and client.hlen("unacked") == 0, "its process works")
    (child,) = children_of(worker)
    os.kill(child, signal.SIGSTOP)
    try:
        for number in range(4):
            tasks.noop.delay(number)
        eventually(lambda: client.hlen("unacked") == 4, "one is sent to the process, three wait for it")
        for _ in range(2):
            own_redis.stop(signal.SIGKILL)
            eventually(lambda: worker.status("/readyz") == 503, "it notices")
            own_redis.start()
            worker.ready()
            eventually(lambda: client.hlen("unacked") == 4, "it has fetched again what went back")
    finally:
        os.kill(child, signal.SIGCONT)
    eventually(lambda: client.hlen("unacked") == client.llen("feeds.prefork") == 0, "all are done")
    assert worker.journal.counts("done") == {"first": 1, "0": 1, "1": 1, "2": 1, "3": 1}
    worker.reaches("greenworker_tasks_finished_total", 5, state="SUCCESS")


def test_after_a_lost_connection_no_task_waits_behind_one_that_runs(
    own_redis: Redis, start_worker: Start, client_app: Any
) -> None:
    """Celery forgets which of its processes are busy up to 5.6."""
    relay = Relay(own_redis.port)
    worker = start_worker(
        own_redis.url.replace(f":{own_redis.port}", f":{relay.port}"), pool="prefork", queues="feeds.prefork",
        arguments=["-c", "2"], environment={"APP_CONF": "{'worker_prefetch_multiplier': 8}"},
    ).ready()  # fmt: skip
    tasks = client_app(own_redis.url, queue="feeds.prefork")
    tasks.sleep.delay("long", 120)
    eventually(lambda: worker.journal.counts("start"), "one process is busy")
    relay.refuse()
    relay.cut()
    eventually(lambda: worker.status("/readyz") == 503, "it notices")
    for number in range(8):
        tasks.noop.delay(number)
    relay.accept(own_redis.port)
    worker.ready()
    eventually(lambda: worker.journal.done() == 8, "the other process runs all")
    assert worker.metric("greenworker_threads_busy") == 1
    relay.close()


@pytest.mark.slow
def test_prefork_drain_lets_tasks_finish(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    worker = start_worker(redis_broker.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "2"]).ready()
    for number in range(6):
        tasks.sleep.delay(number, 2)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert redis_broker.client().llen("feeds.prefork") + worker.journal.done() == 6
    assert worker.journal.done() >= 2


def test_what_ends_as_the_drain_begins_is_not_given_back(any_lane: Lane, start_worker: Start) -> None:
    """Celery acknowledges in the next round of its event loop, and a drain leaves it none."""
    tasks, rounds = any_lane.producer(), 5

    def companion() -> Worker:
        options = {"queues": any_lane.queue, "environment": any_lane.environment()}
        return start_worker(any_lane.url, pool="prefork", arguments=["-c", "1"], **options).ready()

    for number in range(rounds):
        worker = companion()
        tasks.end_companion.delay(number)
        assert worker.wait(30) == 0
    worker = companion()
    tasks.noop.delay("last")
    eventually(lambda: worker.gone() or worker.journal.counts("done")["last"], "all before it has run, too")
    assert worker.journal.counts("start") == {str(number): 1 for number in range(rounds)}


@pytest.mark.slow
def test_messages_of_a_killed_companion_come_back_soon(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    options: dict[str, Any] = {"pool": "prefork", "queues": "feeds.prefork", "arguments": ["-c", "2"]}
    victim = start_worker(redis_broker.url, **options).ready()
    for number in range(8):
        tasks.sleep.delay(number, 1)
    eventually(lambda: victim.metric("greenworker_threads_busy") == 2, "two run")
    assert redis_broker.client().hlen("unacked") >= 2
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = start_worker(redis_broker.url, **options).ready()
    eventually(lambda: other.journal.done() == 8, "every task is done, long before the visibility time-out", 60)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "nothing is left over")
    assert [key for key in redis_broker.client().scan_iter("greenworker.held.*")] == []


def _has_done(worker: Worker, tasks: int) -> bool:
    return worker.journal.done() > tasks


@pytest.mark.slow
def test_no_kill_loses_a_message(own_redis: Redis, start_worker: Start, client_app: Any) -> None:
    """Killed again and again while it fetches as fast as it can: each id is done, and what is doubled had been
    running.
    """
    count, kills = 3000, 6
    tasks = client_app(own_redis.url, queue="feeds.prefork")
    for number in range(count):
        tasks.noop.delay(number)
    options: dict[str, Any] = {"pool": "prefork", "queues": "feeds.prefork", "arguments": ["-c", "2"]}
    for _ in range(kills):
        victim = start_worker(own_redis.url, **options).ready()
        enough = victim.journal.done() + 50
        eventually(partial(_has_done, victim, enough), "it works at full speed")
        victim.signal(signal.SIGKILL)
        victim.wait()
    left = own_redis.client().llen("feeds.prefork") + own_redis.client().hlen("unacked")
    assert left + victim.journal.done() >= count, "every message is done, waits or is booked, at every moment"
    last = start_worker(own_redis.url, **options).ready()
    eventually(lambda: last.journal.done() == count, "every id is done", 90)
    eventually(lambda: own_redis.client().hlen("unacked") == 0, "nothing is left over", 60)
    doubled = sum(times - 1 for times in last.journal.counts("done").values())
    assert doubled <= kills * 2 * 4, "at most what ran or was about to be acknowledged"


@pytest.mark.slow
def test_a_restart_of_the_broker_loses_nothing_and_doubles_nothing(
    own_redis: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(own_redis.url, queue="feeds.prefork")
    worker = start_worker(own_redis.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "4"]).ready()
    for number in range(60):
        tasks.sleep.delay(number, 0.5)
    eventually(lambda: worker.journal.done() > 10, "under way")
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    eventually(lambda: worker.journal.done() == 60, "all done", 60)
    assert max(worker.journal.counts("done").values()) == 1
    eventually(lambda: own_redis.client().hlen("unacked") == 0, "nothing is left over")


def test_a_companion_lives_while_the_broker_is_away_and_what_runs_goes_on(any_lane: Lane, start_worker: Start) -> None:
    environment = {**any_lane.environment(), "GREENWORKER_RESTART_AFTER_SECONDS": str(RESTART_AFTER_SECONDS)}
    with relayed(any_lane) as (relay, url):
        worker = start_worker(
            url, pool="prefork", queues=any_lane.queue, arguments=["-c", "1"], environment=environment
        ).ready()
        any_lane.producer().sleep.delay(1, 2 * RESTART_AFTER_SECONDS)
        eventually(lambda: worker.journal.counts("start")["1"] == 1, "it runs")
        relay.refuse()
        relay.cut()
        eventually(lambda: worker.status("/readyz") == 503, "it is not ready")
        seen = []
        end = monotonic() + 3 * RESTART_AFTER_SECONDS
        while monotonic() < end:
            seen.append(worker.get("/healthz"))
            sleep(0.25)
        assert {status for status, _ in seen} == {200}, [text for status, text in seen if status != 200]
        assert worker.journal.counts("done")["1"] == 1
        relay.accept(relay.target)
        eventually(lambda: worker.status("/readyz") == 200, "it consumes again", 40)
