"""What a worker warns of while it runs, on real brokers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.integration.worker.harness import RabbitMQ, Redis, Worker, eventually
from tests.ports import free_port

Start = Callable[..., Worker]
RISK = "greenworker_task_risk"


def test_warns_of_tasks_and_etas_beyond_the_visibility_timeout(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url)
    conf = repr({"broker_transport_options": {"visibility_timeout": 4}})
    worker = start_worker(redis_broker.url, environment={"APP_CONF": conf}).ready()
    assert worker.metric(RISK) == 0
    tasks.noop.apply_async((1,), eta=datetime.now(timezone.utc) + timedelta(hours=1))
    eventually(lambda: worker.metric(RISK, reason="visibility_timeout", task="green_app.noop") == 1, "the ETA")
    tasks.sleep.delay(2, 30)
    eventually(lambda: worker.metric(RISK, reason="visibility_timeout", task="green_app.sleep") == 1, "the task", 20)
    assert worker.tail(200).count("visibility_timeout is 4 s") == 1, "said once"


def test_warns_beyond_the_consumer_timeout_and_of_hoards_and_of_lost_acknowledgements(
    rabbit_server: RabbitMQ, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(rabbit_server.url, queue="task_risks")
    worker = start_worker(
        rabbit_server.url, queues="task_risks", threads=3, pool="eventlet",
        environment={"GREENWORKER_CONSUMER_TIMEOUT_SECONDS": "4", "GREENWORKER_PREFETCH_MULTIPLIER": "6"},
    ).ready()  # fmt: skip
    for number in range(30):
        tasks.sleep.delay(number, 12)
    eventually(lambda: worker.metric(RISK, reason="consumer_timeout", task="green_app.sleep") == 1, "the task", 20)
    eventually(lambda: worker.metric(RISK, reason="prefetch") == 1, "fifteen wait for three threads", 20)
    assert worker.metric("greenworker_acks_failed_total") == 0
    rabbit_server.close_connections()
    eventually(lambda: worker.metric("greenworker_acks_failed_total") > 0, "running tasks lost their channel", 30)
    eventually(lambda: worker.metric(RISK, reason="acks") == 1, "and it says so", 20)
    worker.signal(signal.SIGKILL)


def test_warns_of_a_result_backend_that_does_not_answer(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    """What an app sets whose environment was forgotten: localhost."""
    tasks = client_app(redis_broker.url)
    conf = repr({"task_ignore_result": False, "result_backend": f"redis://localhost:{free_port()}/0"})
    worker = start_worker(redis_broker.url, environment={"APP_CONF": conf}).ready()
    tasks.noop.apply_async((1,), ignore_result=True)
    eventually(
        lambda: worker.metric("greenworker_tasks_finished_total", state="SUCCESS") == 1, "its result is ignored", 20
    )
    assert worker.metric(RISK, reason="results") == 0
    tasks.noop.delay(2)
    eventually(lambda: worker.metric(RISK, reason="results") == 1, "a result is not stored", 40)
    assert worker.tail(200).count("results cannot be stored") == 1, "said once"
    worker.signal(signal.SIGKILL)


@pytest.mark.slow
def test_the_prefork_companion_warns_too(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url, queue="feeds.prefork")
    conf = repr({"broker_transport_options": {"visibility_timeout": 4}})
    worker = start_worker(
        redis_broker.url, pool="prefork", queues="feeds.prefork", arguments=["-c", "1"], environment={"APP_CONF": conf}
    ).ready()
    tasks.noop.apply_async((1,), eta=datetime.now(timezone.utc) + timedelta(hours=1))
    eventually(lambda: worker.metric(RISK, task="green_app.noop") == 1, "the ETA")
    tasks.sleep.delay(1, 30)
    eventually(lambda: worker.metric(RISK, task="green_app.sleep") == 1, "the task", 20)


def test_acknowledgements_that_redis_does_not_take_are_counted(
    own_redis: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url, threads=5).ready()
    for number in range(5):
        tasks.sleep.delay(number, 2)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 5, "five run")
    own_redis.stop(signal.SIGKILL)
    eventually(lambda: worker.metric("greenworker_acks_failed_total") > 0, "they end, and cannot say so")
    own_redis.start()
    eventually(lambda: worker.metric(RISK, reason="acks") == 1, "and it says so", 20)
    eventually(lambda: own_redis.client().hlen("unacked") == 0, "they are acknowledged after all")
