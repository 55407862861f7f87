"""The kind of error that keeps the exporter from a broker: told by real client libraries against real sockets where
there is no need for a broker, and by their own exceptions where there is.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp.exceptions
import pytest
import redis.exceptions

from greenworker.exporter.broker_error import KINDS, kind_of
from greenworker.exporter.connect import connect
from greenworker.exporter.exporter import Exporter, Options
from greenworker.tls import Trust
from tests.ports import free_port

SECRET = "topsecret"  # noqa: S105 - of a broker that is not there


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port that says *answer* to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:  # py-amqp tries twice
                with suppress(OSError), server.accept()[0] as client:
                    client.recv(4096)
                    client.sendall(answer)
                    client.recv(4096)
                if server.fileno() < 0:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def kind(url: str) -> str:
    try:
        connect(url, Trust())
    except Exception as error:
        return kind_of(error)
    raise AssertionError("it connected")


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
def test_a_port_where_nothing_listens_refuses(scheme: str) -> None:
    assert kind(f"{scheme}://u:{SECRET}@127.0.0.1:{free_port()}/0") == "ConnectionRefused"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
def test_a_name_that_nobody_knows_is_not_resolved(scheme: str) -> None:
    assert kind(f"{scheme}://u:{SECRET}@cart-{scheme}.invalid/0") == "NameNotResolved"


def test_a_name_that_no_sentinel_has_is_not_resolved() -> None:
    assert kind("sentinel://nobody.invalid:26379") == "NameNotResolved"


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_a_port_that_speaks_no_tls_fails_the_handshake(scheme: str) -> None:
    with answering(b"-ERR what is this\r\n" * 4) as port:
        assert kind(f"{scheme}://u:{SECRET}@127.0.0.1:{port}/0") == "TlsFailed"


@pytest.mark.parametrize(
    "answer",
    [
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-ERR invalid password\r\n",
    ],
)
def test_a_password_that_redis_refuses(answer: bytes) -> None:
    with answering(answer) as port:
        assert kind(f"redis://:{SECRET}@127.0.0.1:{port}/0") == "AuthenticationRefused"


@pytest.mark.parametrize(
    "url", ["cart-redis:6379", "http://cart/0", "redis://cart:notaport/0", "redis://a/0;amqp://b//", "sqs://"]
)
def test_a_url_of_no_broker_is_invalid(url: str) -> None:
    assert kind(url) == "InvalidUrl"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            amqp.exceptions.AccessRefused("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."),
            "AuthenticationRefused",
        ),
        (amqp.exceptions.AccessRefused("ACCESS_REFUSED - read access to queue 'x' refused"), "NotAllowed"),
        (amqp.exceptions.NotAllowed("NOT_ALLOWED - vhost shop not found"), "VirtualHostRefused"),
        (redis.exceptions.NoPermissionError("this user has no permissions to run the 'llen' command"), "NotAllowed"),
        (redis.exceptions.TimeoutError("Timeout reading from socket"), "TimedOut"),
        (TimeoutError("timed out"), "TimedOut"),
        (ssl.SSLCertVerificationError("self-signed certificate"), "TlsFailed"),
        (OSError(113, "No route to host"), "Unreachable"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "Other"),
        (redis.exceptions.ConnectionError("Connection closed by server."), "Other"),
        (LookupError("no list of queues yet"), "Other"),
    ],
)
def test_what_a_broker_says_has_a_kind(error: Exception, wanted: str) -> None:
    assert kind_of(error) == wanted
    assert wanted in KINDS


def test_an_error_whose_cause_is_itself_ends() -> None:
    error = RuntimeError("x")
    error.__context__ = error
    assert kind_of(error) == "Other"


def test_the_exporter_exports_the_kind_and_nothing_else_of_the_error(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    exporter = Exporter(
        Options.read(
            {
                "GREENWORKER_BROKER": "ns/b/url",
                "GREENWORKER_BROKER_URL_FILE": str(tmp_path / "url"),
                "GREENWORKER_QUEUES": '[{"queue": "feeds"}]',
            }
        )
    )
    assert "greenfleet_queue_broker_error{" not in exporter.scrape().decode(), "not asked yet is no error"
    exporter.poll()
    page = exporter.scrape().decode()
    assert 'greenfleet_queue_broker_error{broker="ns/b/url",reason="ConnectionRefused"} 1' in page
    assert SECRET not in page
    assert "127.0.0.1" not in page
    exporter.problem = exporter.problem_kind = ""
    assert "greenfleet_queue_broker_error{" not in exporter.scrape().decode()
