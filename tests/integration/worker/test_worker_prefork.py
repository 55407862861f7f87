"""The prefork companion."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Worker, eventually

Start = Callable[..., Worker]


def test_prefork_has_the_same_metrics_and_drain(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
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
    assert worker.metric("greenworker_task_runtime_seconds_count") == 6
    assert worker.metric("celery_task_failed_total", name="green_app.fail", exception="ValueError") == 1
    for number in range(100, 106):
        tasks.nap.delay(number, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.signal(signal.SIGTERM)
    eventually(lambda: worker.gone() or worker.status("/readyz") == 503, "it drains")
    worker.wait(30)
    eventually(lambda: redis_broker.client().llen("feeds.prefork") == 6, "all are back", 5)


@pytest.mark.slow
def test_prefork_drain_lets_tasks_finish(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    worker = start_worker(redis_broker.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "2"]).ready()
    for number in range(6):
        tasks.nap.delay(number, 2)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert redis_broker.client().llen("feeds.prefork") + worker.ledger.done() == 6
    assert worker.ledger.done() >= 2


@pytest.mark.slow
def test_messages_of_a_killed_companion_come_back_soon(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    options: dict[str, Any] = {"pool": "prefork", "queues": "feeds.prefork", "arguments": ["-c", "2"]}
    victim = start_worker(redis_broker.url, **options).ready()
    for number in range(8):
        tasks.nap.delay(number, 1)
    eventually(lambda: victim.metric("greenworker_threads_busy") == 2, "two run")
    assert redis_broker.client().hlen("unacked") >= 2
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = start_worker(redis_broker.url, **options).ready()
    eventually(lambda: other.ledger.done() == 8, "every task is done, long before the visibility time-out", 60)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "nothing is left over")
    assert [key for key in redis_broker.client().scan_iter("greenworker.held.*")] == []
