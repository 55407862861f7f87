"""``rediss://``: with a CA, with a password, and without checking, for the worker and for the exporter."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenworker.queues.broker import Queue
from greenworker.queues.redis import RedisBroker
from tests.integration.worker.harness import Producer, Redis, Worker, eventually, free_port

Start = Callable[..., Worker]


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL without a wish for checking, and the CA."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is missing: apt-get install -y openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    server = Redis(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-auth-clients", "no",
    )  # fmt: skip
    yield f"rediss://localhost:{port}/0", certificate
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
