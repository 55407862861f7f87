"""What a broker has and cannot reach: RabbitMQ's answers, as it gives them, are those of a lost connection."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import spec
from amqp.exceptions import AccessRefused, InternalError, NotFound, PreconditionFailed
from kombu.connection import Connection

from greenworker.brokers import declarations
from greenworker.brokers.amqp import confirms, transport
from greenworker.brokers.declarations import UnavailableError, refuse_declarations, unavailable
from greenworker.exporter import rabbitmq
from greenworker.exporter.broker import Queue
from greenworker.exporter.rabbitmq import RabbitBroker, RabbitLetters

HOME_IS_DOWN = (
    "NOT_FOUND - home node 'green39423@localhost' of durable queue 'lane2.prefork' in vhost '/' is down or inaccessible"
)
FOR_NOW = [
    (404, HOME_IS_DOWN, "queue 'lane2.prefork' in vhost '/'"),
    (404, "NOT_FOUND - queue 'feeds' in vhost '/' process is stopped by supervisor", "queue 'feeds' in vhost '/'"),
    (404, "NOT_FOUND - queue 'feeds' in vhost '/' has crashed and failed to restart", "queue 'feeds' in vhost '/'"),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'feeds' in vhost '/' due to timeout",
        "queue 'feeds' in vhost '/'",
    ),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'it's' in vhost 'a': its master replica <12054.1.0> may be "
        "stopping or being demoted",
        "queue 'it's' in vhost 'a'",
    ),
    (541, "INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down", "RabbitMQ"),
]
FOR_GOOD = [
    (404, "NOT_FOUND - no queue 'lane2.prefork' in vhost '/'"),
    (404, "NOT_FOUND - no exchange 'feeds' in vhost '/'"),
    (403, "ACCESS_REFUSED - access to queue 'feeds' in vhost '/' refused for user 'guest'"),
    (406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'feeds' in vhost '/': received 'false' but "
          "current is 'true'"),
    (406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms."),
    (530, "NOT_ALLOWED - vhost shop not found"),
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "value"), FOR_NOW)
def test_what_is_away_for_a_while_is_a_lost_connection_with_its_name(code: int, text: str, value: str) -> None:
    found = unavailable(code, text)
    assert isinstance(found, ConnectionResetError)
    assert found.errno is None
    assert str(found).startswith(f"broker={value!r}: ")
    assert text in str(found)
    assert "tried again" in str(found)


@pytest.mark.parametrize(("code", "text"), FOR_GOOD)
def test_what_time_does_not_change_stays_what_it_is(code: int, text: str) -> None:
    assert unavailable(code, text) is None


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirms, "UNAVAILABLE_SECONDS", 0.0)


class Wire:
    """A connection whose other side has just closed something; py-amqp's own code does the rest."""

    is_closing = False
    collected = False

    def collect(self) -> None:
        self.collected = True


CHANNELS = pytest.mark.parametrize("kind", [confirms.Channel, transport.Channel])


def closed(kind: Any, code: int, text: str, *, closing: bool = False) -> Wire:
    channel, wire = kind.__new__(kind), Wire()
    channel.connection, channel.is_closing = wire, closing
    channel.send_method = lambda *_: None
    channel._do_revive = lambda: None
    channel._on_close(code, text, *spec.Queue.Declare)
    return wire


@CHANNELS
def test_a_channel_that_is_closed_for_a_queue_whose_node_is_down_loses_its_connection(kind: Any) -> None:
    recoverable = Connection("amqp://").recoverable_connection_errors
    with pytest.raises(UnavailableError, match=r"lane2\.prefork") as raised:
        closed(kind, 404, HOME_IS_DOWN)
    assert isinstance(raised.value, recoverable), "kombu publishes again, and Celery connects again"


@CHANNELS
@pytest.mark.parametrize(("code", "error"), [(404, NotFound), (403, AccessRefused), (406, PreconditionFailed)])
def test_a_real_refusal_closes_its_channel_alone(kind: Any, code: int, error: type[Exception]) -> None:
    text = next(text for each, text in FOR_GOOD if each == code)
    with pytest.raises(error):
        closed(kind, code, text)


def test_who_closes_a_channel_is_not_disturbed() -> None:
    assert not closed(confirms.Channel, 404, HOME_IS_DOWN, closing=True).collected


@pytest.mark.parametrize("kind", [confirms.Connection, transport.Connection])
def test_an_error_inside_of_the_broker_is_a_lost_connection(kind: Any) -> None:
    connection = kind.__new__(kind)
    connection.send_method = lambda *_, **__: None
    with pytest.raises(UnavailableError, match="vhost '/' is down"):
        connection._on_close(*FOR_NOW[-1][:2], *spec.Connection.Open)
    with pytest.raises(Exception, match="vhost shop not found") as raised:
        connection._on_close(*FOR_GOOD[-2], *spec.Connection.Open)
    assert not isinstance(raised.value, OSError | InternalError)


def test_each_attempt_is_said_once_and_the_next_one_comes_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(declarations.time, "sleep", slept.append)
    monkeypatch.setattr(declarations, "AGAIN_SECONDS", 0.05)
    answers: list[Exception | None] = [unavailable(404, HOME_IS_DOWN), unavailable(404, HOME_IS_DOWN), None]

    def start(_: Any) -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    consumer = SimpleNamespace(blueprint=SimpleNamespace(start=start), runtime=SimpleNamespace())
    refuse_declarations(consumer)
    with caplog.at_level(logging.WARNING, "greenworker"):
        for attempt in (1, 2):
            with pytest.raises(UnavailableError):
                consumer.blueprint.start(None)
            assert bool(slept) == (attempt > 1), "the first attempt is made at once"
            said = [record.getMessage() for record in caplog.records]
            assert len(said) == attempt
            assert "broker=\"queue 'lane2.prefork' in vhost '/'\": " in said[-1]
        consumer.blueprint.start(None)
    assert "lane2.prefork" in consumer.runtime.hindrance
    assert consumer.runtime.last_beat, "its probe sees that it lives"
    assert len(caplog.records) == 2


class Broker:
    """Answers passive declarations: a depth, or the text of a 404."""

    def __init__(self, answers: dict[str, int | str]) -> None:
        self.answers = answers

    def channel(self) -> Broker:
        return self

    def close(self) -> None:
        pass

    def queue_declare(self, queue: str, *, passive: bool) -> Any:
        assert passive
        answer = self.answers[queue]
        if isinstance(answer, str):
            raise NotFound(answer, spec.Queue.Declare)
        return SimpleNamespace(message_count=answer, consumer_count=1)


def test_the_depth_of_a_queue_whose_node_is_down_is_not_known_and_not_none(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(rabbitmq, "say", said.append)
    wire = Broker({"here": 7, "away": HOME_IS_DOWN, "nowhere": FOR_GOOD[0][1]})
    broker = RabbitBroker.__new__(RabbitBroker)
    broker.connection = broker.channel = wire
    broker.plugin = broker._dead = None
    broker._unreached = set()
    queues = tuple(Queue(name) for name in wire.answers)
    for _ in range(2):
        found = broker.depths(queues)
        assert {name: depth.ready for name, depth in found.items()} == {"here": 7, "nowhere": 0}
    assert len(said) == 1
    assert said[0].startswith("the depth of away is not known: ")
    wire.answers["away"] = 3
    assert broker.depths(queues)["away"].ready == 3


def test_dead_letters_of_a_queue_whose_node_is_down_are_not_none() -> None:
    letters = RabbitLetters(Broker({}), Queue("feeds"))
    letters.connection = Broker({letters.name: HOME_IS_DOWN})
    with pytest.raises(UnavailableError, match="cannot reach it for now"):
        list(letters.each())
    letters.connection = Broker({letters.name: FOR_GOOD[0][1]})
    assert not list(letters.each())
