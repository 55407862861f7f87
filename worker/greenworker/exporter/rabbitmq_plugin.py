"""Unacknowledged messages on RabbitMQ, from its Prometheus plugin: AMQP itself does not tell.

Asked over plain HTTP on the plugin's own port. The aggregated ``/metrics`` knows no queues; ``/metrics/detailed`` does
since RabbitMQ 3.9, ``/metrics/per-object`` before that.

Why not `prometheus_client.parser`: RabbitMQ 3.10 does not escape what it writes, and one queue with a quote in its name
makes that parser refuse the whole page, for all queues. On the pages of a large broker it also takes thirteen times the
CPU, for series that nobody needs.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from time import monotonic

from greenworker.native import say
from greenworker.redaction import redacted

EVERY_SECONDS = 5.0
"""RabbitMQ itself computes these numbers every 5 s by default."""

AGAIN_SECONDS = 30.0
"""After a failure: a plugin that does not answer must not slow the polls down."""

TIMEOUT_SECONDS = 2.0

ANSWER_LIMIT_BYTES = 32 * 1024 * 1024
"""A broker with some 100,000 queues."""

PATHS = ("/metrics/detailed?family=queue_coarse_metrics", "/metrics/per-object")

_SAMPLE = re.compile(rb"^rabbitmq_(?:detailed_)?queue_messages_unacked\{(.*)\}\s+([0-9.eE+]+)", re.MULTILINE)
_AS_WRITTEN = re.compile(r'vhost="(.*?)",queue="(.*)"')
"""RabbitMQ 3.10 does not escape what it writes: only the place of a quote says that a name ends with it."""
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Plugin:
    """Remembers the last answer; says once what is wrong, and again when it is well."""

    def __init__(self, host: str, port: int, vhost: str) -> None:
        self.addresses = addresses(host, port)
        self.vhost = vhost
        self.problem = ""
        self._unacked: Mapping[str, int] = {}
        self._ask_at = 0.0

    def unacked(self) -> Mapping[str, int]:
        """By queue; empty while the plugin does not answer. Never raises."""
        if monotonic() >= self._ask_at:
            try:
                self._unacked = parse(self._fetch(), self.vhost)
                self._note("")
                self._ask_at = monotonic() + EVERY_SECONDS
            except (OSError, ValueError, OverflowError, HTTPException) as error:  # the last: no HTTP, or cut off
                self._unacked = {}
                self._note(redacted(f"{type(error).__name__}: {error}"))
                self._ask_at = monotonic() + AGAIN_SECONDS
        return self._unacked

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            say(
                f"no unacknowledged messages from RabbitMQ's Prometheus plugin: {problem}"
                if problem
                else "the plugin answers"
            )
        self.problem = problem

    def _fetch(self) -> bytes:
        for address in self.addresses:
            try:
                with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - http only
                    return bytes(response.read(ANSWER_LIMIT_BYTES))
            except urllib.error.HTTPError as error:
                if error.code != 404 or address == self.addresses[-1]:
                    raise
        raise ValueError("no address to ask")


def addresses(host: str, port: int) -> tuple[str, ...]:
    """The plugin's pages by queue, newest first."""
    name = f"[{host}]" if ":" in host else host
    return tuple(f"http://{name}:{port}{path}" for path in PATHS)


def parse(answer: bytes, vhost: str) -> dict[str, int]:
    """Unacknowledged messages by queue. A page without any queue is the wrong page, or a broker without queues."""
    found: dict[str, int] = {}
    escaped: dict[str, int] = {}
    for labels, value in _SAMPLE.findall(answer):
        text, count = labels.decode(errors="replace"), round(float(value))
        if match := _AS_WRITTEN.fullmatch(text):
            if vhost in (match[1], _unescape(match[1])):
                found[match[2]] = count
                escaped[_unescape(match[2])] = count
            continue
        named = {name: _unescape(said) for name, said in _LABEL.findall(text)}
        if "queue" in named and named.get("vhost", vhost) == vhost:
            escaped[named["queue"]] = count
    return {**escaped, **found}


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
