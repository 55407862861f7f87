"""The producer: publishes "fetch this feed" in a given pattern, and keeps the account.

It is steered over HTTP, so that a person, the demo or a test can do it from anywhere:

    POST /runs     {"run": "r1", "feeds": 4000, "phases": [{"name": "quiet", "seconds": 20, "rate": 3}, …]}
    GET  /state    where the run is, how much was sent, how many executions the ledger has, how old the oldest message
    is GET  /account  the ledger held against what was sent: done, lost, delivered twice, waits POST /purge    empty the
    queue (what an interrupted run left behind) GET  /healthz
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis

from .celery import QUEUE, app
from .ledger import Ledger, account
from .plan import Phase, parse
from .tasks import PUBLISHED_AT, fetch

BATCH = 500
"""Messages per round trip in a burst: 0.15 ms of CPU a message instead of 0.5."""
BEAT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is."""

    run: str = ""
    phase: str = ""
    phase_started_at: float = 0.0
    """Unix time."""
    sent: int = 0
    finished: bool = True
    error: str = ""


class Producer:
    """Publishes one run at a time, in a thread of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._feeds = 1
        self.progress = Progress()

    def start(self, run: str, feeds: int, phases: tuple[Phase, ...]) -> bool:
        """Begin a run; False while another one is under way."""
        with self._lock:
            if not self.progress.finished:
                return False
            self.progress = Progress(run=run, finished=False)
        self._feeds = max(1, feeds)
        self._ledger.forget(keep=run)
        threading.Thread(target=self._publish_all, args=(phases,), name="producer", daemon=True).start()
        return True

    def sent(self) -> list[str]:
        """The id of every task that was published in this run."""
        return [self._task_id(number) for number in range(self.progress.sent)]

    def _task_id(self, number: int) -> str:
        return f"{self.progress.run}:{number}"

    def _publish_all(self, phases: tuple[Phase, ...]) -> None:
        try:
            for phase in phases:
                self._publish_phase(phase)
        except Exception as error:  # the thread's last word: whoever watches must see it
            self.progress = replace(self.progress, error=f"{type(error).__name__}: {error}")
        finally:
            self.progress = replace(self.progress, finished=True)

    def _publish_phase(self, phase: Phase) -> None:
        begin = time.monotonic()
        self.progress = replace(self.progress, phase=phase.name, phase_started_at=time.time())
        published = 0
        while True:
            elapsed = time.monotonic() - begin
            due = phase.due(elapsed)
            while published < due:
                published += self._publish(min(BATCH, due - published))
            if elapsed >= phase.seconds:
                return
            time.sleep(BEAT_SECONDS)

    def _publish(self, count: int) -> int:
        """Publish the next `count` messages in one round trip."""
        first = self.progress.sent
        with app.producer_pool.acquire(block=True) as producer, producer.batch(BATCH):
            for number in range(first, first + count):
                app.send_task(
                    fetch.name,
                    args=(number % self._feeds, self.progress.run),
                    task_id=self._task_id(number),
                    headers={PUBLISHED_AT: str(time.time())},
                    argsrepr="",
                    kwargsrepr="",
                    producer=producer,
                )
        self.progress = replace(self.progress, sent=first + count)
        return count


class Queue:
    """The queue as the broker has it (Redis): for the picture, not for the account."""

    def __init__(self, client: Any, name: str = QUEUE) -> None:
        self._client = client
        self._name = name

    def waiting(self) -> int:
        """Messages that no worker has taken."""
        return int(self._client.llen(self._name))

    def unacked(self) -> int:
        """Messages that a worker holds."""
        return int(self._client.hlen("unacked"))

    def oldest_seconds(self, now: float) -> float:
        """How long the oldest of them has been waiting; 0 if there is none."""
        message = self._client.lindex(self._name, -1)
        if message is None:
            return 0.0
        published = json.loads(message)["headers"].get(PUBLISHED_AT)
        return max(0.0, now - float(published)) if published else 0.0

    def purge(self) -> int:
        """Throw away what waits and what dead workers held."""
        waiting = self.waiting()
        self._client.delete(self._name, "unacked", "unacked_index")
        return waiting


class Handler(BaseHTTPRequestHandler):
    """The HTTP side. `producer`, `ledger` and `queue` are set by `main`."""

    protocol_version = "HTTP/1.1"
    producer: Producer
    ledger: Ledger
    queue: Queue

    def do_GET(self) -> None:
        """Answer `/state`, `/account` and `/healthz`."""
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, {"ok": True})
        elif self.path == "/state":
            self._answer(HTTPStatus.OK, self._state())
        elif self.path == "/account":
            run = self.producer.progress.run
            self._answer(HTTPStatus.OK, asdict(account(self.producer.sent(), self.ledger.executions(run))))
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        """Begin a run, or purge."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/purge":
            self._answer(HTTPStatus.OK, {"purged": self.queue.purge()})
        elif self.path == "/runs":
            self._begin(body)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"nothing at {self.path}"})

    def _begin(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
            run, feeds, phases = str(asked["run"]), int(asked["feeds"]), parse(asked["phases"])
        except (ValueError, KeyError, TypeError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})
            return
        if self.producer.start(run, feeds, phases):
            self._answer(HTTPStatus.ACCEPTED, {"run": run, "messages": sum(phase.total() for phase in phases)})
        else:
            self._answer(HTTPStatus.CONFLICT, {"error": f"run {self.producer.progress.run} is under way"})

    def _state(self) -> dict[str, Any]:
        now = time.time()
        progress = self.producer.progress
        return asdict(progress) | {
            "at": now,
            "executions": self.ledger.count(progress.run),
            "waiting": self.queue.waiting(),
            "unacked": self.queue.unacked(),
            "oldest_seconds": self.queue.oldest_seconds(now),
        }

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent: it is asked every second."""


def main() -> None:
    """`python -m feedhub.producer`"""
    parser = argparse.ArgumentParser(description="Publishes feeds to fetch, steered over HTTP.")
    parser.add_argument("--port", type=int, default=8081)
    arguments = parser.parse_args()
    Handler.ledger = Ledger.connect(os.environ.get("LEDGER_URL", "redis://localhost:6379/1"))
    Handler.queue = Queue(redis.Redis.from_url(app.conf.broker_url or os.environ["CELERY_BROKER_URL"]))
    Handler.producer = Producer(Handler.ledger)
    server = ThreadingHTTPServer(("0.0.0.0", arguments.port), Handler)
    print(f"producer on port {arguments.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
