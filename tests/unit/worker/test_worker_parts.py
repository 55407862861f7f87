"""Small pure parts: waiting time, redelivery mark, exporter's options, redaction, stack reading."""

from __future__ import annotations

import json
import re
import socketserver
import ssl
import sys
from datetime import datetime, timezone
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

import greenworker
from greenworker import tls
from greenworker.brokers.redis.payloads import redelivered
from greenworker.brokers.url import without_master_name
from greenworker.exporter.broker import Queue
from greenworker.exporter.connect import connect
from greenworker.exporter.exporter import parse_queues
from greenworker.exporter.rabbitmq_plugin import Plugin, addresses, parse
from greenworker.exporter.redis import list_key, tls_options
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.accounting import seconds_waited
from greenworker.tls import Trust


def request(headers: dict[str, Any], eta: datetime | None = None) -> Any:
    return SimpleNamespace(request_dict=headers, eta=eta)


def test_wait_counts_from_our_header_else_from_the_timestamp() -> None:
    assert seconds_waited(request({"greenfleet-published-at": "100.5"}), 102.0) == 1.5
    assert seconds_waited(request({"properties": {"timestamp": 100}}), 102.0) == 2
    assert seconds_waited(request({"properties": {"timestamp": datetime.fromtimestamp(100, timezone.utc)}}), 102.0) == 2
    assert seconds_waited(request({}), 102.0) is None
    assert seconds_waited(request({"greenfleet-published-at": "yesterday"}), 102.0) is None
    assert seconds_waited(request({"greenfleet-published-at": "200"}), 102.0) == 0, "clocks differ"


def test_a_task_with_an_eta_waits_from_its_eta() -> None:
    eta = datetime.fromtimestamp(150, timezone.utc)
    assert seconds_waited(request({"greenfleet-published-at": "100"}, eta), 152.0) == 2


def test_redelivered_marks_and_leaves_the_rest() -> None:
    message = {"body": "x", "headers": {"id": "1"}, "properties": {"delivery_info": {}, "n": 2**60}}
    marked = json.loads(redelivered(json.dumps(message).encode()))
    assert marked["headers"] == {"id": "1", "redelivered": True}
    assert marked["properties"]["delivery_info"] == {"redelivered": True}
    assert marked["properties"]["n"] == 2**60
    assert redelivered(b"not json") == b"not json"


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:top/secret@host:6379/0",
        "redis://user:top#secret@host:6379/0",
        "rediss://:top?secret@host:6379/0",
        "amqp://user:top/secret@host:5672//",
        "sentinel://host:26379;sentinel://:top/secret@other:26379",
        "redis://us[er:top-secret@host:6379/0",
        "top-secret",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_a_part_of_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as refused:
        connect(url, None)
    assert "top" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None, "nor in what led to it"


def test_unacked_of_one_vhost_is_read_from_either_page_of_the_plugin() -> None:
    page = b"""# TYPE rabbitmq_detailed_queue_messages_unacked gauge
rabbitmq_detailed_queue_messages_unacked{vhost="/",queue="feeds"} 12
rabbitmq_detailed_queue_messages_unacked{vhost="other",queue="feeds"} 99
rabbitmq_queue_messages_unacked{vhost="/",queue="a \\"b\\" {c}"} 3
rabbitmq_queue_messages_unacked 7
rabbitmq_queue_messages_unacked_bytes{vhost="/",queue="feeds"} 1000
"""
    assert parse(page, "/").items() >= {"feeds": 12, 'a "b" {c}': 3}.items()


def test_the_plugin_is_asked_by_queue_on_the_brokers_host() -> None:
    assert addresses("rabbit", 15692) == (
        "http://rabbit:15692/metrics/detailed?family=queue_coarse_metrics",
        "http://rabbit:15692/metrics/per-object",
    )
    assert addresses("fd00::1", 80)[1] == "http://[fd00::1]:80/metrics/per-object"


@pytest.mark.parametrize(
    ("url", "stripped", "name"),
    [
        ("sentinel://a:1/0?master_name=m", "sentinel://a:1/0", "m"),
        ("sentinel://a:1;sentinel://b:2/0?x=1&master_name=m%20n", "sentinel://a:1;sentinel://b:2/0?x=1", "m n"),
        ("sentinel://a:1?master_name=m&x=1;sentinel://b:2", "sentinel://a:1?x=1;sentinel://b:2", "m"),
        ("sentinel://a:1", "sentinel://a:1", ""),
        ("redis://a/0?master_name=m", "redis://a/0?master_name=m", ""),
    ],
)
def test_the_masters_name_may_stand_in_the_url_which_kombu_does_not_know(url: str, stripped: str, name: str) -> None:
    assert without_master_name(url) == (stripped, name)


def test_queues_of_the_exporter() -> None:
    assert parse_queues('[{"queue": "feeds", "keyPrefix": "t:", "prioritySteps": [3, 5]}]') == (
        Queue("feeds", "t:", (0, 3, 5)),
    )
    assert parse_queues('[{"queue": "feeds"}]')[0].priority_steps == (0, 3, 6, 9)
    for wrong in ("feeds", '{"queue": 1}', '[{"name": "feeds"}]', "[1]"):
        with pytest.raises(MisconfiguredError):
            parse_queues(wrong)


def test_lists_have_the_names_that_kombu_gives_them() -> None:
    queue = Queue("feeds", "t:")
    assert [list_key(queue, step) for step in (0, 3)] == ["t:feeds", "t:feeds\x06\x163"]


def test_tls_is_checked_unless_the_resource_or_the_url_says_otherwise() -> None:
    for trust, url in (
        (Trust(), "rediss://h"),
        (Trust(), "rediss://h?ssl_cert_reqs=required"),
        (Trust(), "rediss://h?x=1"),
    ):
        assert tls_options(url, trust) == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    for trust, url in (
        (Trust(skip_verify=True), "rediss://h"),
        (Trust(Path("/ca")), "rediss://h?ssl_cert_reqs=CERT_NONE"),
    ):
        assert tls_options(url, trust) == {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
    assert tls_options("rediss://h?ssl_ca_certs=/a", Trust())["ssl_ca_certs"] == "/a"
    assert tls_options("rediss://h?ssl_ca_certs=/a", Trust(Path("/ca")))["ssl_ca_certs"] == "/ca"


def test_a_url_that_says_something_about_tls_is_completed_and_no_other() -> None:
    """kombu forgets every other option where the URL has one."""
    completed, ca = tls.completed, Trust(Path("/ca"))
    assert completed("rediss://h/0?ssl_cert_reqs=required", ca) == (
        "rediss://h/0?ssl_cert_reqs=required&ssl_check_hostname=true&ssl_ca_certs=/ca"
    )
    for url in (
        "rediss://h/0",
        "rediss://h/0?ssl_cert_reqs=none",
        "redis://h/0?ssl_cert_reqs=required",
        "amqps://h//",
        "",
    ):
        assert completed(url, ca) == url
    first, second = completed("rediss://a?ssl_certfile=/c;rediss://b", Trust()).split(";")
    assert "ssl_cert_reqs=CERT_REQUIRED" in first
    assert second == "rediss://b"


def test_the_watchdog_finds_the_task_on_a_stack() -> None:
    from greenworker.monitoring.hub_monitor import place_of, tasks_on

    seen: list[Any] = []

    def work() -> None:
        frame = sys._getframe()
        seen.append((next(tasks_on(frame)).name, place_of(frame)))

    code = compile("def trace_task(task, work):\n    work()\n", "/x/site-packages/celery/app/trace.py", "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    names["trace_task"](SimpleNamespace(name="proj.blocks"), work)
    name, place = seen[0]
    assert name == "proj.blocks"
    assert place.f_code.co_name == "work"


def test_what_is_eventlets_own_lives_in_one_module() -> None:
    package = Path(greenworker.__file__).parent
    green = re.compile(r"^\s*(?:from|import)\s+(?:eventlet|greenlet|celery\.concurrency\.eventlet)\b", re.MULTILINE)
    importing = {path.name for path in package.rglob("*.py") if green.search(path.read_text(encoding="utf-8"))}
    assert importing == {"hub.py"}


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nrabbit",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b'HTTP/1.1 200 OK\r\n\r\nrabbitmq_queue_messages_unacked{vhost="/",queue="q"} 1e999\n',
    ],
    ids=["TLS", "cut off", "headers", "infinite"],
)
def test_whatever_the_port_of_the_plugin_answers_costs_only_its_own_numbers(answer: bytes) -> None:
    class Answering(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        plugin = Plugin("127.0.0.1", server.server_address[1], "/")
        assert plugin.unacked() == {}
        assert plugin.problem
        server.shutdown()
