"""A lost connection on RabbitMQ: what it counts as, and how often a message is published because of it."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from time import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu import Connection

from greenworker.brokers.amqp import attempts
from greenworker.brokers.amqp.attempts import AmqpAttempts
from greenworker.brokers.suspicion import NONE, Suspicion
from greenworker.prefork.consumer import without_reconnect
from tests.integration.worker.harness import RabbitMQ, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane

Start = Callable[..., Worker]


@contextmanager
def relayed(lane: Lane) -> Iterator[tuple[Relay, str]]:
    port = urlsplit(lane.url).port
    assert port is not None
    relay = Relay(port)
    yield relay, lane.url.replace(f":{port}", f":{relay.port}")
    relay.close()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_task_that_outlives_two_lost_connections_is_no_suspect(
    rabbit_lane: Lane, start_worker: Start, pool: str
) -> None:
    tasks = rabbit_lane.producer()
    with relayed(rabbit_lane) as (relay, url):
        worker = start_worker(
            url, queues=rabbit_lane.queue, pool=pool, threads=10, environment=rabbit_lane.environment(),
            arguments=["-c", "4"] if pool == "prefork" else [],
        ).ready()  # fmt: skip
        tasks.sleep.delay(1, 60)
        for starts in (1, 2, 3):
            # A suspect would wait until those that run have ended.
            eventually(
                lambda expected=starts: worker.journal.counts("start")["1"] == expected, f"started {starts} times"
            )
            if starts < 3:
                relay.cut()
        tasks.noop.delay(2)
        eventually(lambda: worker.journal.counts("done")["2"] == 1, "others run beside it")


class Taken:
    """A record, and one message of its queue that was delivered before."""

    def __init__(self, lane: Lane, url: str) -> None:
        self.lane = lane
        self.app = Celery(broker=url, set_as_current=False)
        self.record = AmqpAttempts(self.app, lambda _: lane.queue, lambda: (OSError,), lambda _, what: what())
        self.connection = Connection(lane.url)

    def message(self) -> Any:
        producer = self.lane.producer()
        producer.noop.delay(1)
        messages: list[Any] = []
        consumer = self.connection.Consumer(
            [producer.queue], callbacks=[lambda _, message: messages.append(message)], prefetch_count=1
        )
        with consumer:
            while not messages:
                self.connection.drain_events(timeout=10)
        return messages[0]


@pytest.fixture
def taken(rabbit_server: RabbitMQ) -> Iterator[tuple[Taken, Relay]]:
    lane = RabbitLane(rabbit_server, "quorum")
    with relayed(lane) as (relay, url):
        found = Taken(lane, url)
        yield found, relay
        relay.answers.set()
        found.connection.collect()
        found.record._close()
        found.app.close()


def test_a_copy_whose_confirmation_is_late_is_published_once(
    taken: tuple[Taken, Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, relay = taken
    monkeypatch.setattr(attempts, "ANSWER_SECONDS", 2.0)
    assert one.record.send_back(one.message(), NONE.after_death(time()))
    message = one.message()  # the first one's copy
    relay.delay()
    assert not one.record.send_back(message, NONE.after_death(time())), "nobody knows whether the broker has it"
    one.connection.collect()  # it goes back
    eventually(lambda: one.lane.ready() == 3, "it, at most one copy of it, and the second message", 5)


def test_a_copy_finds_its_way_when_the_connection_was_closed_meanwhile(
    taken: tuple[Taken, Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, relay = taken
    monkeypatch.setattr(attempts, "IDLE_SECONDS", 0.0)
    message = one.message()
    one.record._using(lambda channel: channel.basic_qos(0, 1, False))
    relay.cut()
    assert one.record.send_back(message, NONE.after_death(time()))
    eventually(lambda: one.lane.ready() == 1, "the copy, and nothing else", 5)


def test_a_copied_message_whose_connection_is_gone_ends_no_consumer(taken: tuple[Taken, Relay]) -> None:
    one, _ = taken
    message = one.message()
    one.connection.collect()
    assert one.record.send_back(message, NONE.after_death(time()))
    eventually(lambda: one.lane.ready() == 2, "the copy, and the original again: doubled, not lost", 5)


def test_lost_connections_are_taken_back_once_each_and_real_deaths_are_not(taken: tuple[Taken, Relay]) -> None:
    one, _ = taken
    message, now = one.message(), time()
    for _ in range(2):
        one.record.connection_lost([message])
        one.record.survived()
    suspect = Suspicion(3, 0, int(now))
    known = one.record._without_survivals(message, suspect)
    assert known == Suspicion(1, 0, int(now), 2)
    assert one.record._without_survivals(message, known.after_death(now)) == Suspicion(2, 0, int(now), 2)
    assert one.record.so_far(message, suspect) == known, "asked once more before it would run apart"


def test_two_readers_at_once_both_read_all(taken: tuple[Taken, Relay]) -> None:
    one, _ = taken
    message = one.message()
    one.record.connection_lost([message])
    one.record.survived()
    name = one.record._declare_survived(one.lane.queue)
    with Connection(one.lane.url) as other:
        channel = other.channel()
        tag = channel.basic_consume(name, exclusive=True, callback=lambda _: None)
        pauses: list[float] = []

        def end_the_other(seconds: float) -> None:
            pauses.append(seconds)
            channel.basic_cancel(tag)
            channel.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attempts, "sleep", end_the_other)
            found = one.record._survivals_of(one.lane.queue)
    assert pauses, "it has waited for the other reader"
    assert found == {message.headers["id"]: 1}


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_worker_whose_connection_is_closed_as_its_loop_begins_consumes_again(
    rabbit_server: RabbitMQ, start_worker: Start, pool: str
) -> None:
    lane = RabbitLane(rabbit_server, "quorum")
    worker = start_worker(
        lane.url, queues=lane.queue, pool=pool, environment={**lane.environment(), "CLOSED_AS_THE_LOOP_BEGINS": "1"},
        arguments=["-c", "2"] if pool == "prefork" else [],
    )  # fmt: skip
    eventually(lambda: "Connection to broker lost" in worker.log.read_text(), "it has noticed", 60)
    lane.producer().noop.delay(1)
    eventually(lambda: worker.journal.counts("done")["1"] == 1, "it consumes again", 60)


def test_a_companions_lost_connection_is_never_replaced_without_a_word(rabbit_server: RabbitMQ) -> None:
    connection = without_reconnect(Connection(rabbit_server.url).ensure_connection())
    try:
        lost = connection.default_channel.connection
        closing = Thread(target=rabbit_server.close_connections)
        closing.start()
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=180)
        closing.join()
        uses: list[Callable[[], object]] = [
            lambda: connection.drain_events(timeout=1),
            connection.heartbeat_check,
            connection.channel,
            connection.connect,
            lambda: connection.default_channel,
        ]
        for use in uses:
            with pytest.raises(ConnectionResetError):
                use()
        assert connection._connection is lost
    finally:
        connection.collect()
