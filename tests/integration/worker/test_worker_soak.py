"""A long life: 200,000 tasks and 100 broken connections leave nothing behind, and what a thousand green threads
cost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from tests.integration.worker.harness import Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane, publish

Start = Callable[..., Worker]

TASKS = int(os.environ.get("SOAK_TASKS", "200000"))
RECONNECTS = int(os.environ.get("SOAK_RECONNECTS", "100"))
MEBIBYTE = 1 << 20


@pytest.fixture(params=["redis", "quorum"])
def lane(request: pytest.FixtureRequest) -> Lane:
    if request.param == "redis":
        return RedisLane(request.getfixturevalue("redis_server"))
    return RabbitLane(request.getfixturevalue("rabbit_server"), request.param)


REST_SECONDS = 300.0
"""Far more than it takes: how fast it rests is no promise, and on a busy machine a broker answers late."""


def await_rest(worker: Worker, lane: Lane) -> None:
    """Until nothing waits and nothing runs. What it is about is told where that never comes: messages that wait for a
    worker which does not take them would be a defect of the worker.
    """
    seen: dict[str, Any] = {}

    def rests() -> bool:
        samples = worker.samples()
        busy = [value for (name, _), value in samples.items() if name == "greenworker_threads_busy"]
        seen.update(ready=lane.ready(), busy=busy, readyz=worker.status("/readyz"))
        return seen["ready"] == 0 and busy == [0.0]

    try:
        eventually(rests, "it rests", REST_SECONDS, every=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}; {seen}; {worker.tail()}") from None


def fewest(entries: Path) -> int:
    """The least of ten looks within a second: a connection that is just being made anew has a few descriptors more."""
    found = []
    for _ in range(10):
        found.append(len(list(entries.iterdir())))
        sleep(0.1)
    return min(found)


def state_of(worker: Worker, lane: Lane, number: int) -> dict[str, float]:
    """What must not grow, at rest. RSS in MiB."""
    await_rest(worker, lane)
    lane.producer().census.delay(number)

    def census() -> list[int]:
        notes = (note.partition(":") for note in worker.journal.counts("census"))
        return [int(alive) for at, _, alive in notes if at == str(number)]

    eventually(census, "the census is taken", 60)
    assert worker.process is not None
    process = Path(f"/proc/{worker.process.pid}")
    return {
        "rss": worker.metric("process_resident_memory_bytes") / MEBIBYTE,
        "threads": len(list((process / "task").iterdir())),
        "descriptors": fewest(process / "fd"),
        "green_threads": census()[0],
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_200_000_tasks_and_100_reconnects_leave_nothing_behind(lane: Lane, start_worker: Start) -> None:
    relay = Relay(lane.server.port)
    through = lane.url.replace(f":{lane.server.port}", f":{relay.port}")
    worker = start_worker(through, queues=lane.queue, threads=100, environment=lane.environment()).ready()
    batch = TASKS // RECONNECTS
    states: list[dict[str, float]] = []

    def finished() -> float:
        return worker.metric("greenworker_tasks_finished_total", task="green_app.noop")

    for cut in range(RECONNECTS):
        before = finished()
        publish(lane, "noop", cut * batch, (cut + 1) * batch)
        eventually(lambda before=before: finished() >= before + batch // 4, "under way", 60)
        relay.cut()
        eventually(lambda: "down" if worker.gone() else worker.status("/readyz") == 200, "it has reconnected", 60)
        eventually(
            lambda target=(cut + 1) * batch: finished() >= target,
            "all done",
            120,
            more=lambda: f"{lane.ready()} ready; {worker.tail()}",
        )
        if (cut + 1) % max(1, RECONNECTS // 10) == 0:
            states.append(state_of(worker, lane, cut))
            print(json.dumps({"lane": lane.kind, "tasks": (cut + 1) * batch, **states[-1]}), flush=True)
    counts = worker.journal.counts("done")
    assert len(counts) == batch * RECONNECTS, "none is lost"
    assert relay.accepted > RECONNECTS, "every cut was felt"
    twice = sum(count > 1 for count in counts.values())
    print(json.dumps({"lane": lane.kind, "twice": twice}), flush=True)
    if lane.kind == "redis":
        assert twice == 0, "what runs is still ours after a reconnect"
    relay.close()
    # Until then its heap finds its size; what leaks goes on growing. Commands at the same moment make one more
    # connection, which stays until the next cut: so the most of both halves.
    middle = len(states) // 2 + 1
    most, later = (
        {name: max(s[name] for s in half) for name in states[0]} for half in (states[:middle], states[middle:])
    )
    grown = {name: later[name] - most[name] for name in most}
    allowed = {"rss": 1.5, "threads": 1, "descriptors": 3, "green_threads": 3}
    assert all(grown[name] <= allowed[name] for name in allowed), (grown, states)


@pytest.mark.slow
def test_memory_of_a_thousand_green_threads(lane: Lane, start_worker: Start) -> None:
    """Idle ones cost nothing, for a thread is made for its task; busy ones cost a stack and a request."""
    worker = start_worker(lane.url, queues=lane.queue, threads=10, environment=lane.environment()).ready()
    for number in range(20):
        lane.producer().sleep.delay(number, 0.1)
    eventually(lambda: worker.journal.done() == 20, "warm")

    def rss() -> float:
        return worker.metric("process_resident_memory_bytes") / MEBIBYTE

    warm = rss()
    worker.resize(1000)
    eventually(lambda: worker.metric("greenworker_threads_limit") == 1000, "a thousand")
    idle = rss()
    producer: Any = lane.producer()
    for number in range(3000):
        producer.sleep.delay(number + 100, 90)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1000, "a thousand run", 60)
    first = rss()
    worker.resize(3000)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 3000, "three thousand run", 60)
    figures = {
        "idle_1000": idle - warm,
        "busy_first_1000": first - idle,
        "busy_next_1000": (rss() - first) / 2,
        "warm": warm,
    }
    print(
        json.dumps({"lane": lane.kind, "mib": {name: round(value, 1) for name, value in figures.items()}}), flush=True
    )
    assert figures["idle_1000"] < 5
    assert figures["busy_next_1000"] < 60
