"""Whatever stands in a queue is run, refused as Celery refuses it, or kept among the dead letters: never dropped, and
no worker ends with it.
"""

# mypy: disable-error-code="no-untyped-call,type-arg"

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection

from greenworker.brokers.dead_letters import rabbit_queue
from greenworker.brokers.redis.payloads import redelivered
from tests.integration.worker.harness import Redis, Worker, eventually
from tests.integration.worker.lanes import Lane, publish
from tests.integration.worker.redis_consumer import Consumer

Start = Callable[..., Worker]

DEAD = "greenworker.dead.feeds"


def body_of(*arguments: Any) -> str:
    """The body of a message for a task with these arguments."""
    return base64.b64encode(json.dumps([arguments, {}, {"callbacks": None}]).encode()).decode()


def message(number: int | str = 0, **changes: Any) -> dict[str, Any]:
    """A message of protocol 2, as Celery 5 writes it, for the task that notes *number*."""
    headers = {
        "lang": "py", "task": "green_app.noop", "id": f"id-{number}", "root_id": None, "parent_id": None, "group": None,
        "argsrepr": f"({number},)", "kwargsrepr": "{}", "retries": 0, "eta": None, "expires": None,
        "timelimit": [None, None], "origin": "producer", "shadow": None, "ignore_result": True,
    }  # fmt: skip
    properties = {
        "correlation_id": f"id-{number}", "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "feeds"}, "delivery_tag": f"tag-{number}",
    }  # fmt: skip
    whole = {
        "body": body_of(number), "content-encoding": "utf-8", "content-type": "application/json", "headers": headers,
        "properties": properties,
    }  # fmt: skip
    for path, value in changes.items():
        target, *names = path.split("__")
        if names:
            whole[target][names[0]] = value
        else:
            whole[target.replace("_", "-") if target.startswith("content") else target] = value
    return whole


def nested(levels: int) -> Any:
    deep: Any = 1
    for _ in range(levels):
        deep = [deep]
    return deep


RUNNABLE: dict[str, bytes] = {
    # what Lua's cjson refuses or changes
    "half-emoji": json.dumps(message("half-emoji", headers__title="big news \ud83d")).encode(),
    "deep": json.dumps(message("deep", headers__deep=nested(900))).encode(),
    "huge-number": json.dumps(message("huge-number", headers__count=10**400)).encode(),
    "not-a-number": json.dumps(
        message("not-a-number", headers__score=float("nan"), headers__top=float("inf"))
    ).encode(),
    "nul": json.dumps(message("nul", headers__title="a\x00b", headers__empty="")).encode(),
    "not-ascii": json.dumps(message("not-ascii", headers__title="é😀"), ensure_ascii=False).encode(),
    "spaces": b" \n" + json.dumps(message("spaces"), indent=2).encode() + b"\n",
    # what other producers leave out
    "no-tag": json.dumps(message("no-tag", properties={"body_encoding": "base64"})).encode(),
    "number-tag": json.dumps(message("number-tag", properties__delivery_tag=7)).encode(),
    "no-delivery-info": json.dumps(message("no-delivery-info", properties__delivery_info=None)).encode(),
    "protocol-1": json.dumps(
        message(
            "protocol-1", headers={}, properties__body_encoding="base64",
            body=base64.b64encode(json.dumps({
                "task": "green_app.noop", "id": "id-p1", "args": ["protocol-1"], "kwargs": {}, "retries": 0,
                "eta": None,
            }).encode()).decode(),
        )
    ).encode(),
}  # fmt: skip
"""Each is a task that Celery runs."""

KEPT: dict[str, bytes] = {
    "nothing": b"",
    "no-json": b"no json at all",
    "not-utf-8": b'{"body": "\xff\xfe"}',
    "too-deep": b"[" * 100_000 + b"]" * 100_000,
    "number": b"7",
    "list": b"[]",
    "no-properties": json.dumps({"body": "", "headers": {}}).encode(),
    "properties-null": json.dumps(message(1, properties=None)).encode(),
    "headers-list": json.dumps(message(2, headers=["task"])).encode(),
    "task-list": json.dumps(message(3, headers__task=["green_app.noop"])).encode(),
    "body-no-base64": json.dumps(message(4, body="é")).encode(),
    "body-number": json.dumps(message(5, body=17)).encode(),
    "number-too-long": json.dumps(message(6)).replace('"retries": 0', '"retries": ' + "7" * 5000).encode(),
    "limit-text": json.dumps(message(7, headers__timelimit="soon")).encode(),
    "no-id": json.dumps(message(8, headers={"task": "green_app.noop"})).encode(),
    "type-hook": json.dumps(message(9, headers__when={"__type__": "datetime", "__value__": "yesterday"})).encode(),
}
"""Nobody can run these, stock Celery neither: it loses them, and most of them end it."""

REFUSED: dict[str, bytes] = {
    "unknown-task": json.dumps(message(20, headers__task="green_app.who")).encode(),
    "eta-text": json.dumps(message(21, headers__eta="soon")).encode(),
    "pickle": json.dumps(message(22, content_type="application/x-python-serialize", headers={})).encode(),
    "no-task": json.dumps(message(23, headers={}, body=base64.b64encode(b"{}").decode())).encode(),
}
"""Celery logs these and rejects them, as stock Celery does."""


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_odd_messages_are_run_or_kept_and_no_worker_ends(redis_broker: Redis, start_worker: Start, pool: str) -> None:
    client = redis.Redis(port=redis_broker.port)
    more = ["-c", "1"] if pool == "prefork" else []
    worker = start_worker(redis_broker.url, pool=pool, arguments=more).ready()
    runnable, kept = dict(RUNNABLE), dict(KEPT)
    if pool == "prefork" and sys.version_info < (3, 13):
        kept = {"deep": runnable.pop("deep"), **kept}  # older Pythons pickle no 900 levels: so a child gets its task
    for payload in (*RUNNABLE.values(), *KEPT.values(), *REFUSED.values()):
        client.lpush("feeds", payload)
    client.lpush("feeds", json.dumps(message("last")).encode())
    eventually(lambda: worker.journal.done() >= len(runnable) + 1 or worker.gone(), "all run", more=worker.tail)
    assert not worker.gone(), worker.tail()
    assert worker.journal.counts("done") == dict.fromkeys([*runnable, "last"], 1)
    eventually(lambda: client.hlen("unacked") == 0, "everything is settled", 10)
    letters = [json.loads(text) for text in client.lrange(DEAD, 0, -1)]
    assert [base64.b64decode(letter["payload"]) for letter in letters] == list(kept.values()), "in their order"
    for letter in letters:
        assert letter["queue"] == "feeds"
        assert letter["reason"].split(":")[0] in ("undecodable", "refused")
        assert letter["at"] > 1e9
        assert letter["deliveries"] == 1
    worker.reaches("greenworker_dead_letters_total", len(kept), queue="feeds")
    assert client.llen("feeds") == client.zcard("unacked_index") == 0


REFUSED_ON_RABBITMQ: dict[str, tuple[dict[str, Any], bytes]] = {
    "no-id": ({"task": "green_app.noop"}, b"[[0], {}, {}]"),
    "task-list": ({"task": ["green_app.noop"], "id": "task-list"}, b"[[1], {}, {}]"),
    "limit-text": ({"task": "green_app.noop", "id": "limit-text", "timelimit": "soon"}, b"[[2], {}, {}]"),
    "two-parts": ({"task": "green_app.noop", "id": "two-parts"}, b"[[3], {}]"),
    "no-arguments": ({"task": "green_app.noop", "id": "no-arguments"}, b"7"),
}
"""Headers and body: Celery raises as it takes them, and stock Celery ends with each."""


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_what_celery_cannot_take_from_rabbitmq_is_a_dead_letter_and_no_worker_ends(
    rabbit_lane: Lane, start_worker: Start, pool: str
) -> None:
    more = ["-c", "1"] if pool == "prefork" else []
    worker = start_worker(
        rabbit_lane.url, pool=pool, queues=rabbit_lane.queue, environment=rabbit_lane.environment(), arguments=more
    ).ready()
    with Connection(rabbit_lane.url) as connection:
        producer = connection.Producer(auto_declare=False)
        for headers, body in REFUSED_ON_RABBITMQ.values():
            producer.publish(
                body, exchange="", routing_key=rabbit_lane.queue, headers=headers,
                content_type="application/json", content_encoding="utf-8",
            )  # fmt: skip
    publish(rabbit_lane, "noop", 10, 15)
    eventually(lambda: worker.journal.done() >= 5 or worker.gone(), "the others are done", 60, more=worker.tail)
    eventually(
        lambda: rabbit_lane.ready(rabbit_queue(rabbit_lane.queue)) >= len(REFUSED_ON_RABBITMQ) or worker.gone(),
        "all that cannot be taken are dead letters", 60, more=worker.tail,
    )  # fmt: skip
    assert not worker.gone(), worker.tail()
    assert all(count == 1 for count in worker.journal.counts("done").values())
    worker.reaches("greenworker_dead_letters_total", len(REFUSED_ON_RABBITMQ), queue=rabbit_lane.queue)
    assert rabbit_lane.ready() == 0
    publish(rabbit_lane, "noop", 20, 22)
    eventually(lambda: worker.journal.done() >= 7, "it goes on", 30, more=worker.tail)


texts = st.text(st.characters(codec=None), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "body": values | st.just(message()["body"]),
        "headers": values | st.dictionaries(texts | st.sampled_from(["task", "id", "compression"]), values, max_size=4),
        "properties": values
        | st.dictionaries(
            st.sampled_from(["delivery_tag", "delivery_info", "body_encoding", "priority"]), values, max_size=4
        )
        | st.just(message()["properties"]),
        "content-type": values,
        "content-encoding": values,
    },
)
payloads = (parts | values).flatmap(
    lambda value: st.booleans().map(lambda ascii_: json.dumps(value, ensure_ascii=ascii_).encode(errors="replace"))
) | st.binary(max_size=20)


@settings(max_examples=150)
@given(written=st.lists(payloads, min_size=1, max_size=8), fails=st.booleans())
def test_whatever_is_fetched_is_delivered_as_it_was_or_kept_as_it_was(
    consumer: Consumer, written: list[bytes], fails: bool
) -> None:
    """Here, *fails*: whoever takes it raises. Bookings can be read by kombu where the message can be."""
    consumer.redis.delete("feeds", DEAD)
    seen: list[bytes] = []

    def take(message: Any) -> None:
        held = consumer.store.held[message.delivery_tag].payload
        booked = json.loads(consumer.redis.hget("unacked", message.delivery_tag) or b"")
        assert len(booked) == 3
        assert booked[1:] == ["", "feeds"]
        if fails:
            raise ValueError("refused")
        seen.append(held)
        message.ack()

    consumer.take = take
    for payload in written:
        consumer.redis.lpush("feeds", payload)
    while consumer.redis.llen("feeds"):
        assert consumer.channel.fetch()
    consumer.store.flush()
    dead = [base64.b64decode(json.loads(text)["payload"]) for text in consumer.redis.lrange(DEAD, 0, -1)]
    assert sorted(seen + dead) == sorted(written)
    assert not (fails and seen)
    assert consumer.booked() == len(consumer.store.held) == consumer.channel.room() - 10 == 0


@given(payload=payloads)
def test_marking_a_message_as_redelivered_changes_nothing_else(payload: bytes) -> None:
    marked = redelivered(payload)
    try:
        before, after = json.loads(payload), json.loads(marked)
    except (ValueError, RecursionError):
        assert marked == payload
        return
    if isinstance(before, dict):
        for each in (before, after):
            properties = each.get("properties")
            info = properties.get("delivery_info") if isinstance(properties, dict) else None
            for part in (each.get("headers"), info):
                if isinstance(part, dict):
                    part.pop("redelivered", None)
    assert json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def test_a_return_whose_answer_is_lost_takes_no_later_delivery_with_it(consumer: Consumer) -> None:
    running: list[Any] = []
    consumer.take = running.append
    consumer.redis.lpush("feeds", json.dumps(message()).encode())
    assert consumer.channel.fetch() == 1
    assert consumer.store.give_back(list(consumer.store.held), started=False) == 1  # Redis knows the script now
    assert consumer.channel.fetch() == 1
    consumer.relay.deaf = True
    with pytest.raises(redis.TimeoutError):
        consumer.store.give_back(list(consumer.store.held), started=False)
    consumer.relay.deaf = False
    assert consumer.redis.llen("feeds") == 1, "it was given back, and the answer was lost"
    assert consumer.channel.fetch() == 1, "and fetched anew: it runs"
    consumer.store.flush()
    assert consumer.redis.llen("feeds") == 0, "what runs is nobody else's"
    assert consumer.booked() == 1
    assert len(consumer.store.held) == 1
    running[-1].ack()
    consumer.store.flush()
    assert consumer.booked() == len(consumer.store.held) == 0
    assert consumer.channel.room() == 10


def test_who_leaves_gives_back_what_a_lost_answer_brought(consumer: Consumer) -> None:
    """A worker that drained within ten seconds of a lost answer left the list of workers, so that nobody looked for
    what was booked under its name: it came back an hour later.
    """
    consumer.redis.lpush("feeds", json.dumps(message()).encode())
    assert consumer.channel.fetch() == 1  # Redis knows the script now
    consumer.redis.lpush("feeds", json.dumps(message()).encode())
    consumer.relay.deaf = True
    with pytest.raises(redis.TimeoutError):
        consumer.channel.fetch()
    consumer.relay.deaf = False
    assert (consumer.booked(), len(consumer.store.held)) == (2, 1)
    workers, name = consumer.store.keys.workers, consumer.store.worker
    consumer.store.heartbeat.send(renew=False)
    consumer.store.close()
    assert consumer.redis.llen("feeds") == 1, "what nobody here knows is back"
    assert consumer.redis.zscore(workers, name) is not None, "the others find what was taken and not settled"
    consumer.store.ack(next(iter(consumer.store.held)))
    consumer.store.close()
    assert (consumer.booked(), consumer.redis.zscore(workers, name)) == (0, None)


def test_what_a_late_answer_brings_is_not_given_back_meanwhile(consumer: Consumer) -> None:
    """A delivery that nobody here knows is given back, because its answer may be lost. An answer that is awaited is not
    lost yet.
    """
    taken: list[Any] = []
    consumer.take = taken.append
    consumer.redis.lpush("feeds", json.dumps(message()).encode())
    consumer.relay.delay()
    with ThreadPoolExecutor(1) as executor:
        fetched = executor.submit(consumer.channel.fetch)
        eventually(
            lambda: consumer.booked() == 1 and consumer.relay.waiting, "it is booked, and the answer is on its way"
        )
        for _ in range(3):
            consumer.store.recovery.recover_lost_deliveries()
        consumer.relay.answers.set()
        assert fetched.result(10) == 1
    assert len(taken) == 1
    assert consumer.redis.llen("feeds") == 0, "what runs here is nobody else's"
    assert consumer.booked() == 1


def test_stock_kombu_can_restore_what_we_have_booked(consumer: Consumer) -> None:
    payload = message("half-emoji", headers__title="big news \ud83d", properties__priority=9)
    consumer.redis.lpush("feeds\x06\x163", json.dumps(payload).encode())
    assert consumer.channel.fetch() == 1
    tag = next(iter(consumer.store.held))
    with Connection(f"redis://127.0.0.1:{consumer.relay.port}/0") as stock:
        stock.default_channel.qos.restore_by_tag(tag)
    assert consumer.booked() == 0
    # kombu before 5.4 forgets the priority.
    restored = json.loads(consumer.redis.rpop("feeds\x06\x169") or consumer.redis.rpop("feeds") or b"")
    assert restored["body"] == payload["body"]
    assert restored["headers"] == {**payload["headers"], "redelivered": True}
