"""No task is lost when worker, broker or connection die at full speed: a journal of task ids says so. Twice is allowed
and said.

At full speed acknowledgements travel in batches, and each of these deaths hits some that were written and not sent.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.integration.worker.harness import Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane, publish

Start = Callable[..., Worker]

TASKS = 4000


@pytest.fixture(params=["redis", "classic", "quorum"])
def lane(request: pytest.FixtureRequest) -> Lane:
    """On a broker of its own."""
    if request.param == "redis":
        return RedisLane(request.getfixturevalue("own_redis"))
    return RabbitLane(request.getfixturevalue("own_rabbit"), request.param)


def end_worker(how: signal.Signals) -> Callable[[Lane, Worker, Start], Worker]:
    """Ends the worker so, and starts another."""

    def end(lane: Lane, worker: Worker, start_worker: Start) -> Worker:
        worker.signal(how)
        status = worker.wait(30)
        assert how == signal.SIGKILL or status == 0, worker.tail()
        return start_on(lane, start_worker)

    return end


def kill_broker(lane: Lane, worker: Worker, _: Start) -> Worker:
    lane.server.kill()
    lane.server.start()
    return worker


def start_on(lane: Lane, start_worker: Start) -> Worker:
    return start_worker(lane.url, queues=lane.queue, threads=100, environment=lane.environment()).ready()


@pytest.mark.slow
@pytest.mark.parametrize(
    "accident",
    [end_worker(signal.SIGKILL), end_worker(signal.SIGTERM), kill_broker],
    ids=["worker-killed", "worker-drained", "broker-killed"],
)
def test_at_full_speed_no_task_is_lost(
    lane: Lane, start_worker: Start, accident: Callable[[Lane, Worker, Start], Worker]
) -> None:
    worker = start_on(lane, start_worker)
    publish(lane, "noop", 0, TASKS)
    journal = worker.journal
    for part in (1, 2):
        eventually(lambda part=part: journal.done() > part * TASKS // 4, "under way", 60)
        worker = accident(lane, worker, start_worker)
    eventually(lambda: worker.journal.done() == TASKS, "all are done", 120)
    eventually(lambda: lane.ready() == 0, "and none is left", 60)
    twice = sum(count > 1 for count in worker.journal.counts("done").values())
    print(json.dumps({"lane": lane.kind, "tasks": TASKS, "lost": 0, "twice": twice}))
    if lane.kind == "redis" and accident is kill_broker:
        assert twice == 0, "acknowledgements outlive the connection there"


@pytest.mark.slow
def test_resizes_follow_through_broken_connections(lane: Lane, start_worker: Start) -> None:
    """Prefetch belongs to a connection; the size of the pool does not."""
    relay = Relay(lane.server.port)
    url = lane.url.replace(f":{lane.server.port}", f":{relay.port}")
    worker = start_worker(url, queues=lane.queue, threads=10, environment=lane.environment()).ready()
    publish(lane, "sleep", 0, 3000, 0.5)
    for threads in (300, 10, 400, 20, 300):
        worker.resize(threads)
        relay.cut()
        eventually(
            lambda threads=threads: (
                worker.metric("greenworker_threads_limit") == threads
                and (
                    threads < 100
                    or worker.journal.done() == 3000
                    or worker.metric("greenworker_threads_busy") > threads // 2
                )
            ),
            f"{threads} run after the cut",
        )
    eventually(lambda: worker.journal.done() == 3000, "all are done", 60)
    if lane.kind == "redis":
        assert max(worker.journal.counts("done").values()) == 1
    relay.close()
