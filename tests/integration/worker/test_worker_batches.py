"""A strategy of the app's own calls the pool without one of Celery's requests: batches."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.integration.worker.harness import Worker, eventually
from tests.integration.worker.lanes import Lane

Start = Callable[..., Worker]


@pytest.mark.parametrize("late", [True, False], ids=["late acks", "early acks"])
def test_a_batch_is_acknowledged_once_and_what_is_no_batch_yet_is_given_back(
    any_lane: Lane, start_worker: Start, late: bool
) -> None:
    """Also while it runs and the worker is told to leave."""
    producer = any_lane.producer()
    environment = {**any_lane.environment(), "APP_CONF": repr({"task_acks_late": late})}
    worker = start_worker(
        any_lane.url, app="batch_app", queues=any_lane.queue, threads=50, environment=environment
    ).ready()
    for number in range(20):
        producer.app.send_task("batch_app.index", (number,), queue=producer.queue)
    eventually(lambda: worker.journal.done() == 20, "two batches have run")
    worker.reaches("greenworker_threads_busy", 0)
    assert worker.journal.counts("accepted") == {"10": 2}
    assert worker.metric("greenworker_tasks_finished_total", task="batch_app.index", state="SUCCESS") == 2
    for number in range(20, 35):
        producer.app.send_task("batch_app.index", (number,), queue=producer.queue)
    eventually(lambda: len(worker.journal.counts("start")) == 30, "the third one runs")
    eventually(lambda: any_lane.ready() == 0, "and five wait for theirs")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.tail()
    eventually(lambda: any_lane.ready() == 5, "the five are back, and no other", 40)
    assert worker.journal.done() == 30
    assert max(worker.journal.counts("start").values()) == 1
