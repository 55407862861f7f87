"""What waits inside a worker does not start once it is revoked or has expired, and its message is acknowledged once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from time import time
from typing import Any

import pytest

from greenworker.brokers.suspicion import HEADER, Suspicion
from tests.integration.worker.harness import Worker, eventually
from tests.integration.worker.lanes import Lane

Start = Callable[..., Worker]

BROKEN_BACKEND = {
    "result_backend": "redis://127.0.0.1:1/0",
    "result_backend_transport_options": {
        "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    },
    "task_ignore_result": False,
}
"""A result backend that refuses every write, at once: nobody listens there."""


def worker_on(start_worker: Start, lane: Lane, late: bool, multiplier: int = 3, **conf: Any) -> Worker:
    """Two threads; *multiplier* messages for each."""
    conf = {"task_acks_late": late, "worker_prefetch_multiplier": multiplier, **conf}
    environment = {
        **lane.environment(), "APP_CONF": repr(conf), "GREENWORKER_PREFETCH_MULTIPLIER": str(multiplier),
    }  # fmt: skip
    return start_worker(lane.url, queues=lane.queue, threads=2, environment=environment).ready()


def wait_for(worker: Worker, name: str, value: float) -> None:
    eventually(lambda: worker.metric(name) == value, f"{name} is {value:g}", 10, more=lambda: worker.tail(5))


def fill(worker: Worker, tasks: Any, seconds: float) -> None:
    """Both threads are busy for so long."""
    for number in (1, 2):
        tasks.sleep.delay(f"busy{number}", seconds)
    wait_for(worker, "greenworker_threads_busy", 2)


def nothing_is_left(lane: Lane, worker: Worker) -> None:
    """Neither in the queue nor with the worker: what it had not acknowledged would come back when it is killed."""
    eventually(lambda: worker.metric("greenworker_threads_busy") == 0, "the worker is idle")
    wait_for(worker, "greenworker_tasks_reserved", 0)
    if lane.kind == "redis":
        eventually(lambda: lane.server.client().hlen("unacked") == 0, "all acknowledged")
    else:
        worker.signal(signal.SIGKILL)
        worker.wait()
        eventually(lambda: lane.consumers() == 0, "the broker has noticed")  # type: ignore[attr-defined]
    assert lane.ready() == 0
    assert "Couldn't ack" not in worker.log.read_text()
    assert "unknown delivery tag" not in worker.log.read_text()


@pytest.mark.parametrize("late", [True, False], ids=["late acks", "early acks"])
def test_what_waits_in_the_line_does_not_start_once_it_is_withdrawn(
    any_lane: Lane, start_worker: Start, late: bool
) -> None:
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late)
    fill(worker, tasks, 3)
    sent = {name: tasks.sleep.delay(name, 0.1) for name in ("revoked", "terminated", "kept")}
    tasks.sleep.apply_async(("expired", 0.1), expires=1)
    wait_for(worker, "greenworker_tasks_reserved", 4)
    tasks.app.control.revoke(sent["revoked"].id)
    tasks.app.control.revoke(sent["terminated"].id, terminate=True)
    eventually(lambda: worker.journal.counts("done")["kept"], "what was not withdrawn is done")
    wait_for(worker, "celery_task_revoked_total", 3)
    assert set(worker.journal.counts("start")) == {"busy1", "busy2", "kept"}
    nothing_is_left(any_lane, worker)


def test_what_waits_for_its_eta_or_its_rate_does_not_start_once_it_is_withdrawn(
    any_lane: Lane, start_worker: Start
) -> None:
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late=True)
    tasks.limited.delay("first")
    eventually(lambda: worker.journal.counts("start")["first"], "the only one for the next two seconds")
    sent = {
        "eta": tasks.sleep.apply_async(("eta", 0), countdown=2),
        "rate": tasks.limited.delay("rate"),
    }
    tasks.limited.apply_async(("expired",), expires=1)
    tasks.limited.delay("kept")
    wait_for(worker, "greenworker_tasks_scheduled", 1)
    wait_for(worker, "greenworker_tasks_reserved", 3)
    tasks.app.control.revoke(sent["eta"].id)
    tasks.app.control.revoke(sent["rate"].id, terminate=True)
    eventually(lambda: worker.journal.counts("done")["kept"], "what was not withdrawn is done")
    wait_for(worker, "celery_task_revoked_total", 3)
    assert set(worker.journal.counts("start")) == {"first", "kept"}
    nothing_is_left(any_lane, worker)


def test_a_result_backend_that_fails_neither_starts_nor_keeps_what_is_revoked(
    any_lane: Lane, start_worker: Start
) -> None:
    """REVOKED cannot be stored: that must neither end the worker, nor leave the message with it for ever."""
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late=True, **BROKEN_BACKEND)
    running = tasks.sleep.apply_async(("running", 60), ignore_result=True)
    tasks.sleep.apply_async(("busy", 3), ignore_result=True)
    wait_for(worker, "greenworker_threads_busy", 2)
    waiting = tasks.sleep.apply_async(("waiting", 0), ignore_result=False)
    tasks.sleep.apply_async(("expired", 0), ignore_result=False, expires=1)
    held = tasks.sleep.apply_async(("eta", 0), ignore_result=False, countdown=2)
    wait_for(worker, "greenworker_tasks_reserved", 2)
    wait_for(worker, "greenworker_tasks_scheduled", 1)
    for one in (waiting, held):
        tasks.app.control.revoke(one.id)
    wait_for(worker, "celery_task_revoked_total", 3)
    tasks.app.control.revoke(running.id, terminate=True)
    wait_for(worker, "celery_task_revoked_total", 4)
    tasks.sleep.apply_async(("after", 0), ignore_result=True)
    eventually(lambda: worker.journal.counts("done")["after"], "the worker goes on")
    assert set(worker.journal.counts("start")) == {"running", "busy", "after"}
    nothing_is_left(any_lane, worker)


def test_a_drain_does_not_give_back_what_is_revoked(any_lane: Lane, start_worker: Start) -> None:
    """A worker that starts after the revoke was said does not know of it."""
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late=True)
    fill(worker, tasks, 2)
    revoked, kept = (tasks.sleep.delay(name, 0.1) for name in ("revoked", "kept"))
    wait_for(worker, "greenworker_tasks_reserved", 2)
    tasks.app.control.revoke(revoked.id)
    eventually(lambda: revoked.id in str(tasks.app.control.inspect(timeout=0.5).revoked()), "it knows")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.tail()
    assert any_lane.ready() == 1, kept
    other = start_worker(any_lane.url, queues=any_lane.queue, environment=any_lane.environment()).ready()
    eventually(lambda: other.journal.counts("done")["kept"], "the one that was given back is done")
    assert not other.journal.counts("start")["revoked"]


def test_a_time_limit_counts_from_the_start_not_from_the_line(any_lane: Lane, start_worker: Start) -> None:
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late=True)
    fill(worker, tasks, 2)
    tasks.sleep.apply_async(("short", 0.5), time_limit=1)
    tasks.sleep.apply_async(("long", 60), time_limit=1)
    eventually(lambda: worker.metric("greenworker_tasks_finished_total", state="KILLED") == 1, "the long one is killed")
    eventually(lambda: worker.journal.counts("done")["short"], "the short one is done")
    assert not worker.journal.counts("done")["long"]


def test_a_rate_limit_holds_for_what_waited_in_the_line(any_lane: Lane, start_worker: Start) -> None:
    """Ten that became due while the pool was full do not start together when it is not."""
    tasks = any_lane.producer()
    worker = worker_on(start_worker, any_lane, late=True, multiplier=10)
    fill(worker, tasks, 3)
    for number in range(10):
        tasks.brisk.delay(number)
    eventually(lambda: worker.journal.done() == 12, "all are done", 20)
    starts = sorted(float(at) for at in worker.journal.order("at"))
    assert len(starts) == 10
    assert starts[-1] - starts[0] >= 7 * 0.2, "ten at five a second take almost two seconds"


def test_what_waits_apart_in_a_companion_does_not_start_once_it_is_withdrawn(
    any_lane: Lane, start_worker: Start
) -> None:
    """A suspect waits for the end of what runs, and everything else for the suspect. The slots of all that were
    withdrawn are free again.
    """
    tasks = any_lane.producer()
    worker = start_worker(
        any_lane.url, pool="prefork", queues=any_lane.queue, arguments=["-c", "4"],
        environment={**any_lane.environment(), "GREENWORKER_PREFETCH_MULTIPLIER": "2"},
    ).ready()  # fmt: skip
    suspicion = {HEADER: Suspicion(deaths=2, seen=int(time())).header()}
    tasks.sleep.delay("busy", 5)
    wait_for(worker, "greenworker_threads_busy", 1)
    sent = [tasks.sleep.apply_async(("suspect", 0.1), headers=suspicion), tasks.sleep.delay("behind", 0.1)]
    tasks.sleep.apply_async(("expired", 0.1), expires=1)
    for number in range(4):
        tasks.sleep.delay(f"kept{number}", 2)
    wait_for(worker, "celery_task_received_total", 8)
    assert worker.journal.order("start") == ["busy"], "all wait apart or behind"
    for one in sent:
        tasks.app.control.revoke(one.id)
    wait_for(worker, "greenworker_threads_busy", 4)
    wait_for(worker, "celery_task_revoked_total", 3)
    assert set(worker.journal.counts("start")) == {"busy", "kept0", "kept1", "kept2", "kept3"}
    nothing_is_left(any_lane, worker)
