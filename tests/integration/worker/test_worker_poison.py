"""One message that ends every process that runs it: the others are done, and it becomes a dead letter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from time import time
from typing import Any

import pytest

from greenworker.brokers.dead_letters import key, rabbit_queue
from greenworker.brokers.suspicion import HEADER, Suspicion
from greenworker.exporter.broker import Queue
from greenworker.exporter.connect import connect
from greenworker.tls import Trust
from tests.integration.worker.harness import PYTHON, RabbitMQ, Redis, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane

Start = Callable[..., Worker]


class Kubelet:
    """Starts each of its workers again, under the same name, whenever it has died."""

    def __init__(self, start: Start, url: str, workers: int, **options: Any) -> None:
        self.deaths = 0
        self.workers = [start(url, name=f"pod{number}", **options) for number in range(workers)]
        self._stop = Event()
        self._thread = Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for worker in self.workers:
                if worker.gone():
                    self.deaths += 1
                    worker.start()

    def stop(self) -> None:
        """Whoever dies from now on stays dead."""
        self._stop.set()
        self._thread.join()

    def metric(self, name: str, /, **labels: str) -> float:
        return sum(worker.metric(name, **labels) for worker in self.workers)

    def tail(self) -> str:
        return "\n".join(worker.tail(20) for worker in self.workers)


@contextmanager
def kubelet(start: Start, lane: Lane, workers: int = 2, **options: Any) -> Iterator[Kubelet]:
    environment = {**lane.environment(), "GREENWORKER_MAX_DELIVERIES": "1", **options.pop("environment", {})}
    found = Kubelet(start, lane.url, workers, queues=lane.queue, environment=environment, **options)
    try:
        yield found
    finally:
        found.stop()


def dead(lane: Lane, queue: str = "") -> int:
    queue = queue or lane.queue
    if isinstance(lane, RedisLane):
        return int(lane.server.client().llen(key("", queue)))
    try:
        return lane.ready(rabbit_queue(queue))
    except Exception:  # noqa: BLE001 - there is none before the first
        return 0


def depth(lane: Lane) -> int | None:
    """What the exporter would say."""
    queues = (Queue(lane.queue),)
    with closing(connect(lane.url, Trust())) as broker:
        broker.count_dead_letters(queues)
        eventually(lambda: broker.depths(queues)[lane.queue].dead is not None, "dead letters are counted")
        return broker.depths(queues)[lane.queue].dead


def command(lane: Lane, directory: Path, *arguments: str) -> Any:
    """As `kubectl greenfleet dead-letters` runs it in the exporter's pod."""
    (directory / "url").write_text(lane.url)
    finished = subprocess.run(
        [PYTHON, "-m", "greenworker.exporter.dead_letters", *arguments, "--queue", lane.queue],
        env={
            **os.environ,
            "GREENWORKER_BROKER": "shop/broker/url",
            "GREENWORKER_BROKER_URL_FILE": str(directory / "url"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def limit_deliveries(server: RabbitMQ, limit: int) -> None:
    server.control("set_policy", "limit", "^lane", json.dumps({"delivery-limit": limit}), "--apply-to", "queues")


SLOW = pytest.mark.slow


@pytest.fixture(params=["redis", pytest.param("classic", marks=SLOW), pytest.param("quorum", marks=SLOW)])
def lane(request: pytest.FixtureRequest) -> Lane:
    if request.param == "redis":
        return RedisLane(request.getfixturevalue("redis_server"))
    return RabbitLane(request.getfixturevalue("rabbit_server"), request.param)


def test_the_tasks_beside_a_poison_are_done_and_it_becomes_a_dead_letter(
    lane: Lane, start_worker: Start, tmp_path: Path
) -> None:
    tasks = lane.producer()
    for number in range(50):
        tasks.sleep.delay(number, 1)
    tasks.poison.delay("poison")
    for number in range(50, 100):
        tasks.sleep.delay(number, 1)
    with kubelet(start_worker, lane, threads=120) as pool:
        eventually(lambda: dead(lane) == 1, "the poison is a dead letter", 90, more=pool.tail)
        journal = pool.workers[0].journal
        eventually(lambda: journal.done() == 100, "the others are done", 60, more=lambda: str(journal.done()))
        assert pool.deaths == journal.counts("start")["poison"] <= 4
        eventually(
            lambda: pool.metric("greenworker_dead_letters_total", queue=lane.queue, task="green_app.poison") == 1,
            "counted",
        )
        eventually(lambda: lane.ready() == 0, "nothing is left")
        assert "kubectl greenfleet dead-letters" in pool.tail()
        pool.stop()
        for worker in pool.workers:
            worker.stop()
    assert depth(lane) == 1, "the exporter counts it"
    [letter] = command(lane, tmp_path, "list")
    assert (letter["task"], letter["reason"], letter["deliveries"]) == ("green_app.poison", "worker_lost", 1)
    assert "poison" in command(lane, tmp_path, "show", letter["id"])[0]["message"]
    assert command(lane, tmp_path, "requeue", "nobody's") == []
    assert command(lane, tmp_path, "requeue", letter["id"]) == [letter]
    assert command(lane, tmp_path, "list") == []
    cured = start_worker(lane.url, queues=lane.queue, environment={**lane.environment(), "ANTIDOTE": "1"})
    eventually(lambda: cured.journal.counts("done")["poison"] == 1, "the repaired task is done")
    eventually(lambda: lane.ready() == 0 and dead(lane) == 0, "nothing is left")


def suspected(tasks: Any, task: str, *arguments: Any, attempts: int = 0) -> None:
    """Publish a message that two processes have died with, and more in these *attempts* to run it apart."""
    record = Suspicion(2 + attempts, attempts, int(time()))
    getattr(tasks, task).apply_async(arguments, headers={HEADER: record.header()})


def test_a_suspect_that_ends_its_process_alone_is_a_dead_letter_and_its_failure_is_stored(
    any_lane: Lane, start_worker: Start, redis_broker: Redis
) -> None:
    tasks = any_lane.producer()
    suspected(tasks, "poison", "poison")
    environment = {
        "APP_CONF": "{'task_ignore_result': False}",
        "CELERY_RESULT_BACKEND": redis_broker.url.replace("/0", "/3"),
        "GREENWORKER_MAX_DELIVERIES": "2",
    }
    with kubelet(start_worker, any_lane, 1, threads=20, environment=environment) as pool:
        eventually(lambda: dead(any_lane) == 1, "the poison is a dead letter", 60)
        assert pool.deaths == pool.workers[0].journal.counts("start")["poison"] == 2
        stored = redis_broker.client(3)
        [key] = eventually(lambda: stored.keys("celery-task-meta-*"), "the failure is stored")
        result = json.loads(str(stored.get(key)))
        assert (result["status"], result["result"]["exc_type"]) == ("FAILURE", "WorkerLostError")
        assert "dead letter of queue" in str(result["result"]["exc_message"])
        tasks.noop.delay(1)
        eventually(lambda: pool.workers[0].journal.done() == 1, "and the worker goes on")


def test_a_drain_never_counts_against_a_suspect(any_lane: Lane, start_worker: Start) -> None:
    """One death alone would be enough here."""
    suspected(any_lane.producer(), "sleep", 1, 300)
    environment = {**any_lane.environment(), "GREENWORKER_MAX_DELIVERIES": "1", "GREENWORKER_DRAIN_SECONDS": "1"}
    for run in (1, 2, 3):
        worker = start_worker(any_lane.url, queues=any_lane.queue, environment=environment)
        eventually(lambda run=run, worker=worker: worker.journal.counts("start")["1"] == run, "it runs")
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0, worker.tail()
    assert (any_lane.ready(), dead(any_lane)) == (1, 0)


def test_others_run_between_the_turns_of_suspects(any_lane: Lane, start_worker: Start) -> None:
    """A fleet whose suspects take a minute each would do little else for minutes."""
    tasks = any_lane.producer()
    for name in ("first", "second"):
        suspected(tasks, "sleep", name, 3, attempts=1)
    for number in range(10):
        tasks.sleep.delay(number, 0.1)
    worker = start_worker(any_lane.url, queues=any_lane.queue, threads=20, environment=any_lane.environment())
    eventually(lambda: worker.journal.done() == 12, "all are done", 60)
    order = worker.journal.order("start")
    assert (order[0], order[-1]) in {("first", "second"), ("second", "first")}, order


def test_nothing_starts_beside_a_suspect(any_lane: Lane, start_worker: Start) -> None:
    tasks = any_lane.producer()
    worker = start_worker(any_lane.url, queues=any_lane.queue, threads=10, environment=any_lane.environment()).ready()
    tasks.sleep.delay("before", 2)
    eventually(lambda: worker.journal.counts("start")["before"] == 1, "it runs")
    suspected(tasks, "sleep", "suspect", 1)
    eventually(lambda: any_lane.ready() == 0, "the worker has it")
    for number in range(5):
        tasks.noop.delay(number)
    eventually(lambda: worker.journal.done() == 7, "all are done", more=worker.tail)
    lines = worker.journal.path.read_text().split("\n")
    assert lines[:4] == ["start before", "done before", "start suspect", "done suspect"]


@pytest.mark.slow
def test_a_delivery_limit_of_the_queue_loses_nothing_beside_a_poison(
    rabbit_server: RabbitMQ, start_worker: Start
) -> None:
    """RabbitMQ drops what a quorum queue has delivered too often: here after 3 times, by default in RabbitMQ 4 after
    20.
    """
    lane = RabbitLane(rabbit_server, "quorum")
    limit_deliveries(rabbit_server, 3)
    tasks = lane.producer()
    for number in range(30):
        tasks.sleep.delay(number, 2)
    tasks.poison.delay("poison")
    with kubelet(start_worker, lane, 1, threads=100, environment={"GREENWORKER_MAX_DELIVERIES": "3"}) as pool:
        eventually(lambda: dead(lane) == 1, "the poison is a dead letter", 120, more=pool.tail)
        journal = pool.workers[0].journal
        eventually(lambda: journal.done() == 30, "the others are done", 60, more=lambda: str(journal.done()))


@pytest.mark.parametrize("kind", ["redis", pytest.param("quorum", marks=pytest.mark.slow)])
def test_a_prefork_child_dies_as_often_as_the_field_says(
    kind: str, request: pytest.FixtureRequest, start_worker: Start
) -> None:
    lane: Lane = (
        RedisLane(request.getfixturevalue("redis_server"))
        if kind == "redis"
        else RabbitLane(request.getfixturevalue("rabbit_server"), kind)
    )
    tasks = lane.producer()
    for number in range(10):
        tasks.noop.delay(number)
    tasks.poison.delay("poison")
    for number in range(10, 20):
        tasks.noop.delay(number)
    environment = {**lane.environment(), "GREENWORKER_MAX_DELIVERIES": "2"}
    worker = start_worker(
        lane.url, pool="prefork", queues=lane.queue, arguments=["-c", "2"], environment=environment
    ).ready()
    eventually(lambda: dead(lane) == 1, "the poison is a dead letter", 30, more=worker.tail)
    eventually(lambda: worker.journal.done() == 20, "the others are done")
    assert worker.journal.counts("start")["poison"] == 2
    worker.reaches("greenworker_dead_letters_total", 1, queue=lane.queue, task="green_app.poison")
    assert not worker.gone()
