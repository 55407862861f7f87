"""A task waits with its result for a Redis that is away; nobody else does, and not for one that answers."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.backends import redis
from celery.backends.redis import RedisBackend
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004 - Redis' own

from greenworker.brokers.redis import results
from tests.ports import free_port

OUTAGE = 5.0


@pytest.fixture(autouse=True)
def short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUTAGE_SECONDS", OUTAGE)
    monkeypatch.setattr(results, "AGAIN_SECONDS", 0.5)
    for name in ("_store_result", "_set_with_state", "on_chord_part_return"):
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

    def what() -> str:
        if tries:
            raise tries.pop()
        return "stored"

    @app.task(name="waits")  # type: ignore[untyped-decorator]
    def waits() -> Any:
        return results.through_outage(what, "A result")

    assert waits() == "stored"
    assert not tries


class Client:
    """Of a Redis that has one key, a chord's claim. *others*: what it is after each time that it was read."""

    def __init__(self, claim: bytes | str | None, others: Sequence[bytes] = ()) -> None:
        self.claim, self.others = claim, list(others)

    def get(self, _key: str) -> bytes | str | None:
        found = self.claim
        if self.others:
            self.claim = self.others.pop(0)
        return found

    def eval(self, script: str, keys: int, _key: str, claim: bytes) -> None:
        assert (script, keys) == (results.GIVE_UP, 1)
        if self.claim == claim:
            self.claim = None


def part_of_a_chord(
    monkeypatch: pytest.MonkeyPatch, client: Client, count: Callable[[Any], Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Counts a part with *count* in place of Celery's method, in a task, and outside of one."""
    monkeypatch.undo()
    monkeypatch.setattr(results, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(results, "SENDING_SECONDS", 0.5)
    monkeypatch.setattr(RedisBackend, "_store_result", lambda *_: None)  # not ours, if another test has put it there
    monkeypatch.setattr(RedisBackend, "on_chord_part_return", lambda self, *_: count(self))
    monkeypatch.setattr(RedisBackend, "client", client)
    results.store_through_outages()
    app = Celery("counts", backend="redis://127.0.0.1:1/0", set_as_current=False)

    def part() -> Any:
        return app.backend.on_chord_part_return(Context(id="part", group="chord"), "SUCCESS", 1)

    return app.task(part, name="part"), part


@pytest.mark.parametrize(
    ("claim", "others", "left", "waits"),
    [
        (None, (), None, False),
        (b"done", (), b"done", False),
        ("done", (), "done", False),
        (b"ended", (), None, True),
        (b"sends", (b"sends", b"done"), b"done", False),
        (b"ended", (b"ended", b"took over"), b"took over", False),
    ],
    ids=["the first time", "sent", "sent and decoded", "its worker has ended", "is being sent", "another is faster"],
)  # fmt: skip
def test_a_part_that_runs_again_takes_over_a_body_that_nobody_sends(
    monkeypatch: pytest.MonkeyPatch, claim: bytes | str | None, others: Sequence[bytes], left: bytes, waits: bool
) -> None:
    client = Client(claim, others)
    in_task, _ = part_of_a_chord(monkeypatch, client, lambda backend: backend.client.claim)
    began = monotonic()
    assert in_task() == client.claim == left
    assert (monotonic() - began >= results.SENDING_SECONDS) is waits


def test_the_loop_of_the_worker_takes_over_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    _, outside = part_of_a_chord(monkeypatch, Client(b"ended"), lambda backend: backend.client.claim)
    assert outside() == b"ended"


def sending(error: BaseException) -> Callable[[Any], Any]:
    """Ends with *error* while it sends the body, and gives up the claim whatever happens, as Celery does."""

    def count(backend: Any) -> None:
        client = backend.client
        try:
            raise error
        finally:
            client.eval(results.GIVE_UP, 1, backend.get_key_for_group("chord", ".c"), client.claim)

    return count


@pytest.mark.parametrize("error", [GreenletExit(), SystemExit(1), ValueError()], ids=repr)
def test_who_is_killed_while_it_sends_the_body_leaves_the_chord_as_it_is(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    client = Client(b"mine")
    _, outside = part_of_a_chord(monkeypatch, client, sending(error))
    with pytest.raises(type(error)):
        outside()
    assert client.claim == (None if isinstance(error, ValueError) else b"mine")


def test_what_ended_the_tasks_own_code_keeps_nobody_from_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    _, outside = part_of_a_chord(monkeypatch, Client(b"mine"), lambda backend: backend.client.claim)
    try:
        raise SystemExit(1)
    except SystemExit:
        assert outside() == b"mine"


class Subscriptions:
    """A stand-in for redis-py's PubSub."""

    def __init__(self) -> None:
        self.connection: object | None = object()


def test_who_is_collected_while_the_connection_is_lost_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever collects may hold the lock of redis-py's pool, and would wait for itself for ever."""
    asked: list[str] = []
    monkeypatch.setattr(redis.ResultConsumer, "cancel_for", lambda _, task_id: asked.append(task_id))
    app = Celery("waits", backend="redis://127.0.0.1:1/0", set_as_current=False)
    backend = app.backend
    consumer = results.SerialConsumer(backend, app, backend.accept, backend._pending_results, backend._pending_messages)
    consumer._pubsub = pubsub = Subscriptions()
    key = consumer._get_key_for_task("one")
    consumer.subscribed_to = {key}
    pubsub.connection = None
    consumer.cancel_for("one")
    assert (asked, consumer.subscribed_to) == ([], set())
    pubsub.connection = object()
    consumer.cancel_for("two")
    assert asked == ["two"]
