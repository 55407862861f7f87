"""Leaving: harmless repetition, one line that counts, and an end before the grace period whatever the broker does."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane

Start = Callable[..., Worker]

DRAIN_SECONDS = 20.0
"""What these workers are given; `terminationGracePeriodSeconds` is 15 s more (docs/contract.md)."""


@pytest.fixture(params=["redis", pytest.param("quorum", marks=pytest.mark.slow)])
def frail_lane(request: pytest.FixtureRequest) -> Lane:
    """A queue on a broker of its own, which the test may hurt."""
    if request.param == "redis":
        return RedisLane(request.getfixturevalue("own_redis"))
    return RabbitLane(request.getfixturevalue("own_rabbit"), request.param)


def worker_on(start_worker: Start, lane: Lane, **environment: str) -> Worker:
    return start_worker(
        lane.url, queues=lane.queue, threads=10, environment={**lane.environment(), **environment}
    ).ready()


def summaries(worker: Worker) -> list[str]:
    return [line for line in worker.log.read_text().splitlines() if " given back unstarted, " in line]


def seconds_to_leave(worker: Worker) -> float:
    began = monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.tail()
    return monotonic() - began


def test_every_further_signal_is_harmless_and_one_line_counts(any_lane: Lane, start_worker: Start) -> None:
    """kubelet sends SIGTERM after a preStop that may have sent one itself, and people press keys."""
    producer = any_lane.producer()
    worker = worker_on(start_worker, any_lane, GREENWORKER_PREFETCH_MULTIPLIER="2", GREENWORKER_DRAIN_SECONDS="3")
    for number in range(4):
        producer.sleep.delay(number, 1.5)
    for number in range(4, 10):
        producer.sleep.delay(number, 60)
    for number in range(10, 15):
        producer.sleep.delay(number, 0)
    eventually(lambda: len(worker.journal.counts("start")) == 10, "ten run")
    eventually(lambda: worker.metric("greenworker_tasks_reserved") == 5, "five wait inside the worker")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
        worker.signal(number)
    eventually(lambda: worker.metric("greenworker_draining") == 1, "it drains")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert worker.journal.done() == 4, "what could finish has finished"
    eventually(lambda: any_lane.ready() == 11, "six that ran too long and five that never ran are back")
    (line,) = summaries(worker)
    assert re.search(
        r"4 finished, 5 given back unstarted, 6 requeued at the deadline, 0 early-ack tasks killed", line
    ), line


def test_a_worker_whose_output_is_a_pipe_drains(any_lane: Lane, start_worker: Start) -> None:
    """As a container's is. While every task waits, the signal's handler runs in the hub, which may wait for nothing."""
    producer = any_lane.producer()
    worker = start_worker(
        any_lane.url, queues=any_lane.queue, threads=5, piped=True, environment=any_lane.environment()
    ).ready()
    for number in range(7):
        producer.sleep.delay(number, 3)
    eventually(lambda: len(worker.journal.counts("start")) == 5, "five run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert worker.journal.done() == 5, "what ran has finished"
    eventually(lambda: any_lane.ready() == 2, "what had not started is back")
    eventually(lambda: "5 finished" in worker.tail(), "it says so")


def test_a_broker_that_does_not_answer_cannot_hold_an_idle_worker(frail_lane: Lane, start_worker: Start) -> None:
    """Stopped, not killed."""
    worker = worker_on(start_worker, frail_lane)
    with frail_lane.server.silent():
        took = seconds_to_leave(worker)
    assert took < DRAIN_SECONDS, worker.tail()
    assert len(summaries(worker)) == 1


@pytest.mark.slow
def test_a_broker_that_stops_answering_while_tasks_run(frail_lane: Lane, start_worker: Start) -> None:
    producer = frail_lane.producer()
    worker = worker_on(start_worker, frail_lane, GREENWORKER_DRAIN_SECONDS="6")
    for number in range(5):
        producer.sleep.delay(number, 3)
    for number in range(5, 10):
        producer.sleep.delay(number, 60)
    eventually(lambda: len(worker.journal.counts("start")) == 10, "ten run")
    with frail_lane.server.silent():
        took = seconds_to_leave(worker)
    assert took < 6 + 15, worker.tail()
    assert worker.journal.done() == 5, "what could finish has finished"
    assert len(summaries(worker)) == 1


@pytest.mark.slow
def test_a_broker_that_is_gone_cannot_hold_the_worker(frail_lane: Lane, start_worker: Start) -> None:
    producer = frail_lane.producer()
    worker = worker_on(start_worker, frail_lane)
    for number in range(3):
        producer.sleep.delay(number, 4)
    eventually(lambda: len(worker.journal.counts("start")) == 3, "three run")
    frail_lane.server.kill()
    eventually(lambda: worker.status("/readyz") == 503, "it has noticed")
    took = seconds_to_leave(worker)
    assert took < DRAIN_SECONDS, worker.tail()
    assert len(summaries(worker)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_redis_that_was_replaced_cannot_hold_the_worker(
    own_redis: Redis, start_worker: Start, client_app: Any, when: str
) -> None:
    """A new, empty server at the old address: what the worker holds is unknown there."""
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url, threads=10).ready()
    if when == "busy":
        for number in range(10):
            tasks.sleep.delay(number, 6)
        eventually(lambda: len(worker.journal.counts("start")) == 10, "ten run")
    own_redis.stop(signal.SIGKILL)
    for entry in own_redis.directory.glob("appendonlydir/*"):
        entry.unlink()
    own_redis.start()
    eventually(lambda: worker.status("/readyz") == 200, "it consumes from the new one", 40)
    tasks.noop.delay("new")
    eventually(lambda: worker.journal.counts("done")["new"] == 1, "the new one's tasks run")
    took = seconds_to_leave(worker)
    assert took < 12, worker.tail()
    assert own_redis.client().hlen("unacked") == 0


@pytest.mark.slow
def test_a_redis_that_went_without_a_word_is_left_for_the_new_one(
    own_redis: Redis, start_worker: Start, client_app: Any, tmp_path: Path
) -> None:
    """Its pod is gone: old connections swallow everything, new ones reach another server. kombu would wait for TCP."""
    (tmp_path / "other").mkdir()
    other, relay = Redis(tmp_path / "other"), Relay(own_redis.port)
    try:
        worker = start_worker(f"redis://127.0.0.1:{relay.port}/0", threads=10).ready()
        client_app(own_redis.url).sleep.delay("held", 2)
        eventually(lambda: worker.journal.counts("start")["held"] == 1, "it runs")
        relay.move(other.port)
        client_app(other.url).noop.delay("new")
        eventually(lambda: worker.journal.counts("done")["new"] == 1, "the new one's task runs", 45)
        assert worker.journal.counts("done")["held"] == 1
        assert seconds_to_leave(worker) < 12, worker.tail()
        assert other.client().zcard("greenworker.workers") == 0, "it has said goodbye there"
    finally:
        relay.close()
        other.stop()


def test_a_blocked_hub_cannot_hold_the_worker(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, environment={"GREENWORKER_DRAIN_SECONDS": "1"}).ready()
    tasks.spin.delay(60)
    eventually(lambda: worker.journal.order("start") == ["spin"], "it spins")
    took = seconds_to_leave(worker)
    assert took < 1 + 15, worker.tail()
    assert len(summaries(worker)) == 1
    assert redis_broker.client().hlen("unacked") == 1, "still booked: another worker gives it back"
