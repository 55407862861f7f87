"""``rediss://`` and ``amqps://``: with a CA and without checking, for the worker and for the exporter."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenworker.queues.broker import Queue
from greenworker.queues.rabbitmq import RabbitBroker
from greenworker.queues.redis import RedisBroker
from tests.integration.worker.harness import Producer, RabbitMQ, Redis, Worker, eventually, free_port

Start = Callable[..., Worker]


def certificate_in(directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine, which is its own CA, and its key."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is missing: apt-get install -y openssl")
    key, certificate = directory / "key.pem", directory / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL without a wish for checking, and the CA."""
    certificate, key = certificate_in(tmp_path)
    port = free_port()
    server = Redis(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-auth-clients", "no",
    )  # fmt: skip
    yield f"rediss://localhost:{port}/0", certificate
    server.stop()


@pytest.fixture
def rabbit_tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The same for RabbitMQ."""
    certificate, key = certificate_in(tmp_path)
    directory, port = tmp_path / "rabbit", free_port()
    directory.mkdir()
    settings = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {certificate}\n"
        f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
    )
    server = RabbitMQ(directory, settings=settings)
    yield f"amqps://guest:guest@localhost:{port}//", certificate
    server.stop()


@pytest.mark.parametrize("how", ["unchecked", "url", "mounted"])
def test_worker_and_exporter_speak_tls(tls: tuple[str, Path], start_worker: Start, how: str) -> None:
    url, certificate = tls
    if how == "url":
        url += f"?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate}"
    producer: Any = Producer(url)
    for number in range(3):
        producer.noop.delay(number)
    depths = RedisBroker(url, None).depths((Queue("feeds"),))
    assert depths["feeds"].ready == 3
    assert RedisBroker(url, certificate).depths((Queue("feeds"),)) == depths
    worker = start_worker(
        url, environment={"GREENWORKER_BROKER_CA_FILE": str(certificate)} if how == "mounted" else {}
    ).ready()
    eventually(lambda: worker.ledger.done() == 3, "done over TLS")


@pytest.mark.slow
def test_worker_and_exporter_speak_amqps(rabbit_tls: tuple[str, Path], start_worker: Start, tmp_path: Path) -> None:
    """Checked against the CA that the resource names; a certificate of somebody else is refused by both."""
    url, certificate = rabbit_tls
    producer: Any = Producer(url, broker_use_ssl={"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(certificate)})
    for number in range(3):
        producer.noop.delay(number)
    exporter = RabbitBroker(url, certificate)
    assert exporter.depths((Queue("feeds"),))["feeds"].ready == 3
    exporter.close()
    worker = start_worker(url, environment={"GREENWORKER_BROKER_CA_FILE": str(certificate)}).ready()
    eventually(lambda: worker.ledger.done() == 3, "done over TLS")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    (tmp_path / "stranger").mkdir()
    stranger, _ = certificate_in(tmp_path / "stranger")
    with pytest.raises(ssl.SSLError):
        RabbitBroker(url, stranger)
    refused = start_worker(url, environment={"GREENWORKER_BROKER_CA_FILE": str(stranger)})
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in refused.log.read_text(), "the worker says why it cannot connect")
    assert refused.status("/readyz") == 503
