"""A task that retries at once never stays in RETRY: its state does not go back from SUCCESS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu import Exchange, Queue

from greenworker.brokers.redis import results
from tests.integration.worker.harness import RabbitMQ, Redis, Worker, eventually
from tests.integration.worker.lanes import RabbitLane

Start = Callable[..., Worker]


@pytest.fixture(params=["redis", "rpc"])
def backend(request: pytest.FixtureRequest, redis_broker: Redis) -> str:
    """Of results: one that reads a state before it writes it, and one that only sends them."""
    return redis_broker.url.replace("/0", "/2") if request.param == "redis" else "rpc://"


def slow(backend: str) -> str:
    """The same for the worker: the retried task has time to finish meanwhile."""
    return backend if backend == "rpc://" else f"slow_backend:SlowRetry+{backend}"


def producer_of(lane: RabbitLane, backend: str) -> Callable[..., Any]:
    """Sends a task and returns its result."""
    app = Celery("producer", broker=lane.url, backend=backend, set_as_current=False)
    queue = Queue(lane.queue, Exchange(lane.queue), routing_key=lane.queue, queue_arguments={"x-queue-type": lane.kind})
    app.amqp.queues.add(queue)
    return lambda name, *arguments, **options: app.send_task(f"green_app.{name}", arguments, queue=queue, **options)


def start_on(start_worker: Start, lane: RabbitLane, backend: str, pool: str = "eventlet", **more: str) -> Worker:
    conf = {"task_ignore_result": False, "result_backend": slow(backend)}
    environment = {**lane.environment(), "APP_CONF": repr(conf), **more}
    size: dict[str, Any] = {"arguments": ["-c", "4"]} if pool == "prefork" else {"threads": 20}
    return start_worker(lane.url, queues=lane.queue, environment=environment, pool=pool, **size).ready()


@pytest.mark.parametrize("pool", ["eventlet", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_task_that_was_retried_at_once_ends_in_success(
    rabbit_server: RabbitMQ, backend: str, start_worker: Start, pool: str
) -> None:
    """RETRY is slow: to be stored (Redis), or because the publish of the retry is confirmed late (RPC). The retried
    task is faster.
    """
    lane = RabbitLane(rabbit_server, "quorum")
    worker = start_on(start_worker, lane, backend, pool, SLOW_CONFIRM="1" if backend == "rpc://" else "")
    send = producer_of(lane, backend)
    results = [send(name, number) for number in range(2) for name in ("again", "by_itself")]
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="RETRY") == 4, "all were retried")
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="SUCCESS") == 4, "all succeeded")
    eventually(lambda: [result.state for result in results] == ["SUCCESS"] * 4, "and none went back", 5)
    assert [result.result for result in results] == [0, 0, 1, 1]
    assert max(worker.journal.counts("done").values()) == 2, "each once, two have the same number"


def test_retry_is_stored_only_where_the_end_is(
    redis_broker: Redis, rabbit_server: RabbitMQ, start_worker: Start
) -> None:
    """Up to 5.5 Celery ignores a result that its app ignores, whatever the sender says."""
    lane, backend = RabbitLane(rabbit_server, "quorum"), redis_broker.url.replace("/0", "/2")
    conf = {"APP_CONF": repr({"task_ignore_result": True, "result_backend": backend})}
    worker = start_worker(lane.url, queues=lane.queue, environment={**lane.environment(), **conf}).ready()
    send = producer_of(lane, backend)
    wanted, ignored = send("again", 1, ignore_result=False), send("again", 2, ignore_result=True)
    worker.reaches("greenworker_tasks_finished_total", 2, state="SUCCESS")
    ends = (wanted.state, ignored.state)
    assert ends == ("SUCCESS" if celery.VERSION >= (5, 6) else "PENDING", "PENDING")


def test_until_it_is_tried_again_it_says_why(redis_broker: Redis, rabbit_server: RabbitMQ, start_worker: Start) -> None:
    """State, exception and traceback are what Celery's tracer stores; what may not be retried is no RETRY."""
    lane, backend = RabbitLane(rabbit_server, "quorum"), redis_broker.url.replace("/0", "/2")
    start_on(start_worker, lane, backend)
    send = producer_of(lane, backend)
    later, never = send("again", 1, headers={"pause": 60}), send("never_again", 2)
    eventually(lambda: later.state == "RETRY", "it waits for its retry")
    assert type(later.result).__name__ == "Unstable"
    assert "in again" in later.traceback
    assert "Unstable" in later.traceback
    assert "Retry in 60s" in later.traceback
    eventually(lambda: never.state == "FAILURE", "it has been tried often enough")
    assert type(never.result).__name__ == "Unstable"


def test_a_retry_that_cannot_be_recorded_is_retried_all_the_same(
    redis_broker: Redis, rabbit_server: RabbitMQ, start_worker: Start
) -> None:
    lane, backend = RabbitLane(rabbit_server, "quorum"), redis_broker.url.replace("/0", "/2")
    conf = {"task_ignore_result": False, "result_backend": f"slow_backend:RefusesRetry+{backend}"}
    environment = {**lane.environment(), "APP_CONF": repr(conf)}
    worker = start_worker(lane.url, queues=lane.queue, environment=environment).ready()
    producer_of(lane, backend)("again", 1)
    eventually(lambda: worker.journal.counts("done")["1"], "it ran again")
    worker.reaches("greenworker_threads_busy", 0)
    assert worker.journal.counts("done")["1"] == 1


class SlowBackend(RedisBackend):
    """Somebody else stores a result after this one has looked whether there is one."""

    meanwhile: Callable[[], Any] = staticmethod(int)

    def _get_task_meta_for(self, task_id: str) -> Any:
        found = super()._get_task_meta_for(task_id)
        self.meanwhile()
        return found


def test_the_record_of_a_retry_replaces_no_result(redis_broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_store_result", "_set_with_state", "on_chord_part_return"):
        monkeypatch.setattr(RedisBackend, name, getattr(RedisBackend, name))
    results.store_through_outages()
    app = Celery("stores", set_as_current=False)
    slow, other = (kind(app=app, url=redis_broker.url) for kind in (SlowBackend, RedisBackend))
    slow.store_result("t1", None, "STARTED")
    assert other.get_state("t1") == "STARTED"
    slow.meanwhile = lambda: other.store_result("t1", 42, "SUCCESS")
    slow.store_result("t1", ValueError("once more"), "RETRY")
    assert other.get_state("t1") == "SUCCESS"
    assert other.get_result("t1") == 42
    assert 0 < redis_broker.client().ttl("celery-task-meta-t1") <= 86_400
