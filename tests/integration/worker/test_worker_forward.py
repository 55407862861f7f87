"""Eventlet and prefork side by side: what blocks goes to the companion, whoever sent it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import celery
import pytest
from kombu import Exchange, Queue

from greenworker.router import PUBLISHED_AT
from tests.integration.worker.harness import RabbitMQ, Redis, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, publish

Start = Callable[..., Worker]


def pair(start_worker: Start, lane: Lane, **more: str) -> tuple[Worker, Worker]:
    environment = {**lane.environment(), **more}
    green = start_worker(lane.url, queues=lane.queue, threads=10, environment=environment, name="green")
    companion = start_worker(
        lane.url, queues=f"{lane.queue}.prefork", pool="prefork", arguments=["-c", "1"], name="companion",
        environment={**lane.environment(), **{key: value for key, value in more.items() if key == "APP_CONF"}},
    )  # fmt: skip
    return green.ready(), companion.ready()


def test_forwards_by_list_glob_mark_and_auto_route(any_lane: Lane, start_worker: Start, tmp_path: Any) -> None:
    routes = tmp_path / "routes"
    green, companion = pair(
        start_worker, any_lane,
        GREENWORKER_PREFORK_TASKS=json.dumps(["green_app.hea*"]), GREENWORKER_ROUTES_FILE=str(routes),
    )  # fmt: skip
    producer = any_lane.producer()
    producer.heavy.delay(1)
    producer.marked.delay(2)
    producer.noop.delay(3)
    eventually(lambda: green.journal.done() == 3, "three done")
    companion.reaches("greenworker_tasks_started_total", 2)
    green.reaches("greenworker_tasks_started_total", 1, task="green_app.noop")
    green.reaches("greenworker_tasks_forwarded_total", 1, task="green_app.heavy")
    green.reaches("greenworker_tasks_forwarded_total", 1, task="green_app.marked")
    routes.write_text(json.dumps(["green_app.sleep"]))
    eventually(lambda: _sent_on(producer, green), "the operator routes sleep", 15)
    routes.write_text("[]")
    before = green.metric("greenworker_tasks_started_total", task="green_app.sleep")
    eventually(
        lambda: (
            producer.sleep.delay(9, 0)
            and green.metric("greenworker_tasks_started_total", task="green_app.sleep") > before
        ),
        "and it is undone",
        15,
    )


def _sent_on(producer: Any, green: Worker) -> bool:
    producer.sleep.delay(8, 0)
    return green.metric("greenworker_tasks_forwarded_total", task="green_app.sleep") > 0


@pytest.mark.parametrize(
    "replicated",
    [
        "",
        pytest.param(
            "by the setting",
            marks=pytest.mark.skipif(
                celery.VERSION < (5, 6), reason="Celery has task_create_missing_queue_type from 5.6"
            ),
        ),
        "by its entry",
    ],
)
def test_says_that_the_queue_of_the_companion_is_not_replicated(
    rabbit_server: RabbitMQ, start_worker: Start, replicated: str
) -> None:
    """It is declared as the app and its producers would declare it: of another type, RabbitMQ would refuse those."""
    lane = RabbitLane(rabbit_server, "quorum")
    queue: Any = f"{lane.queue}.prefork"
    conf = {"task_create_missing_queue_type": "quorum"} if replicated == "by the setting" else {}
    app_conf = repr(conf)
    if replicated == "by its entry":
        entry = f"Queue({queue!r}, Exchange({queue!r}), {queue!r}, queue_arguments={{'x-queue-type': 'quorum'}})"
        app_conf = f"{{'task_queues': [*app.conf.task_queues, {entry}]}}"
        queue = Queue(queue, Exchange(queue), queue, queue_arguments={"x-queue-type": "quorum"})
    green, _ = pair(start_worker, lane, APP_CONF=app_conf, GREENWORKER_PREFORK_TASKS=json.dumps(["green_app.heavy"]))
    lane.producer(**conf).heavy.apply_async((1,), queue=queue)
    eventually(lambda: green.journal.done() == 1, "what a producer sends there is done")
    log = green.log.read_text()
    assert (f"{lane.queue} is a quorum queue, and {lane.queue}.prefork is none" in log) is not bool(replicated)
    if not replicated:
        assert ("task_create_missing_queue_type" in log) is (celery.VERSION >= (5, 6)), "a setting that this one has"


def test_a_forwarded_message_keeps_everything(any_lane: Lane, start_worker: Start) -> None:
    green, _ = pair(start_worker, any_lane, GREENWORKER_PREFORK_TASKS=json.dumps(["green_app.heavy"]))
    expires = datetime.now(timezone.utc) + timedelta(minutes=5)
    eta = datetime.now(timezone.utc) + timedelta(seconds=1)
    headers = {"tenant": "acme", "trace": {"span": 7, "sampled": True}}
    any_lane.producer().heavy.apply_async(
        (7,), kwargs={"fails": 2}, task_id="the-id", priority=5, expires=expires, eta=eta, group_id="the-group",
        compression="gzip", headers=headers,
    )  # fmt: skip
    eventually(lambda: green.journal.done() == 1, "done after two retries")
    assert [_own(json.loads(text)) for text in green.journal.order("headers")] == [headers] * 3, "through retries too"
    seen = [json.loads(text) for text in green.journal.order("seen")]
    assert [entry[1] for entry in seen] == [0, 1, 2], "retries go the same way"
    for identity, _, first_eta, until, group, priority, number in seen[:1]:
        assert (identity, group, number) == ("the-id", "the-group", 7)
        assert datetime.fromisoformat(until) == expires
        assert datetime.fromisoformat(first_eta) == eta
        assert priority == 5
    assert all(entry[0] == "the-id" for entry in seen)
    assert len(green.journal.counts("pid")) == 1, "always in the companion's one process"
    assert str(green.process and green.process.pid) not in green.journal.counts("pid")


def _own(headers: dict[str, Any]) -> dict[str, Any]:
    """Without the time that our workers stamp on what they publish, retries too."""
    return {name: value for name, value in headers.items() if name != PUBLISHED_AT}


def test_chains_groups_chords_and_results_cross_over(any_lane: Lane, redis_server: Redis, start_worker: Start) -> None:
    from celery import chain, chord, group

    backend = redis_server.url.replace("/0", "/1")
    conf = {"task_ignore_result": False, "result_backend": backend, "task_default_queue": any_lane.queue}
    green, companion = pair(
        start_worker, any_lane, APP_CONF=repr(conf), GREENWORKER_PREFORK_TASKS=json.dumps(["green_app.heavy"])
    )
    producer = any_lane.producer(result_backend=backend)
    try:
        heavy, increment, add = producer.heavy.s, producer.increment.s, producer.add.s
        assert chain(increment(1), heavy(), increment(), app=producer.app).apply_async().get(timeout=30) == 3

        members = group([heavy(10), increment(11), heavy(12)], app=producer.app).apply_async()
        assert members.get(timeout=30) == [10, 12, 12]
        assert (members.completed_count(), members.successful()) == (3, True)
        groups = [json.loads(text)[4] for text in green.journal.order("seen")]
        assert groups == [None, members.id, members.id]

        assert chord([heavy(number) for number in range(5)], app=producer.app)(add()).get(timeout=30) == 10
        companion.reaches("greenworker_tasks_started_total", 1 + 2 + 5, task="green_app.heavy")
        companion.reaches("greenworker_tasks_started_total", 1 + 2 + 5)
        green.reaches("greenworker_tasks_started_total", 2 + 1, task="green_app.increment")
        green.reaches("greenworker_tasks_started_total", 1, task="green_app.add")
    finally:
        producer.app.close()


@pytest.mark.slow
def test_nothing_is_lost_when_the_forwarder_is_killed(any_lane: Lane, start_worker: Start) -> None:
    green, _ = pair(start_worker, any_lane, GREENWORKER_PREFORK_TASKS=json.dumps(["green_app.heavy"]))
    producer = any_lane.producer()
    for number in range(200):
        producer.heavy.delay(number)
    eventually(lambda: green.journal.done() > 20, "under way")
    green.signal(signal.SIGKILL)
    start_worker(
        any_lane.url, queues=any_lane.queue, threads=10, name="second",
        environment={**any_lane.environment(), "GREENWORKER_PREFORK_TASKS": json.dumps(["green_app.heavy"])},
    ).ready()  # fmt: skip
    eventually(lambda: green.journal.done() == 200, "all done", 60)


def test_what_waits_to_be_forwarded_is_forwarded_once_after_a_lost_connection(
    own_rabbit: RabbitMQ, start_worker: Start
) -> None:
    lane = RabbitLane(own_rabbit, "quorum")
    publish(lane, "heavy", 0, 5)
    own_rabbit.control("set_vm_memory_high_watermark", "0")  # from now on it takes no messages
    green = start_worker(
        lane.url, queues=lane.queue, threads=10,
        environment={**lane.environment(), "GREENWORKER_PREFORK_TASKS": json.dumps(["green_app.heavy"])},
    ).ready()  # fmt: skip
    eventually(lambda: lane.ready() == 0, "all wait to be forwarded")
    own_rabbit.close_connections()
    eventually(lambda: green.status("/readyz") != 200, "the worker has noticed")
    green.ready()
    eventually(lambda: lane.ready() == 0, "it has them again")
    own_rabbit.control("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: green.metric("greenworker_tasks_forwarded_total") >= 5, "forwarded", 60)
    green.signal(signal.SIGTERM)
    green.wait()
    assert (lane.ready(), lane.ready(f"{lane.queue}.prefork")) == (0, 5)


def test_producer_with_our_router_sends_there_at_once(redis_broker: Redis) -> None:
    from greenworker.router import PreforkRouter

    producer = _app_with(PreforkRouter("green_app.heavy"), redis_broker.url)
    producer.send_task("green_app.heavy", (1,))
    producer.send_task("green_app.noop", (2,))
    assert redis_broker.client().llen("routed.prefork") == 1
    assert redis_broker.client().llen("routed") == 1
    producer.close()


def _app_with(router: Any, url: str) -> Any:
    from celery import Celery

    app = Celery("routing", broker=url, set_as_current=True)
    app.conf.update(task_routes=[router], task_default_queue="routed")
    return app
