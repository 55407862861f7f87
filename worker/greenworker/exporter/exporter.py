"""The loop: read the URL, ask the broker, publish; back off while it is down.

A scrape has the broker asked at once and waits for the answer, so that what Prometheus keeps is the depth of that
moment and not one of a second before: an autoscaler reacts no faster than its samples are young.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from greenworker.brokers.parts import has_parts, parts, url_of
from greenworker.brokers.url import tidy
from greenworker.environment import trust_of
from greenworker.exporter.broker import Broker, Depth, Queue
from greenworker.exporter.broker_error import kind_of
from greenworker.exporter.connect import connect
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.metrics import GaugeSet, Registry, process_families
from greenworker.native import say
from greenworker.redaction import redacted
from greenworker.tls import Trust, all_check, warning

BACKOFF_LIMIT_SECONDS = 10.0
FRESH_SECONDS = 0.1
"""An answer that is no older is good enough for a scrape: two Prometheus servers need not ask twice."""
SCRAPE_WAIT_SECONDS = 0.5
"""How long a scrape waits for a fresh answer; a slow broker's last one is better than a scrape that fails."""
OLD_SECONDS = 10.0
"""A depth whose question was sent so long ago is not shown any more: a scrape would make it look like one of now."""
STUCK_SECONDS = 60.0
"""A question has time-outs of a few seconds; one that takes so long will not come back."""


@dataclass(frozen=True, slots=True)
class Options:
    """The exporter's environment, docs/contract.md."""

    broker: str
    url_file: Path
    parts_directory: Path | None
    """Where the parts of the URL that come from Secrets are. None: the URL is in one file."""
    environ: Mapping[str, str] = field(repr=False)
    """Has the other parts."""
    trust: Trust
    metrics_port: int
    queues_file: Path
    queues: tuple[Queue, ...] | None
    """What the environment says itself, instead of the file."""
    poll_seconds: float
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Options:
        """Raises `MisconfiguredError`."""
        broker = environ.get("GREENWORKER_BROKER", "")
        if not broker:
            raise MisconfiguredError(
                "GREENWORKER_BROKER", "", "every sample is labelled with its broker", "set it to namespace/name"
            )
        return cls(
            broker=broker,
            url_file=Path(environ.get("GREENWORKER_BROKER_URL_FILE") or "/etc/greenfleet/broker/url"),
            parts_directory=Path(environ.get("GREENWORKER_BROKER_DIRECTORY") or "/etc/greenfleet/broker")
            if has_parts(environ)
            else None,
            environ=environ,
            trust=trust_of(
                environ.get("GREENWORKER_BROKER_CA_FILE"), environ.get("GREENWORKER_BROKER_INSECURE_SKIP_VERIFY")
            ),
            metrics_port=int(environ.get("GREENWORKER_BROKER_METRICS_PORT") or 0),
            queues_file=Path(environ.get("GREENWORKER_QUEUES_FILE") or "/etc/greenfleet/queues/queues"),
            queues=parse_queues(environ["GREENWORKER_QUEUES"]) if environ.get("GREENWORKER_QUEUES") else None,
            poll_seconds=float(environ.get("GREENWORKER_POLL_SECONDS") or 1),
            port=int(environ.get("GREENWORKER_METRICS_PORT") or 9540),
        )

    def url(self) -> str:
        """The broker's URL as its Secrets say it now. Raises OSError or `MisconfiguredError`."""
        if self.parts_directory is None:
            return tidy(self.url_file.read_text())
        return url_of("broker", parts(self.environ, directory=self.parts_directory))


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
            "the list of queues", text[:300], f"not a list of queues: {problem!r}", 'use [{"queue": "feeds"}]'
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
        self.dead = GaugeSet("greenfleet_queue_dead_letters", "Dead letters of a queue.", ["queue"])
        self.missing = GaugeSet("greenfleet_queue_missing", "1 for a queue that the broker does not have.", ["queue"])
        self.celery_queue_length = GaugeSet("celery_queue_length", "As celery-exporter has it.", ["queue_name"])
        self.celery_consumers = GaugeSet("celery_active_consumer_count", "As celery-exporter has it.", ["queue_name"])
        self.up = GaugeSet("greenfleet_queue_up", "1 if the broker answered the last question.", [])
        self.up.values[()] = 0
        self.error = GaugeSet(
            "greenfleet_queue_broker_error",
            "1 for the kind of error that keeps the exporter from the broker.",
            ["reason"],
        )
        for family in (
            self.up,
            self.error,
            self.ready,
            self.unacked,
            self.dead,
            self.missing,
            self.celery_queue_length,
            self.celery_consumers,
            *process_families(),
        ):
            self.registry.add(family)
        self.last_round = self.last_answer = monotonic()
        self.problem = "the broker has not been asked yet"
        self.problem_kind = ""
        """One of `broker_error.KINDS`; empty while there is no error."""
        self._round = threading.Condition()
        self._hurry = threading.Event()
        self._broker: Broker | None = None
        self._url = ""
        self._failures = 0
        self._queues = options.queues
        self._queues_text = ""
        self._queues_problem = ""
        self._known: dict[str, tuple[Depth, float]] = {}
        """By queue: the last answer, and when its question was sent."""

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
                self._round.wait_for(lambda: self.last_round > before, SCRAPE_WAIT_SECONDS)
            self._show()
            return self.registry.render()

    def pause_seconds(self) -> float:
        """Until the next round: longer, and not in step with others, while the broker is down."""
        if not self._failures:
            return self.options.poll_seconds
        longer: float = min(BACKOFF_LIMIT_SECONDS, self.options.poll_seconds * 2.0 ** min(self._failures, 10))
        return longer * random.uniform(0.75, 1.0)

    def poll(self) -> None:
        """Ask for every queue once."""
        try:
            url = self.options.url()
            if url != self._url:
                self._disconnect()
                self._url = url
                self._warn_of_trust(url)
            queues = self._wanted()
            if self._broker is None:
                self._broker = connect(url, self.options.trust, self.options.metrics_port)
            self._broker.count_dead_letters(queues)
            for first in range(0, len(queues), self._broker.at_once):
                asked, some = monotonic(), queues[first : first + self._broker.at_once]
                found = self._broker.depths(some)
                self._known.update({name: (depth, asked) for name, depth in found.items()})
                self.last_answer = monotonic()
        except Exception as error:
            self._disconnect()
            self._known = {}
            problem = redacted(f"{type(error).__name__}: {error}")
            if problem != self.problem:
                say(f"no answer from the broker: {problem}")
            self.problem, self.problem_kind = problem, kind_of(error)
            self._failures = min(self._failures + 1, 10)
        else:
            if self.problem:
                say("the broker answers")
            names = {queue.name for queue in queues}
            self._known = {name: known for name, known in self._known.items() if name in names}
            self.last_answer = monotonic()
            self.problem = self.problem_kind = ""
            self._failures = 0

    def _wanted(self) -> tuple[Queue, ...]:
        """The queues to ask for: what the file says now, or said last. Raises LookupError until it has said any."""
        if self.options.queues is not None:
            return self.options.queues
        try:
            text = self.options.queues_file.read_text()  # by its path each time: kubelet swaps a symbolic link
            if text != self._queues_text:
                self._queues = parse_queues(text)
                self._queues_text = text
                say(f"{len(self._queues)} queues to measure")
            problem = ""
        except (OSError, MisconfiguredError) as error:
            if self._queues is None:
                raise LookupError(f"no list of queues yet: {error}") from error
            problem = f"the list of queues is not read anew: {error}"
        if problem and problem != self._queues_problem:
            say(problem)
        self._queues_problem = problem
        assert self._queues is not None
        return self._queues

    def _warn_of_trust(self, url: str) -> None:
        if url.startswith(("rediss://", "amqps://")):
            if self.options.trust.skip_verify:
                say(warning("broker", "broker.insecureSkipVerify"))
            elif not all_check(url):
                say(warning("broker", "ssl_cert_reqs in its URL"))

    def _show(self) -> None:
        """What is young enough. In the scrape's own thread, one at a time."""
        now = monotonic()
        depths = {name: depth for name, (depth, asked) in list(self._known.items()) if now - asked <= OLD_SECONDS}
        self.ready.values = {(name,): depth.ready for name, depth in depths.items()}
        self.unacked.values = {(name,): depth.unacked for name, depth in depths.items() if depth.unacked is not None}
        self.dead.values = {(name,): depth.dead for name, depth in depths.items() if depth.dead is not None}
        self.missing.values = {(name,): 1.0 for name, depth in depths.items() if depth.missing}
        self.celery_queue_length.values = dict(self.ready.values)
        self.celery_consumers.values = {
            (name,): depth.consumers for name, depth in depths.items() if depth.consumers is not None
        }
        self.error.values = {(kind,): 1.0} if (kind := self.problem_kind) else {}
        self.up.values = {(): float(not self.problem and now - self.last_answer <= OLD_SECONDS)}

    def _disconnect(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    def unhealthy(self) -> str:
        """Why the process should be restarted."""
        silent = monotonic() - max(self.last_round, self.last_answer)
        return f"the last question ended {silent:.0f} s ago" if silent > STUCK_SECONDS else ""

    def unready(self) -> str:
        """Why its depths should not be asked for."""
        silent = monotonic() - self.last_answer
        return self.problem or (
            f"the broker answered {silent:.0f} s ago" if silent > OLD_SECONDS + self.options.poll_seconds else ""
        )
