"""A worker that only looks dead is left alone; what a blocked hub holds stays its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Worker, eventually
from tests.integration.worker.lanes import Lane

Start = Callable[..., Worker]


@pytest.mark.slow
def test_a_blocked_hub_is_not_taken_for_dead(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    blocked = start_worker(redis_broker.url, threads=5).ready()
    for number in range(4):
        tasks.sleep.delay(number, 1)
    tasks.spin.delay(45)
    eventually(lambda: len(blocked.journal.counts("start")) == 5, "five run there")
    start_worker(redis_broker.url, threads=50).ready()
    eventually(lambda: blocked.journal.done() == 5, "all done", 90)
    assert max(blocked.journal.counts("start").values()) == 1, "twice would be the reaper's fault"


@pytest.mark.slow
def test_long_tasks_and_far_etas_outlive_the_visibility_time_out(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url)
    options = {"APP_CONF": repr({"broker_transport_options": {"visibility_timeout": 8}})}
    ours = start_worker(redis_broker.url, threads=5, environment=options).ready()
    tasks.sleep.delay("long", 25)
    tasks.noop.apply_async(("far",), eta=datetime.now(timezone.utc) + timedelta(seconds=25))
    eventually(lambda: len(ours.journal.counts("start")) == 1, "it runs")
    eventually(lambda: ours.metric("greenworker_tasks_scheduled") == 1, "one waits for its ETA")
    start_worker(redis_broker.url, threads=5, environment=options).ready()
    eventually(lambda: ours.journal.done() == 2, "both done", 60)
    assert max(ours.journal.counts("start").values()) == 1
    assert max(ours.journal.counts("done").values()) == 1


def test_drain_returns_what_waits_for_its_eta(any_lane: Lane, start_worker: Start) -> None:
    producer = any_lane.producer()
    worker = start_worker(any_lane.url, queues=any_lane.queue, environment=any_lane.environment()).ready()
    for number in range(5):
        producer.noop.apply_async((number,), countdown=3600)
    eventually(lambda: worker.metric("greenworker_tasks_scheduled") == 5, "five wait")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.tail()
    eventually(lambda: any_lane.ready() == 5, "all are back", 5)
    assert worker.journal.done() == 0


@pytest.mark.slow
def test_ten_to_a_thousand_and_back_under_load(any_lane: Lane, start_worker: Start) -> None:
    producer = any_lane.producer()
    worker = start_worker(any_lane.url, queues=any_lane.queue, threads=10, environment=any_lane.environment()).ready()
    for number in range(6000):
        producer.sleep.delay(number, 1)
    worker.resize(1000)
    eventually(lambda: worker.metric("greenworker_threads_busy") > 600, "hundreds run")
    worker.resize(10)
    eventually(lambda: worker.metric("greenworker_threads_busy") <= 10, "ten run")
    worker.resize(1000)
    eventually(lambda: worker.journal.done() == 6000, "all done", 90)
    assert max(worker.journal.counts("start").values()) == 1
    worker.reaches("greenworker_tasks_reserved", 0)
