"""A producer that writes down what it sends before it sends it, and what the broker has confirmed."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

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
    "result": 4,
    "reader": 2,
}
"""How often each kind of task is sent."""

LONG_SECONDS = 9.0
"""Longer than the drain of the faults' workers."""

LONGEST_SHARE = 0.04
"""So many of the long tasks take as long as the run asks for. In the long form these hardly ever end while there are
faults, and shall not fill the fleet's 60 threads meanwhile.
"""

READS_SECONDS = 120.0
"""So long a task of the fleet waits for the result of another one: that may have to run again first."""


class Workload:
    """Sends from a thread of its own, at a steady rate, until it is told to stop."""

    def __init__(
        self, producer: Producer, journal: Path, rng: random.Random, per_second: float,
        longest_seconds: float = LONG_SECONDS,
    ) -> None:  # fmt: skip
        """*journal*: the durable log. *longest_seconds*: of some of the long tasks."""
        self.sent: dict[str, Sent] = {}
        self.task_ids: dict[str, str] = {}
        """Celery's, of each task whose result is read back."""
        self._results: dict[str, str] = {}
        self._producer = producer
        self._app: Celery = producer.app
        self._queue: Queue | str = producer.queue
        self._rng = rng
        self._pause = 1.0 / per_second
        self._longest_seconds = longest_seconds
        self._journal = journal.open("a")
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._number = 0
        self._rush: SimpleQueue[tuple[int, float]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def rush(self, count: int, seconds: float) -> None:
        """So many I/O tasks more, each of *seconds*, all at once."""
        self._rush.put((count, seconds))

    def stop(self) -> None:
        """As often as one likes. Raises RuntimeError if the producer ended before, or does not end: then nobody knows
        what was sent.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(60)
        if self._thread.is_alive():
            raise RuntimeError("the producer does not end: what it sends last is not known")
        self._journal.close()
        if self._failure is not None:
            raise RuntimeError("the producer ended before the run") from self._failure

    def _run(self) -> None:
        try:
            self._produce()
        except Exception as error:
            self._failure = error

    def _produce(self) -> None:
        due = monotonic()
        while not self._stop.is_set():
            while not self._rush.empty():
                count, seconds = self._rush.get()
                for _ in range(count):
                    self._one("rush", "io", seconds)
            kind = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            self._send(kind)
            due = max(due + self._pause, monotonic() - 1.0)  # what a fault held up is caught up with for a second
            self._stop.wait(max(0.0, due - monotonic()))

    def _send(self, kind: str) -> None:
        rng = self._rng
        match kind:
            case "short":
                self._one(kind, "io", rng.uniform(0.02, 0.5))
            case "long":
                self._one(kind, "io", self._longest_seconds if rng.random() < LONGEST_SHARE else LONG_SECONDS)
            case "cpu":
                self._one(kind, "cpu", rng.uniform(0.001, 0.03))
            case "eta":
                seconds = rng.uniform(1.0, 12.0)
                at = {"eta": datetime.now(UTC) + timedelta(seconds=seconds + 1.0)}
                self._one(kind, "io", 0.05, **rng.choice([{"countdown": seconds}, at]))
            case "retry":
                self._one(kind, "retried", rng.randint(1, 2), rng.choice([0, 0.3, 2]), result="of {}")
            case "forwarded":
                self._one(kind, "heavy", rng.uniform(0.01, 0.05), result="of {}")
            case "result":
                self._one(kind, "valued", rng.uniform(0.02, 0.5), result="of {}")
            case "limited":
                self._one(kind, "limited")
            case "early":
                self._one(kind, "early", 0.2)
            case "priority":
                self._one(kind, "io", 0.05, priority=rng.choice([0, 3, 6, 9]))
            case _:
                self._send_canvas(kind)

    def _send_canvas(self, kind: str) -> None:
        name = self._name
        match kind:
            case "chain":
                names = [name() for _ in range(3)]
                steps = [self._signature("io", one, 0.1) for one in names]
                self._publish(kind, names, chain(*steps).apply_async, [(), names[:1], names[1:2]])
            case "reader":
                read, names = name(), [name()]
                first = self._signature("valued", read, 0.1, result="of {}")
                then = self._signature(
                    "reader", names[0], self.task_ids[read], READS_SECONDS, result=f"of {{}} with of {read}"
                )
                self._publish(kind, [read, *names], chain(first, then).apply_async, [(), [read]])
            case "group":
                names = [name() for _ in range(4)]
                parts = [self._signature("valued", one, 0.1, result="of {}") for one in names]
                self._publish(kind, names, group(parts).apply_async)
            case "chord":
                *names, last = [name() for _ in range(4)]
                header = [self._signature("valued", one, 0.1, result="of {}") for one in names]
                values = ", ".join(sorted(f"of {one}" for one in names))
                options = {"queue": self._queue_name(), "task_id": self._expect(last, f"of {{}} with {values}")}
                body = self._app.signature("fault_app.whole", (), {"identity": last}, **options)
                self._publish(kind, [*names, last], chord(header, body).apply_async, [(), (), (), names])

    def _name(self) -> str:
        self._number += 1
        return f"t{self._number}"

    def _expect(self, identity: str, result: str) -> str:
        """The id of a task whose result will be read back; *result* has its identity's place."""
        self._results[identity] = result.format(identity)
        self.task_ids[identity] = str(uuid4())
        return self.task_ids[identity]

    def _queue_name(self) -> str:
        return str(getattr(self._queue, "name", self._queue))

    def _signature(self, task: str, identity: str, *arguments: Any, result: str | None = None) -> Any:
        options = {"task_id": self._expect(identity, result)} if result else {}
        return self._app.signature(
            f"fault_app.{task}", (identity, *arguments), queue=self._queue_name(), immutable=True, **options
        )

    def _one(self, kind: str, task: str, *arguments: Any, result: str | None = None, **options: Any) -> None:
        identity = self._name()
        if result:
            options["task_id"] = self._expect(identity, result)

        def send() -> None:
            self._app.send_task(
                f"fault_app.{task}", (identity, *arguments), queue=self._queue, retry=False, **options
            )  # fmt: skip

        self._publish(kind, [identity], send)

    def _publish(
        self, kind: str, names: Sequence[str], send: Callable[[], Any], after: Sequence[Sequence[str]] | None = None
    ) -> None:
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
            result = self._results.get(name)
            self.sent[name] = Sent(name, kind, started, confirmed, tuple(parent), tried_until, result)

    def _write(self, what: str, kind: str, names: Sequence[str]) -> None:
        self._journal.write(f"{what} {kind} {' '.join(names)} {monotonic():.3f}\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
