"""A task waits with its result for a Redis that is away; nobody else does, and not for one that answers."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterator
from threading import Thread
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004 - Redis' own

from greenworker.brokers.redis import results
from tests.integration.worker.harness import free_port

OUTAGE = 5.0


@pytest.fixture(autouse=True)
def short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUTAGE_SECONDS", OUTAGE)
    monkeypatch.setattr(results, "AGAIN_SECONDS", 0.5)
    for name in ("_store_result", "on_chord_part_return"):
        monkeypatch.setattr(RedisBackend, name, getattr(RedisBackend, name))
    results.store_through_outages()


class Refusing(socketserver.StreamRequestHandler):
    """A Redis with another password."""

    def handle(self) -> None:
        while self.rfile.readline():
            self.wfile.write(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def seconds_until(error: type[Exception], what: Callable[[], Any]) -> float:
    began = monotonic()
    with pytest.raises(error):
        what()
    return monotonic() - began


def storing(url: str, state: str = "SUCCESS") -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Stores a result in a task, and outside of one."""
    app = Celery("stores", backend=url, set_as_current=False)

    def store() -> None:
        app.backend.store_result("id", 1, state)

    return app.task(store, name="store"), store


def test_a_task_waits_with_its_result_and_the_loop_of_the_worker_does_not() -> None:
    in_task, outside = storing(f"redis://127.0.0.1:{free_port()}/0")
    assert seconds_until(ConnectionError, outside) < OUTAGE
    assert seconds_until(ConnectionError, in_task) >= OUTAGE


def test_a_retry_goes_on_without_its_record() -> None:
    """Where the next try is published after it, that would come two minutes later."""
    in_task, _ = storing(f"redis://127.0.0.1:{free_port()}/0", "RETRY")
    assert seconds_until(ConnectionError, in_task) < OUTAGE


def test_a_wrong_password_is_an_answer(refusing_port: int) -> None:
    in_task, _ = storing(f"redis://:other@127.0.0.1:{refusing_port}/0")
    assert seconds_until(AuthenticationError, in_task) < OUTAGE


def test_a_soft_limit_asks_the_tasks_own_code_to_end_and_not_its_result() -> None:
    tries: list[Exception] = [SoftTimeLimitExceeded(), ConnectionError("away")]
    app = Celery("waits", set_as_current=False)
    again: list[int] = []

    def what() -> str:
        if tries:
            raise tries.pop()
        return "stored"

    @app.task(name="waits")  # type: ignore[untyped-decorator]
    def waits() -> Any:
        return results.through_outage(what, "A result", lambda: again.append(1))

    assert waits() == "stored"
    assert len(again) == 2
