"""RabbitMQ, classic and quorum queues."""

from __future__ import annotations

import signal
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import pytest
from kombu import Connection

from tests.integration.worker.harness import RabbitMQ, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, publish
from tests.ports import free_port

Start = Callable[..., Worker]


def worker_on(start_worker: Start, lane: Lane, **options: Any) -> Worker:
    environment = {**lane.environment(), **options.pop("environment", {})}
    return start_worker(lane.url, queues=lane.queue, environment=environment, **options).ready()


def test_resizes_up_and_down(rabbit_lane: Lane, start_worker: Start) -> None:
    tasks = rabbit_lane.producer()
    worker = worker_on(start_worker, rabbit_lane, threads=2)
    for number in range(150):
        tasks.sleep.delay(number, 0.5)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "two run")
    worker.resize(60)
    eventually(lambda: worker.metric("greenworker_threads_busy") > 40, "many run")
    worker.resize(3)
    eventually(lambda: worker.metric("greenworker_threads_busy") <= 3, "few run")
    worker.resize(60)
    eventually(lambda: worker.journal.done() == 150, "all done")
    assert max(worker.journal.counts("done").values()) == 1


def held(worker: Worker) -> float:
    """Messages that the worker has and has not settled. The lesser of two looks: tasks may start between the two
    readings that a look adds up, and then count twice; too many messages stay for as long as tasks run.
    """
    names = ("celery_worker_tasks_active", "greenworker_tasks_reserved")
    looks = (sum(value for (name, _), value in worker.samples().items() if name in names) for _ in range(2))
    return min(looks)


def test_a_resize_never_holds_more_than_the_limit_or_than_was_held_before(
    rabbit_lane: Lane, start_worker: Start
) -> None:
    """What waits inside one worker cannot start in another. A consumer that is cancelled keeps what it was given."""
    tasks = rabbit_lane.producer()
    worker = worker_on(start_worker, rabbit_lane, threads=100)
    for number in range(2000):
        tasks.sleep.delay(number, 0.5 + number % 20 / 10)
    eventually(lambda: held(worker) == 100, "a hundred are held")
    before = 100
    for threads in (20, 100, 60, 8, 100):
        worker.resize(threads)
        most = 0.0

        def arrived(threads: int = threads) -> bool:
            nonlocal most
            now = held(worker)
            most = max(most, now)
            return now == threads == worker.metric("greenworker_threads_limit")

        eventually(arrived, f"{threads} are held")
        assert most <= max(threads, before), (before, threads)
        before = threads
    assert max(worker.journal.counts("start").values()) == 1


def test_several_queues_share_one_limit(rabbit_server: RabbitMQ, start_worker: Start) -> None:
    lanes = [RabbitLane(rabbit_server, "quorum") for _ in range(2)]
    one, other = lanes
    queues = ", ".join(
        f"Queue({lane.queue!r}, routing_key={lane.queue!r}, queue_arguments={{'x-queue-type': 'quorum'}})"
        for lane in lanes
    )
    worker = start_worker(
        one.url, queues=f"{one.queue},{other.queue}", threads=40, environment={"APP_CONF": f"{{'task_queues': "
                                                                                           f"[{queues}]}}"}
    ).ready()  # fmt: skip
    most = 0.0

    def at_work(number: str) -> Callable[[], bool]:
        def look() -> bool:
            nonlocal most
            most = max(most, held(worker))
            starts, ends = worker.journal.order("start"), worker.journal.counts("done")
            return sum(each.startswith(number) and each not in ends for each in starts) >= 15

        return look

    publish(one, "sleep", 1_000, 2_000, 1.5)
    eventually(lambda: held(worker) >= 39, "the only queue with a backlog has all threads but one")
    publish(other, "sleep", 2_000, 3_000, 1.5)
    eventually(at_work("2"), "the other one gets its share")
    eventually(at_work("1"), "and the first one keeps its own")
    assert most <= 40
    assert max(worker.journal.counts("start").values()) == 1


def test_waiting_counts_from_our_header_else_from_the_brokers_timestamp(rabbit_lane: Lane, start_worker: Start) -> None:
    tasks = rabbit_lane.producer()
    tasks.noop.apply_async((1,))
    tasks.noop.apply_async((2,), timestamp=int(time()) - 100)
    tasks.noop.apply_async((3,), headers={"greenfleet-published-at": f"{time() - 1000:.3f}"})
    worker = worker_on(start_worker, rabbit_lane, threads=5)
    eventually(lambda: worker.journal.done() == 3, "all done")
    assert worker.metric("greenworker_task_wait_seconds_count") == 2, "nobody says when the first was published"
    assert 1100 <= worker.metric("greenworker_task_wait_seconds_sum") < 1160


def test_drain_gives_back_and_finishes(rabbit_lane: Lane, start_worker: Start) -> None:
    tasks = rabbit_lane.producer()
    worker = worker_on(start_worker, rabbit_lane, threads=4, environment={"GREENWORKER_PREFETCH_MULTIPLIER": "4"})
    for number in range(40):
        tasks.sleep.delay(number, 3)
    eventually(lambda: worker.metric("greenworker_tasks_reserved") == 12, "twelve wait inside the worker")
    worker.signal(signal.SIGTERM)
    eventually(lambda: rabbit_lane.ready() == 36, "all that had not started is back", 10)
    assert worker.wait(20) == 0, worker.tail()
    assert worker.journal.done() == 4, worker.tail()
    assert rabbit_lane.ready() == 36


def test_drain_deadline_requeues(rabbit_lane: Lane, start_worker: Start) -> None:
    tasks = rabbit_lane.producer()
    worker = worker_on(start_worker, rabbit_lane, threads=30, environment={"GREENWORKER_DRAIN_SECONDS": "2"})
    for number in range(40):
        tasks.sleep.delay(number, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 30, "thirty run")
    began = monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert monotonic() - began < 12
    eventually(lambda: rabbit_lane.ready() == 40, "all are back")
    assert "30 requeued at the deadline" in worker.tail()


def test_acknowledgements_that_travel_together_all_arrive(rabbit_lane: Lane, start_worker: Start) -> None:
    """A worker that is killed once it is idle leaves nothing at the broker that would run again."""
    tasks = rabbit_lane.producer()
    worker = worker_on(start_worker, rabbit_lane, threads=50)
    for number in range(400):
        tasks.noop.delay(number)
    eventually(lambda: worker.journal.done() == 400, "all done")
    eventually(lambda: worker.metric("greenworker_threads_busy") == 0, "the worker is idle")
    worker.signal(signal.SIGKILL)
    worker.wait()
    eventually(lambda: rabbit_lane.consumers() == 0, "the broker has noticed")
    assert rabbit_lane.ready() == 0
    assert max(worker.journal.counts("done").values()) == 1


@pytest.mark.slow
def test_kill_loses_nothing(rabbit_lane: Lane, start_worker: Start) -> None:
    tasks = rabbit_lane.producer()
    victim = worker_on(start_worker, rabbit_lane, threads=20)
    for number in range(60):
        tasks.sleep.delay(number, 0.5 if number >= 20 else 5)
    eventually(lambda: victim.metric("greenworker_threads_busy") == 20, "twenty run")
    victim.signal(signal.SIGKILL)
    victim.wait()
    other = worker_on(start_worker, rabbit_lane, threads=40)
    eventually(lambda: other.journal.done() == 60, "every task is done")


@pytest.mark.slow
def test_the_second_of_two_urls_is_used_while_the_first_does_not_answer(
    rabbit_server: RabbitMQ, own_rabbit: RabbitMQ, start_worker: Start
) -> None:
    """Of a cluster's nodes any may be away, at the start and later."""
    here, there = RabbitLane(rabbit_server, "quorum"), RabbitLane(own_rabbit, "quorum")
    there.queue = here.queue
    with Connection(there.url) as connection:
        connection.channel().queue_declare(
            here.queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    dead = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    worker = start_worker(f"{dead};{there.url};{here.url}", queues=here.queue, environment=here.environment()).ready()
    publish(there, "noop", 0, 5)
    eventually(lambda: worker.journal.done() == 5, "from the second", 30, more=worker.tail)
    own_rabbit.stop()
    publish(here, "noop", 5, 10)
    eventually(lambda: worker.journal.done() >= 10 or worker.gone(), "from the third", 90, more=worker.tail)
    assert not worker.gone(), worker.tail()
    assert worker.journal.counts("done") == dict.fromkeys(map(str, range(10)), 1)
