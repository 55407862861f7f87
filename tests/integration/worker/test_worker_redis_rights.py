"""Redis with an access list: the rights that docs/worker.md lists are enough, and one that is missing is said in four
parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.worker.harness import Redis, Worker, eventually

Start = Callable[..., Worker]

COMMANDS = "+@connection +@read +@write +@scripting +@transaction +@pubsub -@dangerous +time +info"
"""As documented."""


def rules(prefix: str) -> str:
    return (
        f"~{prefix}feeds* ~{prefix}_kombu.* ~{prefix}unacked* ~{prefix}greenworker.* ~{prefix}*.pidbox* &* {COMMANDS}"
    )


def user(server: Redis, rights: str) -> str:
    """The URL of a user who has these rights."""
    server.client().execute_command("ACL", "SETUSER", "shop", "reset", "on", ">secret", *rights.split())
    return server.url.replace("://", "://shop:secret@")


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_the_documented_rights_are_enough_for_tasks_and_remote_control(
    own_redis: Redis, start_worker: Start, client_app: Any, prefix: str
) -> None:
    tasks = client_app(own_redis.url, broker_transport_options={"global_keyprefix": prefix} if prefix else {})
    environment = {"GREENWORKER_KEY_PREFIX": prefix}
    victim = start_worker(user(own_redis, rules(prefix)), environment=environment).ready()
    for number in range(5):
        tasks.noop.apply_async((number,), priority=number)
    own_redis.client().lpush(f"{prefix}feeds", "no message")
    eventually(lambda: victim.journal.done() == 5, "all are done")
    eventually(lambda: own_redis.client().llen(f"{prefix}greenworker.dead.feeds") == 1, "and a dead letter is kept")
    assert tasks.remote_control_answers()
    assert not victim.gone(), victim.tail()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
@pytest.mark.parametrize(
    "rights_without",
    [
        (f"~feeds* ~_kombu.* ~unacked* &* {COMMANDS}", "key 'greenworker."),
        (f"~* &* {COMMANDS} -@scripting", "evalsha"),
        (f"~* &* {COMMANDS} -hsetnx", "hsetnx"),
        (f"~other* ~_kombu.* ~unacked* ~greenworker.* ~*.pidbox* &* {COMMANDS}", "key 'feeds"),
        (f"~feeds* ~_kombu.* ~unacked* ~greenworker.* &* {COMMANDS}", ".celery.pidbox'"),
        (f"~feeds* ~_kombu.* ~unacked* ~greenworker.* ~w1*.pidbox &* {COMMANDS}", ".reply.celery.pidbox'"),
        (f"~feeds* ~_kombu.* ~unacked* ~greenworker.* ~*.pidbox* {COMMANDS}", "channel '/0.celery.pidbox'"),
        (f"~* &* {COMMANDS} -psubscribe", "psubscribe"),
    ],
    ids=["keys", "scripts", "command", "queue", "mailbox", "answers", "channel", "subscribe"],
)
def test_a_missing_right_is_refused_before_a_message_is_taken(
    own_redis: Redis, start_worker: Start, client_app: Any, rights_without: tuple[str, str], pool: str
) -> None:
    rights, missing = rights_without
    client_app(own_redis.url).noop.delay(1)
    worker = start_worker(user(own_redis, rights), pool=pool)
    assert worker.wait(30) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert said["field"] == "broker.urlFrom"
    assert said["value"] == "user shop"
    assert "NOPERM" in said["reason"]
    assert missing in said["reason"]
    assert "ACL SETUSER" in said["fix"]
    assert own_redis.client().llen("feeds") == 1
