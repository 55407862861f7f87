"""Where the messages are when a run has ended: ready in a queue, held by a worker, a dead letter, or nowhere.

To be asked twice: while the workers live (what no queue shows is held by one of them), and when they have ended.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kombu import Connection

from tests.faults.fleet import Fleet
from tests.faults.history import Event, Sent
from tests.integration.worker.harness import RabbitMQ, Redis, Sentinel

IDENTITY = re.compile(rb'"(t\d+)"')
"""A task's own comes first in its message, those of the rest of its chain and of its chord's body after it."""

SHOWN = (
    "greenworker_threads_busy",
    "greenworker_threads_limit",
    "greenworker_tasks_reserved",
    "greenworker_tasks_scheduled",
    "greenworker_hub_busy_seconds_total",
)


def depths(server: Redis | Sentinel | RabbitMQ) -> dict[str, tuple[int, int]]:
    """Messages of each queue that has some: ready ones, and those that workers hold."""
    if not isinstance(server, RabbitMQ):
        client = server.client()
        lists = [name for name in client.scan_iter("*", 1000, "list") if not name.startswith("greenworker.")]
        found = {name: (int(client.llen(name)), 0) for name in lists}
        held = int(client.hlen("unacked"))
        return {**found, **({"unacked": (0, held)} if held else {})}
    lines = _control(server, "list_queues", "name", "messages_ready", "messages_unacknowledged")
    rows = [(str(row["name"]), int(row["messages_ready"]), int(row["messages_unacknowledged"])) for row in lines]
    return {name: (ready, held) for name, ready, held in rows if ready or held}


def messages(server: Redis | Sentinel | RabbitMQ) -> dict[str, list[str]]:
    """Identity of a task → the queues with a message of it. RabbitMQ's ready messages are taken out: call it at the
    end.
    """
    found: dict[str, list[str]] = defaultdict(list)
    if not isinstance(server, RabbitMQ):
        client = server.client()
        for name in client.scan_iter("*", 1000, "list"):
            for each in client.lrange(name, 0, -1):
                _note(found, _body_on_redis(str(each)), name)
        for each in client.hvals("unacked"):
            _note(found, _body_on_redis(str(each)), "unacked")
        return found
    with Connection(server.url) as connection:
        for name in [str(row["name"]) for row in _control(server, "list_queues", "name")]:
            channel = connection.channel()
            # A worker has queues of its own for remote control, and they end with it.
            with suppress(connection.channel_errors):
                while (message := channel.basic_get(name, no_ack=True)) is not None:
                    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
                    _note(found, body, name)
    return found


def state(fleet: Fleet) -> list[str]:
    """One line for each worker: its health, and what it says that it does."""
    lines = []
    for member in [*fleet.members, fleet.companion]:
        worker = member.worker
        numbers = " ".join(f"{name.removeprefix('greenworker_')}={worker.metric(name):g}" for name in SHOWN)
        lines.append(
            f"{worker.name}: /readyz {worker.status('/readyz')}, /healthz {worker.status('/healthz')}, {numbers}"
        )
    return lines


def tell(
    lost: Iterable[str],
    sent: Sequence[Sent],
    events: Sequence[Event],
    alive: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
) -> list[str]:
    """One line for each lost task. *alive* and *after*: `messages` before and after the workers' end."""
    start = min(one.at for one in sent)
    by_identity = {one.identity: one for one in sent}
    begun = defaultdict(list)
    for event in events:
        begun[event.identity].append(f"{event.what} at {event.at - start:.1f} by {event.worker}")
    lines = []
    for identity in lost:
        one = by_identity[identity]
        where = [f"ready in {name}" for name in alive.get(identity, ())]
        where += [f"held by a worker that consumes {name}" for name in after.get(identity, ())]
        lines.append(
            f"{identity} {one.kind}, sent at {one.at - start:.1f}, {', '.join(begun[identity]) or 'never begun'}; "
            f"its message: {', '.join(where) or 'nowhere'}"
        )
    return lines


def _note(found: dict[str, list[str]], body: bytes, where: str) -> None:
    for position, identity in enumerate(dict.fromkeys(IDENTITY.findall(body))):
        found[identity.decode()].append(where if not position else f"{where} (in another task's message)")


def _body_on_redis(text: str) -> bytes:
    with suppress(ValueError, KeyError, TypeError, IndexError):
        found = json.loads(text)
        found = found[0] if isinstance(found, list) else found
        return b64decode(found.get("payload") or found["body"])
    return text.encode()


def _control(server: RabbitMQ, *command: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--formatter", "json", "--quiet", *command],
        env=server.environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return list(json.loads(done.stdout))
