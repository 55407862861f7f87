"""A producer that writes down what it sends before it sends it, and what the broker has confirmed."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

from celery import Celery, chain, chord, group
from kombu import Queue

from tests.faults.history import Sent
from tests.integration.worker.harness import Producer

WEIGHTS = {
    "short": 40,
    "long": 4,
    "cpu": 10,
    "eta": 8,
    "retry": 8,
    "chain": 4,
    "group": 3,
    "chord": 2,
    "forwarded": 3,
    "limited": 8,
    "early": 6,
    "priority": 4,
}
"""How often each kind of task is sent."""

LONG_SECONDS = 9.0
"""Longer than the drain of the faults' workers."""


class Workload:
    """Sends from a thread of its own, at a steady rate, until it is told to stop."""

    def __init__(
        self, producer: Producer, journal: Path, rng: random.Random, per_second: float, *, chords: bool
    ) -> None:
        """*journal*: the durable log. *chords*: the app has a result backend."""
        self.sent: dict[str, Sent] = {}
        self._producer = producer
        self._app: Celery = producer.app
        self._queue: Queue | str = producer.queue
        self._rng = rng
        self._pause = 1.0 / per_second
        self._kinds = {kind: weight for kind, weight in WEIGHTS.items() if chords or kind != "chord"}
        self._journal = journal.open("a")
        self._stop = threading.Event()
        self._number = 0
        self._rush: SimpleQueue[tuple[int, float]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def rush(self, count: int, seconds: float) -> None:
        """So many I/O tasks more, each of *seconds*, all at once."""
        self._rush.put((count, seconds))

    def stop(self) -> None:
        """As often as one likes."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(60)
        self._journal.close()

    def _run(self) -> None:
        due = monotonic()
        while not self._stop.is_set():
            while not self._rush.empty():
                count, seconds = self._rush.get()
                for _ in range(count):
                    self._one("rush", "io", seconds)
            kind = self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]
            self._send(kind)
            due = max(due + self._pause, monotonic() - 1.0)  # what a fault held up is caught up with for a second
            self._stop.wait(max(0.0, due - monotonic()))

    def _send(self, kind: str) -> None:
        rng, name = self._rng, self._name
        match kind:
            case "short":
                self._one(kind, "io", rng.uniform(0.02, 0.5))
            case "long":
                self._one(kind, "io", LONG_SECONDS)
            case "cpu":
                self._one(kind, "cpu", rng.uniform(0.001, 0.03))
            case "eta":
                self._one(kind, "io", 0.05, countdown=rng.uniform(0.5, 12.0))
            case "retry":
                self._one(kind, "retried", rng.randint(1, 2), rng.choice([0, 0.3, 2]))
            case "forwarded":
                self._one(kind, "heavy", rng.uniform(0.01, 0.05))
            case "limited":
                self._one(kind, "limited")
            case "early":
                self._one(kind, "early", 0.2)
            case "priority":
                self._one(kind, "io", 0.05, priority=rng.choice([0, 3, 6, 9]))
            case "chain":
                names = [name() for _ in range(3)]
                steps = [self._signature("io", one, 0.1) for one in names]
                self._publish(kind, names, chain(*steps).apply_async, [(), names[:1], names[1:2]])
            case "group":
                names = [name() for _ in range(4)]
                self._publish(kind, names, group(self._signature("io", one, 0.1) for one in names).apply_async)
            case "chord":
                names = [name() for _ in range(4)]
                header = [self._signature("part", one) for one in names[:3]]
                body = self._app.signature("fault_app.whole", (), {"identity": names[3]}, queue=self._queue_name())
                send = chord(header, body).apply_async
                self._publish(kind, names, send, [(), (), (), names[:3]])

    def _name(self) -> str:
        self._number += 1
        return f"t{self._number}"

    def _queue_name(self) -> str:
        return str(getattr(self._queue, "name", self._queue))

    def _signature(self, task: str, *arguments: Any) -> Any:
        return self._app.signature(f"fault_app.{task}", arguments, queue=self._queue_name(), immutable=True)

    def _one(self, kind: str, task: str, *arguments: Any, **options: Any) -> None:
        identity = self._name()

        def send() -> None:
            self._app.send_task(
                f"fault_app.{task}", (identity, *arguments), queue=self._queue, retry=False, **options
            )  # fmt: skip

        self._publish(kind, [identity], send)

    def _publish(self, kind: str, names: list[str], send: Callable[[], Any], after: list[Any] | None = None) -> None:
        parents = after or [()] * len(names)
        self._write("sending", kind, names)
        started = monotonic()
        confirmed: float | None = None
        try:
            send()
            confirmed = monotonic()
        except Exception as error:  # the broker is away: whether it has the message is not known
            self._write(f"unsure({type(error).__name__})", kind, names)
        tried_until = monotonic()
        for name, parent in zip(names, parents, strict=True):
            self.sent[name] = Sent(name, kind, started, confirmed, tuple(parent), tried_until)

    def _write(self, what: str, kind: str, names: list[str]) -> None:
        self._journal.write(f"{what} {kind} {' '.join(names)} {monotonic():.3f}\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
