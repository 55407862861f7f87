"""The loop: read the URL, ask the broker, publish; back off while it is down.

A scrape has the broker asked at once and waits for the answer, so that what Prometheus keeps is the depth of that moment and not one of a
second before: an autoscaler reacts no faster than its samples are young.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from greenworker.environment import trust_of
from greenworker.fatal import MisconfiguredError
from greenworker.metrics import GaugeSet, Registry, process_families
from greenworker.queues.broker import Broker, Depth, Queue, connect
from greenworker.redaction import redacted
from greenworker.tls import Trust, checks, warning, wishes
from greenworker.unpatched import say

BACKOFF_LIMIT_SECONDS = 10.0
FRESH_SECONDS = 0.1
"""An answer that is no older is good enough for a scrape: two Prometheus servers need not ask twice."""
PATIENCE_SECONDS = 0.5
"""How long a scrape waits for a fresh answer; a slow broker's last one is better than a scrape that fails."""
STUCK_SECONDS = 60.0
"""A poll has time-outs of a few seconds; one that takes so long will not come back."""


@dataclass(frozen=True, slots=True)
class Options:
    """The exporter's environment, docs/contract.md."""

    broker: str
    url_file: Path
    trust: Trust
    metrics_port: int
    queues: tuple[Queue, ...]
    poll_seconds: float
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Options:
        """Raises `MisconfiguredError`."""
        broker = environ.get("GREENWORKER_BROKER", "")
        if not broker:
            raise MisconfiguredError(
                "GREENWORKER_BROKER", "", "every sample is labelled with its broker", "set it to namespace/secret/key"
            )
        return cls(
            broker=broker,
            url_file=Path(environ.get("GREENWORKER_BROKER_URL_FILE") or "/etc/greenfleet/broker/url"),
            trust=trust_of(
                environ.get("GREENWORKER_BROKER_CA_FILE"), environ.get("GREENWORKER_BROKER_INSECURE_SKIP_VERIFY")
            ),
            metrics_port=int(environ.get("GREENWORKER_BROKER_METRICS_PORT") or 0),
            queues=parse_queues(environ.get("GREENWORKER_QUEUES", "[]")),
            poll_seconds=float(environ.get("GREENWORKER_POLL_SECONDS") or 1),
            port=int(environ.get("GREENWORKER_METRICS_PORT") or 9540),
        )


def parse_queues(text: str) -> tuple[Queue, ...]:
    """Raises `MisconfiguredError`."""
    try:
        return tuple(
            Queue(
                str(entry["queue"]),
                str(entry.get("keyPrefix") or ""),
                tuple(sorted({0, *(int(step) for step in entry.get("prioritySteps") or (0, 3, 6, 9))})),
            )
            for entry in json.loads(text)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise MisconfiguredError(
            "GREENWORKER_QUEUES", text, f"not a list of queues: {problem!r}", 'use [{"queue": "feeds"}]'
        ) from None


class Exporter:
    """Owns the connection; `poll` is one round."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.registry = Registry(broker=options.broker)
        self.ready = GaugeSet("greenfleet_queue_messages_ready", "Messages that wait in a queue.", ["queue"])
        self.unacked = GaugeSet(
            "greenfleet_queue_messages_unacked", "Messages delivered and not acknowledged.", ["queue"]
        )
        self.familiar_ready = GaugeSet("celery_queue_length", "As celery-exporter has it.", ["queue_name"])
        self.familiar_consumers = GaugeSet("celery_active_consumer_count", "As celery-exporter has it.", ["queue_name"])
        self.up = GaugeSet("greenfleet_queue_up", "1 if the broker answered the last question.", [])
        self.up.values[()] = 0
        for family in (
            self.up, self.ready, self.unacked, self.familiar_ready, self.familiar_consumers, *process_families()
        ):  # fmt: skip
            self.registry.add(family)
        self.last_round = monotonic()
        self.problem = "the broker has not been asked yet"
        self._round = threading.Condition()
        self._hurry = threading.Event()
        self._broker: Broker | None = None
        self._url = ""
        self._failures = 0

    def run(self) -> None:
        """For ever."""
        while True:
            began = monotonic()
            self._hurry.clear()
            self.poll()
            with self._round:
                self.last_round = monotonic()
                self._round.notify_all()
            self._hurry.wait(max(0.0, self.pause_seconds() - (monotonic() - began)))

    def scrape(self) -> bytes:
        """The exposition, with the depths of this moment if the broker answers in time. In the scrape's own thread."""
        with self._round:
            before = self.last_round
            # Whoever is down is asked when the pause is over, however many ask us.
            if not self._failures and monotonic() - before > FRESH_SECONDS:
                self._hurry.set()
                self._round.wait_for(lambda: self.last_round > before, PATIENCE_SECONDS)
        return self.registry.render()

    def pause_seconds(self) -> float:
        """Until the next round: longer, and not in step with others, while the broker is down."""
        if not self._failures:
            return self.options.poll_seconds
        longer: float = min(BACKOFF_LIMIT_SECONDS, self.options.poll_seconds * 2.0**self._failures)
        return longer * random.uniform(0.75, 1.0)

    def poll(self) -> None:
        """Ask once and publish the answer, or that there is none."""
        try:
            url = self.options.url_file.read_text().strip()
            if url != self._url:
                self._disconnect()
                self._url = url
                self._warn_of_trust(url)
            if self._broker is None:
                self._broker = connect(url, self.options.trust, self.options.metrics_port)
            depths = self._broker.depths(self.options.queues)
        except Exception as error:
            self._disconnect()
            self._publish({}, up=False)
            problem = redacted(f"{type(error).__name__}: {error}")
            if problem != self.problem:
                say(f"no answer from the broker: {problem}")
            self.problem = problem
            self._failures = min(self._failures + 1, 10)
        else:
            if self.problem:
                say("the broker answers")
            self._publish(depths, up=True)
            self.problem = ""
            self._failures = 0

    def _warn_of_trust(self, url: str) -> None:
        if url.startswith(("rediss://", "amqps://")):
            if self.options.trust.skip_verify:
                say(warning("broker", "broker.insecureSkipVerify"))
            elif not checks(wishes(url)):
                say(warning("broker", "ssl_cert_reqs in its URL"))

    def _publish(self, depths: Mapping[str, Depth], *, up: bool) -> None:
        self.ready.values = {(name,): depth.ready for name, depth in depths.items()}
        self.unacked.values = {(name,): depth.unacked for name, depth in depths.items() if depth.unacked is not None}
        self.familiar_ready.values = dict(self.ready.values)
        self.familiar_consumers.values = {
            (name,): depth.consumers for name, depth in depths.items() if depth.consumers is not None
        }
        self.up.values = {(): float(up)}

    def _disconnect(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    def unhealthy(self) -> str:
        """Why the process should be restarted."""
        silent = monotonic() - self.last_round
        return f"the last round ended {silent:.0f} s ago" if silent > STUCK_SECONDS else ""

    def unready(self) -> str:
        """Why its depths should not be asked for."""
        return self.problem
