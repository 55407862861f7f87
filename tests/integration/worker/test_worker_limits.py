"""Time limits, which Celery's Eventlet pool accepts and ignores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RedisLane

Start = Callable[..., Worker]


def conf(redis_broker: Redis, **more: Any) -> dict[str, str]:
    backend = redis_broker.url.replace("/0", "/1")
    return {"APP_CONF": repr({"task_ignore_result": False, "result_backend": backend, **more})}


@pytest.fixture
def lane(redis_broker: Redis) -> Lane:
    return RedisLane(redis_broker)


def test_soft_limit_is_raised_inside_the_task(lane: Lane, start_worker: Start) -> None:
    worker = start_worker(lane.url, queues=lane.queue, environment={"GREENWORKER_SOFT_LIMIT_SECONDS": "1"}).ready()
    producer = lane.producer()
    producer.patient.delay("default", 60)
    producer.own_soft.delay("own", 60)
    producer.patient.delay("quick", 0.1)
    eventually(lambda: set(worker.journal.counts("soft")) == {"default", "own"}, "both caught it", 10)
    assert set(worker.journal.counts("done")) == {"quick"}


@pytest.mark.slow
def test_soft_limit_of_the_message_wins(lane: Lane, start_worker: Start) -> None:
    worker = start_worker(lane.url, queues=lane.queue, environment={"GREENWORKER_SOFT_LIMIT_SECONDS": "30"}).ready()
    lane.producer().patient.apply_async(("message", 60), soft_time_limit=1)
    eventually(lambda: set(worker.journal.counts("soft")) == {"message"}, "it was raised", 10)


def test_hard_limit_kills_and_records(lane: Lane, redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(
        lane.url, queues=lane.queue,
        environment={"GREENWORKER_HARD_LIMIT_SECONDS": "2", **conf(redis_broker)},
    ).ready()  # fmt: skip
    producer = lane.producer(result_backend=redis_broker.url.replace("/0", "/1"))
    own = producer.own_hard.apply_async(("own", 60), ignore_result=False)
    default = producer.sleep.apply_async(("default", 60), ignore_result=False)
    for result in (own, default):
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            result.get(timeout=15)
        assert result.state == "FAILURE"
    worker.reaches("greenworker_tasks_finished_total", 2, state="KILLED")
    worker.reaches("greenworker_threads_busy", 0)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "acknowledged, as acks_on_failure_or_timeout says")
    assert lane.ready() == 0
    assert worker.journal.done() == 0


@pytest.mark.slow
def test_hard_limit_requeues_if_the_app_wants_that(lane: Lane, redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(
        lane.url,
        queues=lane.queue,
        environment={
            "GREENWORKER_HARD_LIMIT_SECONDS": "1",
            **conf(redis_broker, task_acks_on_failure_or_timeout=False),
        },
    ).ready()
    lane.producer().sleep.delay(1, 60)
    eventually(lambda: worker.journal.counts("start")["1"] >= 2, "it ran again", 15)
    eventually(lambda: worker.metric("greenworker_tasks_requeued_total", reason="hard_limit") >= 1, "counted")


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_limits_outlive_a_lost_connection(lane: Lane, redis_broker: Redis, start_worker: Start, pool: str) -> None:
    """What runs stays the worker's on Redis, and Celery's own timers go with the connection up to 5.6."""
    relay = Relay(redis_broker.port)
    worker = start_worker(
        lane.url.replace(f":{redis_broker.port}", f":{relay.port}"), queues=lane.queue, pool=pool,
        arguments=["-c", "3"] if pool == "prefork" else [],
    ).ready()  # fmt: skip
    producer = lane.producer()
    producer.sleep.apply_async(("hard", 60), time_limit=5)
    producer.patient.apply_async(("soft", 60), soft_time_limit=5)
    producer.patient.apply_async(("of-both", 60), soft_time_limit=5, time_limit=60)
    eventually(lambda: len(worker.journal.counts("start")) == 3, "they run")
    relay.cut()
    eventually(lambda: set(worker.journal.counts("soft")) == {"soft", "of-both"}, "both caught it", 20)
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="KILLED") == 1, "one was killed", 20)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "all are settled", 20)
    assert set(worker.journal.counts("start").values()) == {1}
    relay.close()


def test_a_task_that_calls_exit_fails_alone(lane: Lane, start_worker: Start) -> None:
    worker = start_worker(lane.url, queues=lane.queue).ready()
    producer = lane.producer()
    producer.leave.delay(1)
    producer.fail.delay(2)
    producer.noop.delay(3)
    eventually(lambda: worker.journal.done() == 1, "the others go on")
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="FAILURE") == 2, "two failed")
    assert not worker.gone()
    assert lane.ready() == 0


@pytest.mark.slow
def test_revoke_with_terminate_ends_a_running_task(lane: Lane, redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(lane.url, queues=lane.queue).ready()
    producer = lane.producer()
    result = producer.sleep.delay(1, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1, "it runs")
    producer.app.control.revoke(result.id, terminate=True)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 0, "it is gone", 10)
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "and acknowledged")
    worker.reaches("greenworker_tasks_finished_total", 1, state="KILLED")
