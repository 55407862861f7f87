"""The companion's queue is the one that the application would declare; what cannot be had is refused before anything is
forwarded.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection

from greenworker.router import PUBLISHED_AT
from tests.integration.worker.harness import Producer, RabbitMQ, Redis, Worker, eventually
from tests.integration.worker.lanes import Lane

Start = Callable[..., Worker]

_numbers = itertools.count(1)

PRIORITIES = "{'task_queue_max_priority': 10}"
QUORUM = "{'task_create_missing_queue_type': 'quorum', 'broker_transport_options': {'confirm_publish': True}}"
OWN_QUEUES = (
    "{'task_create_missing_queues': False, 'task_queues': [Queue('NAME', routing_key='NAME'), "
    "Queue('NAME.prefork', Exchange('heavy', type='topic'),"
    " routing_key='heavy.#', queue_arguments={'x-max-length': 500})]}"
)


def start_green(start_worker: Start, url: str, queue: str, conf: str, **options: Any) -> Worker:
    environment = {
        "APP_CONF": conf.replace("NAME", queue),
        "GREENWORKER_PREFORK_TASKS": "[]",
        **options.pop("environment", {}),
    }
    return start_worker(url, queues=queue, threads=5, environment=environment, name="green", **options)


def start_companion(start_worker: Start, url: str, queue: str, conf: str) -> Worker:
    return start_worker(
        url, queues=f"{queue}.prefork", pool="prefork", arguments=["-c", "1"], name="companion",
        environment={"APP_CONF": conf.replace("NAME", queue)},
    )  # fmt: skip


def refusal(worker: Worker) -> dict[str, str]:
    assert worker.wait(30) == 78, worker.tail()
    said: dict[str, str] = json.loads(worker.termination_log.read_text())
    assert set(said) == {"field", "value", "reason", "fix"}
    return said


def depth(server: RabbitMQ, queue: str) -> int | None:
    with Connection(server.url) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)  # type: ignore[no-untyped-call]
        except Exception:
            return None


def send(url: str, queue: str, conf: str, *names: str) -> None:
    """As the application itself does it: with its own queue."""
    producer = Producer(url, queue=queue, **({"task_queue_max_priority": 10} if conf == PRIORITIES else {}))
    if conf == QUORUM:
        producer.app.conf.task_create_missing_queue_type = "quorum"
    for number, name in enumerate(names):
        getattr(producer, name).delay(number)
    producer.app.close()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("conf", [PRIORITIES, QUORUM, OWN_QUEUES], ids=["priorities", "quorum", "queues of its own"])
def test_the_companion_takes_what_was_forwarded_before_it_came(
    rabbit_server: RabbitMQ, start_worker: Start, conf: str
) -> None:
    queue = f"shape{next(_numbers)}"
    green = start_green(start_worker, rabbit_server.url, queue, conf).ready()
    send(rabbit_server.url, queue, conf, "marked", "noop", "marked")
    green.reaches("greenworker_tasks_forwarded_total", 2)
    companion = start_companion(start_worker, rabbit_server.url, queue, conf).ready()
    eventually(lambda: green.journal.done() == 3, "all are done", more=companion.tail)
    companion.reaches("greenworker_tasks_started_total", 2, task="green_app.marked")


NO_COMPANION = "{'task_create_missing_queues': False, 'task_queues': [Queue('NAME', routing_key='NAME')]}"


def test_a_companions_queue_that_the_app_forbids_is_refused_by_both(redis_broker: Redis, start_worker: Start) -> None:
    for number in range(3):
        Producer(redis_broker.url).marked.delay(number)
    for start in (start_green, start_companion):
        said = refusal(start(start_worker, redis_broker.url, "feeds", NO_COMPANION))
        assert "feeds.prefork" in said["reason"]
        assert "task_create_missing_queues" in said["value"]
    assert redis_broker.client().llen("feeds") == 3, "nothing was forwarded"


def test_a_companions_queue_with_other_arguments_is_refused_before_anything_is_forwarded(
    rabbit_server: RabbitMQ, start_worker: Start
) -> None:
    queue = f"shape{next(_numbers)}"
    with Connection(rabbit_server.url) as connection:
        connection.channel().queue_declare(f"{queue}.prefork", durable=True, auto_delete=False)  # type: ignore[no-untyped-call]
    send(rabbit_server.url, queue, PRIORITIES, "marked")
    said = refusal(start_green(start_worker, rabbit_server.url, queue, PRIORITIES))
    assert f"queue {queue}.prefork" in said["value"]
    assert "x-max-priority=10" in said["reason"]
    assert "x-max-priority=none" in said["reason"]
    assert "green_app.marked" in said["reason"]
    assert depth(rabbit_server, queue) == 1
    assert depth(rabbit_server, f"{queue}.prefork") == 0
    assert "x-max-priority" in refusal(start_companion(start_worker, rabbit_server.url, queue, PRIORITIES))["reason"]


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_route_to_a_companion_that_cannot_be_is_said_and_the_task_runs_here(
    request: pytest.FixtureRequest, start_worker: Start, tmp_path: Path, broker: str
) -> None:
    """The operator may route a task at any moment; nobody's worker may end for it."""
    queue = f"shape{next(_numbers)}"
    url: str = request.getfixturevalue("redis_server" if broker == "redis" else "rabbit_server").url
    conf = NO_COMPANION
    routes = tmp_path / "routes"
    environment = {"GREENWORKER_ROUTES_FILE": str(routes), "UNMARKED": "1"}
    if broker == "rabbitmq":
        conf = PRIORITIES
        with Connection(url) as connection:
            connection.channel().queue_declare(f"{queue}.prefork", durable=True, auto_delete=False)  # type: ignore[no-untyped-call]
    green = start_green(start_worker, url, queue, conf, environment=environment).ready()
    routes.write_text(json.dumps(["green_app.noop"]))
    producer = Producer(url, queue=queue, **({"task_queue_max_priority": 10} if broker == "rabbitmq" else {}))

    def refused() -> bool:
        producer.noop.delay(1)
        return green.metric("greenworker_task_risk", reason="prefork", task="green_app.noop") == 1

    eventually(refused, "it says that it cannot forward", every=0.2)
    before = green.metric("greenworker_tasks_finished_total")
    producer.noop.delay(2)
    eventually(lambda: green.metric("greenworker_tasks_finished_total") > before, "the task runs here")
    assert f"{queue}.prefork" in green.tail()
    assert green.metric("greenworker_tasks_forwarded_total") == 0


def test_messages_of_the_old_protocol_are_counted_and_forwarded_by_their_name(
    any_lane: Lane, start_worker: Start
) -> None:
    tasks = ["green_app.hea*"]
    environment = {**any_lane.environment(), "GREENWORKER_PREFORK_TASKS": json.dumps(tasks)}
    green = start_worker(any_lane.url, queues=any_lane.queue, threads=5, environment=environment, name="green").ready()
    companion = start_worker(
        any_lane.url, queues=f"{any_lane.queue}.prefork", pool="prefork", arguments=["-c", "1"], name="companion",
        environment=any_lane.environment(),
    ).ready()  # fmt: skip
    old = any_lane.producer(task_protocol=1)
    old.heavy.delay(1)
    old.noop.apply_async((2,), headers={PUBLISHED_AT: "1"})
    eventually(lambda: green.journal.done() == 2, "both are done", more=companion.tail)
    green.reaches("greenworker_tasks_forwarded_total", 1, task="green_app.heavy")
    companion.reaches("celery_task_received_total", 1, name="green_app.heavy")
    green.reaches("celery_task_received_total", 1, name="green_app.noop")
    green.reaches("greenworker_task_wait_seconds_count", 1, task="green_app.noop")
    assert green.metric("celery_task_received_total", name="None") == 0
    far = 40 * 24 * 3600
    old.noop.apply_async((3,), countdown=far)
    eventually(lambda: green.metric("greenworker_task_risk", task="green_app.noop") == 1, "its ETA is looked at")


def test_a_mark_in_a_pool_without_a_companion_is_said_and_the_task_runs_here(
    redis_broker: Redis, start_worker: Start
) -> None:
    """Nobody would ever take it from the companion's queue."""
    green = start_worker(redis_broker.url, threads=5).ready()
    Producer(redis_broker.url).marked.delay(1)
    eventually(lambda: green.journal.done() == 1, "the task runs here")
    green.reaches("greenworker_task_risk", 1, reason="prefork", task="green_app.marked")
    assert "has no companion" in green.tail()
    assert redis_broker.client().llen("feeds.prefork") == 0
