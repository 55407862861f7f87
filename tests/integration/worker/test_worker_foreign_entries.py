"""What others have written where a worker or the command for dead letters reads is named, and hides nothing else."""

# mypy: disable-error-code="no-untyped-call,type-arg"

from __future__ import annotations

import json
from contextlib import closing
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection

from greenworker.brokers.amqp.attempts import SURVIVED, AmqpAttempts
from greenworker.brokers.amqp.republish import Copy, Republisher
from greenworker.brokers.dead_letters import WORKER_LOST, DeadLetter, key, rabbit_queue
from greenworker.exporter.broker import Letters, Queue
from greenworker.exporter.connect import connect
from greenworker.tls import Trust
from tests.integration.worker.harness import Redis
from tests.integration.worker.lanes import RabbitLane
from tests.integration.worker.redis_consumer import Consumer

OURS = DeadLetter("feeds", "tasks.parse", "id-1", WORKER_LOST, 1_700_000_000.0, 3, b'{"body": ""}')

FOREIGN = {
    "no-json": b"what is this",
    "not-utf-8": b"\xff\xfe",
    "too-deep": b"[" * 100_000 + b"]" * 100_000,
    "number": b"7",
    "list": b"[]",
    "another-shape": b'{"queue": "feeds"}',
    "no-base64": OURS.to_json().replace("eyJib2R5IjogIiJ9", "a").encode(),
    "no-clock": OURS.to_json().replace("1700000000.0", "NaN").encode(),
    "no-count": OURS.to_json().replace('"deliveries": 3', '"deliveries": 1e999').encode(),
}
"""Entries of a list of dead letters on Redis."""


def letters_of(url: str, queue: str) -> Any:
    """The broker whose dead letters the command reads, and those of *queue*."""
    broker = connect(url, Trust())
    letters: Letters = broker.dead_letters(Queue(queue))
    return closing(broker), letters


@pytest.mark.parametrize("entry", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_entry_among_the_dead_letters_on_redis_is_listed_by_a_name_and_only_dropped(
    redis_broker: Redis, entry: bytes
) -> None:
    client = redis.Redis(port=redis_broker.port)
    client.rpush(key("", "feeds"), OURS.to_json(), entry)
    broker, letters = letters_of(redis_broker.url, "feeds")
    with broker:
        ours, foreign = letters.each()
        assert ours == OURS
        assert (foreign.queue, foreign.payload) == ("feeds", entry)
        assert foreign.reason.startswith("foreign: ")
        json.dumps(foreign.shown(), allow_nan=False)
        assert letters.take("", requeue=True) == [OURS], "nobody can run it"
        assert client.lrange(key("", "feeds"), 0, -1) == [entry]
        with pytest.raises(ValueError, match="drop"):
            letters.take(foreign.id, requeue=True)
        assert letters.take(foreign.id, requeue=False) == [foreign]
    assert not client.exists(key("", "feeds"))


def without_a_type(lane: RabbitLane, queue: str, body: bytes) -> None:
    """As a person publishes from RabbitMQ's own page: no content type, no headers."""
    with Connection(lane.url) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False)
        channel.basic_publish(channel.prepare_message(body), exchange="", routing_key=queue)


def bodies(lane: RabbitLane, queue: str) -> list[Any]:
    with Connection(lane.url) as connection:
        channel = connection.channel()
        found = []
        while (message := channel.basic_get(queue)) is not None:
            found.append(message.body)
        return found


def test_a_foreign_message_among_the_dead_letters_on_rabbitmq_stays_as_it_is(rabbit_lane: RabbitLane) -> None:
    name = rabbit_queue(rabbit_lane.queue)
    without_a_type(rabbit_lane, name, b"what is this")
    broker, letters = letters_of(rabbit_lane.url, rabbit_lane.queue)
    with broker:
        [foreign] = letters.each()
        assert (foreign.queue, foreign.payload) == (rabbit_lane.queue, b"what is this")
        assert bodies(rabbit_lane, name) == [b"what is this"]


def test_a_message_without_a_content_type_is_published_again_as_it_is(rabbit_lane: RabbitLane) -> None:
    name = f"{rabbit_lane.queue}.foreign"
    without_a_type(rabbit_lane, name, b"what is this")
    republisher = Republisher(Celery(broker=rabbit_lane.url))
    with Connection(rabbit_lane.url) as connection:
        channel = connection.channel()
        message = channel.message_to_python(channel.basic_get(name, no_ack=True))
    assert republisher.publish([Copy(message, name)], 10) == {0}
    republisher.close()
    assert bodies(rabbit_lane, name) == [b"what is this"]


def test_a_foreign_note_of_a_lost_connection_hides_no_other(rabbit_lane: RabbitLane) -> None:
    def lost(*identities: str) -> None:
        attempts.connection_lost(
            SimpleNamespace(headers={"id": identity}, properties={}, acknowledged=False) for identity in identities
        )
        attempts.survived()

    attempts = AmqpAttempts(
        Celery(broker=rabbit_lane.url), lambda _: rabbit_lane.queue, lambda: (), lambda _, what: what()
    )
    lost("one", "two")
    for note in (b"what is this", b"7", b"[[]]", b'{"one": 1}'):
        with Connection(rabbit_lane.url) as connection:
            channel = connection.channel()
            channel.basic_publish(
                channel.prepare_message(note), exchange="", routing_key=f"{rabbit_lane.queue}.{SURVIVED}"
            )
    lost("two")
    assert attempts._survivals_of(rabbit_lane.queue) == {"one": 1, "two": 2}


def test_what_a_foreign_name_among_the_workers_holds_keeps_nobody_from_the_messages_of_the_dead(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that Redis names first has a key of another type, the second an entry of another shape, the third a name
    that is no UTF-8. None stays in the list of workers, each is said once, and somebody's key stays.
    """
    client, long_ago = consumer.redis, time() - 1000
    foreign = {"a-foreign-key": long_ago, "b-foreign-entry": long_ago, b"b-\xff\xfe": long_ago}
    client.zadd("greenworker.workers", {**foreign, "c-dead": long_ago})
    client.set("greenworker.held.a-foreign-key", "x")
    client.hset("greenworker.held.b-foreign-entry", "tag-b", "what is this")
    client.hset(b"greenworker.held.b-\xff\xfe", b"tag-\xff", b"2:mails")
    client.hset("greenworker.held.c-dead", mapping={"tag-c": b"2:feeds", b"tag-\xfe": b"\xfe"})
    booked = {"tag-b": '[{}, "", "feeds"]', b"tag-\xff": '[{}, "", "mails"]', "tag-c": '[{}, "", "feeds"]'}
    client.hset("unacked", mapping=booked)
    consumer.channel.store.heartbeat.connected_at = -1000.0
    for _ in range(3):
        consumer.channel.store.recovery.recover_dead_workers()
    assert (client.lrange("feeds", 0, -1), client.lrange("mails", 0, -1)) == ([b"{}"], [b"{}"])
    assert client.hkeys("unacked") == [b"tag-b"], "it comes back when its visibility time-out ends"
    assert client.zrange("greenworker.workers", 0, -1) == [consumer.store.worker.encode()]
    assert client.keys("greenworker.held.*") == [b"greenworker.held.a-foreign-key"]
    for name in ("a-foreign-key", "b-foreign-entry"):
        assert sum(name in record.getMessage() for record in caplog.records) == 1
    client.delete("greenworker.held.a-foreign-key")


def test_a_foreign_entry_among_the_messages_of_a_living_worker_is_taken_out_and_said_once(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    assert consumer.store.keys is not None
    consumer.redis.hset(consumer.store.keys.held, mapping={"tag": "what is this", b"\xff": b"\xfe"})
    for _ in range(6):
        consumer.store.recovery.recover_lost_deliveries()
    assert not consumer.redis.exists(consumer.store.keys.held)
    assert [record.getMessage().split(" out of")[0] for record in caplog.records] == [
        "Took 2 entries that no worker has written"
    ]


@pytest.mark.parametrize("by", ["move", "give_back", "recovery"])
def test_a_message_whose_list_is_somebody_elses_key_stays_booked_and_holds_up_no_other_one(
    consumer: Consumer, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has a key of another type where the message is to go. It goes there when that key is gone, and until
    then that is said once.
    """
    client, store = consumer.redis, consumer.store
    assert store.keys is not None
    for name in ("feeds", "mails"):
        client.rpush(name, json.dumps({"headers": {"id": name, "task": "t"}, "properties": {}, "body": ""}))
    (_, tag, payload), (_, other, _) = store.fetch(["feeds", "mails"], ["feeds", "mails"], 2, 10)
    held = client.hgetall(store.keys.held)
    client.set("feeds", "mine")
    client.set("elsewhere", "mine")
    if by == "move":
        assert not store.move(tag, "elsewhere", payload.decode())
        store.give_back([other], started=False)
    elif by == "give_back":
        store.give_back([tag, other], started=False)
    else:
        for _ in range(3):
            store.recovery.return_lost(store.keys.held, held, died=True)
        assert sum("stay booked" in record.getMessage() for record in caplog.records) == 1
    assert client.llen("mails") == 1
    assert (client.hlen("unacked"), client.zcard("unacked_index")) == (1, 1)
    assert client.hgetall(store.keys.held) == {tag.encode(): held[tag.encode()]}
    client.delete("feeds")
    store.held.clear()
    for _ in range(2):  # what nobody knows goes back when it was seen twice
        store.recovery.recover_lost_deliveries()
    assert client.llen("feeds") == 1
    assert consumer.booked() == 0
