"""``rediss://`` and ``amqps://``: who answers is checked before anything is said to them, by the worker, its companion
and the exporter.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from greenworker.exporter.broker import Queue
from greenworker.exporter.connect import connect
from greenworker.exporter.rabbitmq import RabbitBroker
from greenworker.exporter.redis import RedisBroker
from greenworker.misconfigured import MisconfiguredError
from greenworker.tls import Trust
from tests.integration.worker.harness import Producer, RabbitMQ, Redis, Worker, eventually
from tests.ports import free_port

Start = Callable[..., Worker]

PASSWORD = "only-for-friends"  # noqa: S105 - of a server on loopback that lives for seconds
KEEP = {"APP_CONF": "{'task_ignore_result': False}"}
SKIP = {"GREENWORKER_BROKER_INSECURE_SKIP_VERIFY": "true"}


def certificate_in(directory: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
    """A certificate for *names*, which is its own CA, and its key."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is missing: apt-get install -y openssl")
    directory.mkdir(parents=True, exist_ok=True)
    key, certificate = directory / "key.pem", directory / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@dataclass
class TlsRedis:
    """A Redis that asks for a password, over TLS and, for the test alone, without."""

    url: str
    ca: Path
    admin: redis.Redis

    def told(self) -> list[str]:
        """The commands that it was sent since the start, besides the test's own."""
        ours = {"config|resetstat", "info"}
        return sorted(
            name.removeprefix("cmdstat_")
            for name in self.admin.info("commandstats")
            if name.removeprefix("cmdstat_") not in ours
        )


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[Callable[..., TlsRedis]]:
    """Start one whose certificate is for *names*."""
    servers = []

    def start(names: str = "DNS:localhost,IP:127.0.0.1") -> TlsRedis:
        certificate, key = certificate_in(tmp_path / f"server{len(servers)}", names)
        port = free_port()
        servers.append(
            Redis(
                certificate.parent, "--tls-port", str(port), "--tls-cert-file", str(certificate),
                "--tls-key-file", str(key),
                "--tls-auth-clients", "no", "--requirepass", PASSWORD, password=PASSWORD,
            )
        )  # fmt: skip
        admin = servers[-1].client()
        admin.config_resetstat()
        return TlsRedis(f"rediss://:{PASSWORD}@localhost:{port}/0", certificate, admin)

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[int, Path, bytearray]]:
    """A TLS server that nobody should trust: its port, its certificate, and everything that it was told after the
    handshake.
    """
    certificate, key = certificate_in(tmp_path / "impostor", "DNS:elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    received = bytearray()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.settimeout(2)
                received.extend(secured.recv(4096))

    Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], certificate, received
    listener.close()


def test_worker_companion_and_exporter_speak_tls_with_the_ca_that_the_resource_names(
    tls_redis: Callable[..., TlsRedis], start_worker: Start
) -> None:
    server = tls_redis()
    producer: Any = Producer(server.url)
    for number in range(3):
        producer.noop.delay(number)
    assert RedisBroker(server.url, Trust(server.ca)).depths((Queue("feeds"),))["feeds"].ready == 3
    mounted = {"GREENWORKER_BROKER_CA_FILE": str(server.ca)}
    worker = start_worker(server.url, environment=mounted).ready()
    eventually(lambda: worker.journal.done() == 3, "done over TLS")
    start_worker(server.url, environment=mounted, pool="prefork", arguments=["-c", "1"]).ready()
    in_parts = {
        "GREENWORKER_BROKER_TRANSPORT": "rediss",
        "GREENWORKER_BROKER_HOST": "localhost",
        "GREENWORKER_BROKER_PORT": server.url.rpartition(":")[2].partition("/")[0],
        "GREENWORKER_BROKER_PASSWORD": PASSWORD,
    }
    start_worker("", environment={**mounted, **in_parts}).ready()
    start_worker("", environment={**mounted, **in_parts}, pool="prefork", arguments=["-c", "1"]).ready()


def test_without_a_ca_the_images_own_bundle_counts(tls_redis: Callable[..., TlsRedis], start_worker: Start) -> None:
    server = tls_redis()
    start_worker(server.url, environment={"SSL_CERT_FILE": str(server.ca)}).ready()


@pytest.mark.parametrize("why", ["unknown authority", "another authority", "another host"])
def test_nothing_is_said_to_a_redis_that_is_not_trusted(
    tls_redis: Callable[..., TlsRedis], start_worker: Start, tmp_path: Path, why: str
) -> None:
    server = tls_redis("DNS:elsewhere.example" if why == "another host" else "DNS:localhost,IP:127.0.0.1")
    authority = {
        "unknown authority": None,
        "another authority": certificate_in(tmp_path / "other")[0],
        "another host": server.ca,
    }[why]
    with pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        RedisBroker(server.url, Trust(authority))
    environment = {"GREENWORKER_BROKER_CA_FILE": str(authority)} if authority else {}
    refused = [
        start_worker(server.url, environment=environment),
        start_worker(server.url, environment=environment, pool="prefork", arguments=["-c", "1"]),
    ]
    for worker in refused:
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log.read_text(), "it says why it cannot connect")  # noqa: B023
        assert worker.status("/readyz") == 503
    assert server.told() == []


def test_who_must_may_turn_the_check_off_and_is_warned(tls_redis: Callable[..., TlsRedis], start_worker: Start) -> None:
    server = tls_redis("DNS:elsewhere.example")
    exporter = RedisBroker(server.url, Trust(skip_verify=True))
    assert exporter.depths((Queue("feeds"),))["feeds"].ready == 0
    worker = start_worker(server.url, environment=SKIP).ready()
    assert "certificate is not checked" in worker.log.read_text()
    companion = start_worker(server.url, environment=SKIP, pool="prefork", arguments=["-c", "1"]).ready()
    assert "certificate is not checked" in companion.log.read_text()


def test_what_the_url_says_itself_wins_and_is_warned_of(
    tls_redis: Callable[..., TlsRedis], start_worker: Start
) -> None:
    server = tls_redis("DNS:elsewhere.example")
    url = f"{server.url}?ssl_cert_reqs=CERT_NONE"
    RedisBroker(url, Trust())
    worker = start_worker(url).ready()
    assert "certificate is not checked" in worker.log.read_text()


def test_a_url_that_asks_for_checking_is_checked_against_the_resources_ca(
    tls_redis: Callable[..., TlsRedis], start_worker: Start
) -> None:
    """As people write it for the result backend, which does not work without."""
    server = tls_redis()
    url = f"{server.url}?ssl_cert_reqs=required"
    RedisBroker(url, Trust(server.ca))
    start_worker(url, environment={"GREENWORKER_BROKER_CA_FILE": str(server.ca)}).ready()


def test_what_the_app_says_itself_wins(tls_redis: Callable[..., TlsRedis], start_worker: Start) -> None:
    server = tls_redis()
    worker = start_worker(server.url, environment={"APP_CONF": "{'broker_use_ssl': {'ssl_cert_reqs': 'none'}}"}).ready()
    assert "certificate is not checked" in worker.log.read_text()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
@pytest.mark.parametrize("query", ["ssl_ca_certs={ca}", "ssl_cert_reqs=none", "ssl=true"])
def test_options_for_tls_on_a_plain_url_are_refused_before_anything_is_said(
    tls_redis: Callable[..., TlsRedis], start_worker: Start, query: str, pool: str
) -> None:
    server = tls_redis("DNS:elsewhere.example")
    url = f"{server.url.replace('rediss', 'redis')}?{query.format(ca=server.ca)}"
    with pytest.raises(MisconfiguredError, match="rediss"):
        connect(url, Trust())
    worker = start_worker(url, pool=pool, arguments=["-c", "1"] if pool == "prefork" else [])
    assert worker.wait(20) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert (said["field"], said["value"]) == ("broker.urlFrom", f"redis://…?{query.partition('=')[0]}")
    assert server.told() == []


@pytest.mark.parametrize("trusted", [True, False])
def test_the_result_backend_is_checked_too(
    redis_broker: Redis, tls_redis: Callable[..., TlsRedis], start_worker: Start, trusted: bool
) -> None:
    """A ``rediss://`` without parameters, with which stock Celery does not start."""
    server = tls_redis()
    ca = {"GREENWORKER_RESULT_BACKEND_CA_FILE": str(server.ca)} if trusted else {}
    worker = start_worker(redis_broker.url, environment={"CELERY_RESULT_BACKEND": server.url, **KEEP, **ca}).ready()
    producer: Any = Producer(redis_broker.url)
    producer.app.conf.task_ignore_result = False
    producer.noop.delay(1)
    if trusted:
        eventually(lambda: "set" in server.told() or "setex" in server.told(), "the result is stored")
    else:
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log.read_text(), "it says why it stores nothing")
        assert server.told() == []


def test_the_exporter_says_nothing_to_a_rabbitmq_that_is_not_trusted(impostor: tuple[int, Path, bytearray]) -> None:
    port, certificate, received = impostor
    url = f"amqps://guest:guest@localhost:{port}//"
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        RabbitBroker(url, Trust(certificate))
    assert not received


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_the_worker_says_nothing_to_a_rabbitmq_of_another_name(
    impostor: tuple[int, Path, bytearray], start_worker: Start, pool: str
) -> None:
    port, certificate, received = impostor
    worker = start_worker(
        f"amqps://guest:guest@localhost:{port}//", environment={"GREENWORKER_BROKER_CA_FILE": str(certificate)},
        pool=pool, arguments=["-c", "1"] if pool == "prefork" else [],
    )  # fmt: skip
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log.read_text(), "it says why it cannot connect")
    assert "ostname mismatch" in worker.log.read_text()
    assert not received


@pytest.fixture
def rabbit_tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and CA of a RabbitMQ that speaks TLS."""
    certificate, key = certificate_in(tmp_path / "certificate")
    directory, port = tmp_path / "rabbit", free_port()
    directory.mkdir()
    settings = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {certificate}\n"
        f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
    )
    server = RabbitMQ(directory, settings=settings)
    yield f"amqps://guest:guest@localhost:{port}//", certificate
    server.stop()


@pytest.mark.slow
def test_worker_companion_and_exporter_speak_amqps(
    rabbit_tls: tuple[str, Path], start_worker: Start, tmp_path: Path
) -> None:
    """Checked against the CA that the resource names; a certificate of somebody else is refused by both."""
    url, certificate = rabbit_tls
    producer: Any = Producer(url, broker_use_ssl={"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(certificate)})
    for number in range(3):
        producer.noop.delay(number)
    exporter = RabbitBroker(url, Trust(certificate))
    assert exporter.depths((Queue("feeds"),))["feeds"].ready == 3
    exporter.close()
    mounted = {"GREENWORKER_BROKER_CA_FILE": str(certificate)}
    worker = start_worker(url, environment=mounted).ready()
    eventually(lambda: worker.journal.done() == 3, "done over TLS")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    start_worker(url, environment=mounted, pool="prefork", arguments=["-c", "1"]).ready()
    stranger, _ = certificate_in(tmp_path / "stranger")
    for trust in (Trust(), Trust(stranger)):
        with pytest.raises(ssl.SSLError):
            RabbitBroker(url, trust)
    RabbitBroker(url, Trust(stranger, skip_verify=True)).close()
    refused = start_worker(url, environment={"GREENWORKER_BROKER_CA_FILE": str(stranger)})
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in refused.log.read_text(), "the worker says why it cannot connect")
    assert refused.status("/readyz") == 503
