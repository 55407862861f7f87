"""Headers of ours that somebody else wrote: a record of deaths, a time of publishing and a task's name that no worker
would write.

Whoever may publish may write them. They cost that message its record or its wait, and nobody else anything.
"""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection

from tests.integration.worker.harness import Redis, Worker, eventually
from tests.integration.worker.lanes import Lane
from tests.integration.worker.test_worker_odd_messages import body_of, message

Start = Callable[..., Worker]

FORGED = "1 0 " + "9" * 400
"""A record whose last death was at a second that no float holds."""


def push(broker: Redis, *messages: dict[str, Any]) -> None:
    broker.client().lpush("feeds", *map(json.dumps, messages))


def sleep(number: int, **changes: Any) -> dict[str, Any]:
    """A message for a task that takes a minute."""
    return message(number, headers__task="green_app.sleep", body=body_of(number, 60), **changes)


def test_a_time_of_publishing_that_is_no_number_keeps_no_green_thread(redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(redis_broker.url).ready()
    worker.resize(2)
    worker.reaches("greenworker_threads_limit", 2)
    stamps = [10**400, -(10**400), "-inf", "nan", "1e999", {}, [], True]
    push(redis_broker, *(message(n, **{"headers__greenfleet-published-at": said}) for n, said in enumerate(stamps)))
    push(redis_broker, *(message(n) for n in range(len(stamps), len(stamps) + 4)))
    eventually(lambda: worker.journal.done() == len(stamps) + 4, "all are done")
    eventually(lambda: worker.metric("greenworker_threads_busy") == 0, "no green thread is kept")
    assert worker.status("/metrics") == 200


def test_a_name_that_is_no_text_and_a_very_long_one_leave_the_metrics_alone(
    redis_broker: Redis, start_worker: Start
) -> None:
    worker = start_worker(redis_broker.url).ready()
    status, plain = worker.get("/metrics")
    assert status == 200
    push(
        redis_broker, message(1, headers__task="green_app.\ud83d"), message(2, headers__task="x" * 200_000), message(3)
    )
    eventually(lambda: worker.journal.done() == 1, "the one that has a task is done")
    status, body = worker.get("/metrics")
    assert status == 200
    assert len(body) < 2 * len(plain) + 20_000


def test_what_a_dead_worker_held_comes_back_beside_a_forged_record(redis_broker: Redis, start_worker: Start) -> None:
    victim = start_worker(redis_broker.url, name="victim").ready()
    client = redis_broker.client()
    push(redis_broker, sleep(0, **{"headers__greenfleet-suspicion": FORGED}))
    push(redis_broker, *map(sleep, range(1, 4)))
    eventually(lambda: client.hlen("unacked") == 4, "all are held")
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = start_worker(redis_broker.url, name="other").ready()
    eventually(lambda: other.metric("greenworker_threads_busy") == 4, "the others have all of them", 60)


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_forged_record_of_a_redelivered_message_ends_no_worker(
    rabbit_lane: Lane, start_worker: Start, pool: str
) -> None:

    def send(number: int, **headers: str) -> None:
        said = {"lang": "py", "task": "green_app.noop", "id": str(uuid.uuid4()), "retries": 0, **headers}
        with Connection(rabbit_lane.url) as connection:
            connection.Producer(serializer="json", auto_declare=False).publish(
                [[number], {}, {}], exchange="", routing_key=rabbit_lane.queue, headers=said, correlation_id=said["id"]
            )

    with Connection(rabbit_lane.url) as connection:
        channel = connection.channel()
        send(1, **{"greenfleet-suspicion": FORGED})
        taken = eventually(lambda: channel.basic_get(rabbit_lane.queue), "it is there")
        channel.basic_reject(taken.delivery_tag, requeue=True)
    send(2)
    arguments = ["-c", "1"] if pool == "prefork" else []
    worker = start_worker(
        rabbit_lane.url, queues=rabbit_lane.queue, environment=rabbit_lane.environment(), pool=pool, arguments=arguments
    )
    eventually(lambda: worker.journal.done() == 2, "both are done", 60)
    assert not worker.gone()
