"""The load: the same messages at the same times into the queue of every fleet.

A message is built by Celery once and then copied with another id: publishing must not cost the CPU that is measured.
"""

from __future__ import annotations

import base64
import json
import math
import random
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from celery import Celery

from greenfleet.simulator.traces import Trace, arrivals

QUEUE, TASK = "work", "bench.work"
_SCRATCH = "bench.template"
_BEAT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a trace, the same for every autoscaler."""

    number: int
    at: float
    """Seconds from the trace's beginning."""
    factor: float
    """Its I/O relative to the trace's run time."""
    luck: float
    """Uniform in [0, 1): below the trace's fraction of blocking tasks, it blocks."""


def messages(trace: Trace, seed: int) -> list[Message]:
    """The trace's arrivals with what chance decides about each task."""
    chance = random.Random(f"{trace.name}/{seed}/tasks")
    sigma2 = math.log(1 + trace.runtime_spread**2)
    sigma, shift = math.sqrt(sigma2), -sigma2 / 2
    return [
        Message(number, at, math.exp(chance.gauss(shift, sigma)) if sigma else 1.0, chance.random())
        for number, at in enumerate(arrivals(trace, seed))
    ]


class Template:
    """A message as kombu writes it into Redis, to be filled in."""

    def __init__(self, broker: redis.Redis, url: str) -> None:
        app = Celery("bench", broker=url)
        app.conf.task_ignore_result = True
        task_id = app.send_task(
            TASK, queue=_SCRATCH, argsrepr="", kwargsrepr="", headers={"greenfleet-published-at": "0"}
        ).id
        app.close()
        raw: Any = broker.rpop(_SCRATCH)
        broker.srem(f"_kombu.binding.{_SCRATCH}", *(broker.smembers(f"_kombu.binding.{_SCRATCH}") or [b""]))
        self._message: dict[str, Any] = json.loads(raw)
        self._message["properties"]["delivery_info"]["routing_key"] = QUEUE
        self._task_id = str(task_id)

    def fill(self, message: Message, published: float, began: float) -> str:
        """The message as a string for LPUSH."""
        body = [
            [message.number, published, began, message.factor, message.luck],
            {},
            {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
        ]
        identity = f"{uuid.UUID(int=message.number + 1)}"
        headers = {
            **self._message["headers"],
            "id": identity,
            "root_id": identity,
            "greenfleet-published-at": f"{published:.6f}",
        }
        properties = {**self._message["properties"], "correlation_id": identity, "delivery_tag": str(uuid.uuid4())}
        filled = {
            **self._message,
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "headers": headers,
            "properties": properties,
        }
        return json.dumps(filled)


class Producer(threading.Thread):
    """Publishes a trace into several brokers at once. `published` is when each message went out, in seconds of the
    trace.
    """

    def __init__(
        self, trace: Sequence[Message], brokers: Sequence[redis.Redis], template: Template, began: float
    ) -> None:
        super().__init__(name="producer", daemon=True)
        self._messages, self._brokers, self._template, self._began = trace, brokers, template, began
        self.published: list[float] = []
        self.error = ""

    def run(self) -> None:
        """Until the last message is out."""
        try:
            self._publish()
        except redis.RedisError as error:
            self.error = f"the producer stopped: {type(error).__name__}: {error}"

    def _publish(self) -> None:
        done = 0
        while done < len(self._messages):
            now = time.time()
            due = done
            while due < len(self._messages) and self._began + self._messages[due].at <= now:
                due += 1
            if due > done:
                filled = [self._template.fill(message, now, self._began) for message in self._messages[done:due]]
                for broker in self._brokers:
                    broker.lpush(QUEUE, *filled)
                self.published += [now - self._began] * (due - done)
                done = due
            time.sleep(_BEAT_SECONDS)
