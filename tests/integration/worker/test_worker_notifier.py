"""Redis rings when a message comes: a worker at rest hardly asks, starts at once, and asks again where nobody rings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Worker, eventually

Start = Callable[..., Worker]
REST_SECONDS = 5.0


def questions(broker: Redis) -> int:
    """Scripts that Redis has run: fetching, acknowledging, and once in four seconds a beat."""
    statistics: Any = broker.client().info("commandstats")
    return sum(int(statistics[name]["calls"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in statistics)


def listeners(broker: Redis) -> list[dict[str, str]]:
    """Connections that listen for changes of keys, and those that are remembered for what they read."""
    clients: Any = broker.client().client_list()
    return [each for each in clients if each["sub"] == "1" or each["redir"] != "-1"]


@pytest.fixture
def deaf_redis(tmp_path: Path) -> Iterator[Redis]:
    """One that does not tell its clients about keys."""
    broker = Redis(tmp_path, "--rename-command", "CLIENT", "")
    yield broker
    broker.stop()


def test_a_worker_at_rest_hardly_asks(own_redis: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url).ready()
    tasks.noop.delay(0)
    eventually(lambda: worker.journal.done() == 1, "the worker is up")
    eventually(lambda: len(listeners(own_redis)) == 2, "two connections of the notifier")
    sleep(1)
    before = questions(own_redis)
    sleep(REST_SECONDS)
    assert questions(own_redis) - before <= 2 * REST_SECONDS, "asked ten times a second it would be 50"


def test_single_messages_start_at_once(own_redis: Redis, start_worker: Start, client_app: Any) -> None:
    """A worker that asks every 0.1 s finds them after 0.05 s on average."""
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url).ready()
    tasks.noop.delay(0)
    eventually(lambda: worker.journal.done() == 1, "the worker is up")
    client, waited = own_redis.client(), []
    for number in range(1, 21):
        sleep(0.31)
        tasks.noop.delay(number)
        began = monotonic()
        while client.llen("feeds"):
            sleep(0.001)
        waited.append(monotonic() - began)
    assert sorted(waited)[10] < 0.03, waited
    eventually(lambda: worker.journal.done() == 21, "all done")


@pytest.mark.parametrize("lost", ["receives", "asks", "both"])
def test_lost_listeners_come_back(own_redis: Redis, start_worker: Start, client_app: Any, lost: str) -> None:
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url).ready()
    done = 0
    for _ in range(2):
        tasks.noop.delay(done)
        done += 1
        eventually(lambda: len(listeners(own_redis)) == 2, "two connections of the notifier", 15)
        for each in listeners(own_redis):
            if lost in ("both", "receives" if each["sub"] == "1" else "asks"):
                own_redis.client().client_kill_filter(_id=each["id"])
        tasks.noop.delay(done)
        done += 1
        eventually(lambda: worker.journal.done() == done, "nobody has to ring for it", 3)  # noqa: B023
        sleep(1.5)  # it finds out
    eventually(lambda: len(listeners(own_redis)) == 2, "and again", 15)


def test_without_a_notifier_it_asks(deaf_redis: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(deaf_redis.url)
    worker = start_worker(deaf_redis.url).ready()
    for number in range(10):
        tasks.noop.delay(number)
        sleep(0.15)
    eventually(lambda: worker.journal.done() == 10, "all done", 3)


def test_every_priority_and_every_queue_rings(own_redis: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(own_redis.url)
    worker = start_worker(own_redis.url, queues="feeds,more").ready()
    client = own_redis.client()
    number = 0
    for queue in ("feeds", "more"):
        for priority in (0, 3, 6, 9):
            sleep(0.4)
            tasks.noop.apply_async((number,), queue=queue, priority=priority)
            number += 1
            began = monotonic()
            while client.keys(f"{queue}*"):
                assert monotonic() - began < 0.5, (queue, priority)
                sleep(0.002)
    eventually(lambda: worker.journal.done() == number, "all done")


def test_many_idle_workers_share_what_comes(own_redis: Redis, start_worker: Start, client_app: Any) -> None:
    """All are notified, one gets the message; each runs once."""
    tasks = client_app(own_redis.url)
    workers = [start_worker(own_redis.url) for _ in range(4)]
    for worker in workers:
        worker.ready()
    for number in range(60):
        tasks.noop.delay(number)
        sleep(0.03)
    eventually(lambda: workers[0].journal.done() == 60, "all done (they share a journal)")
    assert max(workers[0].journal.counts("done").values()) == 1
