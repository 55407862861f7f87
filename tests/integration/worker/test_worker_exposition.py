"""Metrics, probes and the watchdog while the hub is blocked."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest

from greenworker.monitoring.exposition import ANSWERS, OPEN_REQUESTS
from tests.integration.worker.harness import APPS, PROBE_SECONDS, Redis, Worker, eventually, slow_clients

Start = Callable[..., Worker]

SPINNING = ("    while time.monotonic() < end:", "        sum(range(1000))")


def test_answers_and_names_the_task_while_the_hub_is_blocked(
    redis_broker: Redis, start_worker: Start, client_app: Any
) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, environment={"GREENWORKER_RESTART_AFTER_SECONDS": "2"}).ready()
    assert worker.status("/healthz") == 200
    tasks.spin.delay(5)
    eventually(lambda: worker.journal.order("start") == ["spin"], "it spins")
    eventually(lambda: worker.status("/healthz") == 503, "not healthy after restartAfter", 10)
    began = monotonic()
    assert worker.status("/metrics") == 200
    assert monotonic() - began < 1
    eventually(
        lambda: worker.metric("greenworker_hub_blocked_seconds_total", task="green_app.spin") > 1,
        "it is put down to it",
        5,
    )
    eventually(lambda: worker.journal.order("done") == ["spin"], "it ends")
    eventually(lambda: worker.status("/healthz") == 200, "healthy again")
    blocked = worker.metric("greenworker_hub_blocked_seconds_total", task="green_app.spin")
    assert 1 < blocked < 6, "of five seconds, as far as the machine gave it its core"
    assert worker.metric("greenworker_hub_busy_seconds_total") > 4
    named = re.findall(
        r"the hub has been blocked .* by green_app\.spin at \S+/green_app\.py:(\d+);", worker.log.read_text()
    )
    source = (APPS / "green_app.py").read_text().splitlines()
    assert len([line for line in named if source[int(line) - 1] in SPINNING]) == 1, "once per place"


@pytest.mark.parametrize("count", [24, OPEN_REQUESTS + 72])
def test_clients_that_send_a_byte_now_and_then_starve_no_probe(
    redis_broker: Redis, start_worker: Start, count: int
) -> None:
    """Those that are dropped come again at once: more of them than the worker reads from are no reason to drop
    a probe.
    """
    worker = start_worker(redis_broker.url).ready()
    with slow_clients(worker.port, count) as dropped:
        if count > OPEN_REQUESTS:
            eventually(lambda: sum(dropped) > count, "each of them makes room for another", 20)
        assert worker.probes(10) == [200] * 30


def test_scrapes_that_nobody_reads_starve_no_probe(redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(redis_broker.url).ready()
    with ExitStack() as stack:
        for _ in range(2 * ANSWERS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(("127.0.0.1", worker.port))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert [worker.get("/healthz", PROBE_SECONDS)[0] for _ in range(20)] == [200] * 20


def test_a_request_has_one_deadline_however_busy_the_client_is(redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(redis_broker.url).ready()
    with slow_clients(worker.port, 1) as dropped:
        eventually(lambda: dropped[0], "the client is dropped")


def test_has_not_started_before_it_consumes(redis_broker: Redis, start_worker: Start) -> None:
    """The startup probe waits for that, so that the readiness probe, which kubelet sends at once then, succeeds."""
    waiting = start_worker("redis://127.0.0.1:1/0", name="waits")
    eventually(lambda: waiting.get("/healthz") == (503, "coming up\n"), "no broker, no start")
    assert waiting.status("/readyz") == 503
    worker = start_worker(redis_broker.url)
    seen: list[tuple[int, int]] = []
    while (200, 200) not in seen:
        seen.append((worker.status("/healthz"), worker.status("/readyz")))
        assert seen[-1] != (200, 503), "started, and not ready"


def test_an_idle_hub_is_not_busy(redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(redis_broker.url).ready()
    first, began = worker.metric("greenworker_hub_busy_seconds_total"), monotonic()
    eventually(lambda: monotonic() - began > 3, "three seconds pass")
    busy = worker.metric("greenworker_hub_busy_seconds_total") - first
    assert busy < 0.5 * (monotonic() - began)


def test_recycle_is_asked_for_by_a_metric(redis_broker: Redis, start_worker: Start, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(
        redis_broker.url,
        environment={"GREENWORKER_MAX_TASKS": "3", "GREENWORKER_MAX_AGE_SECONDS": "3600"},
    ).ready()
    assert worker.metric("greenworker_recycle_wanted") == 0
    for number in range(3):
        tasks.noop.delay(number)
    eventually(lambda: worker.metric("greenworker_recycle_wanted", reason="tasks") == 1, "it asks")
    assert worker.metric("greenworker_recycle_wanted", reason="age") == 0
