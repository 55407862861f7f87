"""The Prometheus client against a real Prometheus behind TLS, basic authentication and a bearer proxy, all of it
rotated while it runs.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.series import QueryError, Series
from greenfleet.settings import Server
from tests.integration.operator.harness import eventually, program
from tests.ports import free_port

HASHES = {
    "first-password": "$2b$05$abcdefghijklmnopqrstuuM3sQey8DZviRRkMjmk7wGr.7zlb4loC",
    "second-password": "$2b$05$abcdefghijklmnopqrstuuQQ3svipWaDLu5Kgwa3hvLrUP0FshBnK",
}
"""bcrypt, as Prometheus wants them; passwords of these tests only."""


def certify(directory: Path) -> None:
    """A new key and a self-signed certificate for 127.0.0.1, in place of the old ones."""
    new_key, new_certificate = directory / "key.new", directory / "cert.new"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(new_key), "-out", str(new_certificate)]
    subprocess.run(command, check=True, capture_output=True)
    new_key.replace(directory / "key.pem")
    new_certificate.replace(directory / "cert.pem")


class Guarded:
    """A real Prometheus with a `--web.config.file`, which it reads again for every request."""

    def __init__(self, directory: Path, *, prefix: str = "", client_authority: Path | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}{prefix}"
        self.client_authority = client_authority
        certify(directory)
        self.admit("first-password")
        (directory / "prometheus.yaml").write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}}))
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.config.file={directory / 'web.yaml'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--web.external-url={self.url}",
                "--log.level=warn",
            ],
            stdout=(directory / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        eventually(lambda: self.answers("first-password"), "Prometheus answers over TLS", 60)

    def admit(self, password: str) -> None:
        """From now on only this password opens."""
        tls = {"cert_file": "cert.pem", "key_file": "key.pem"}
        if self.client_authority is not None:
            tls |= {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": str(self.client_authority)}
        config = {
            "tls_server_config": tls,
            "basic_auth_users": {"reader": HASHES[password]},
        }
        new = self.directory / "web.new"
        new.write_text(yaml.safe_dump(config))
        new.replace(self.directory / "web.yaml")

    def answers(self, password: str) -> bool:
        try:
            return bool(ask(self.settings(self.directory / "probe", password)))
        except QueryError:
            return False

    def settings(self, directory: Path, password: str, **more: Any) -> Server:
        directory.mkdir(exist_ok=True)
        if self.client_authority is not None:
            own = self.client_authority.parent
            more = {"cert_file": str(own / "cert.pem"), "key_file": str(own / "key.pem"), **more}
        (directory / "user").write_text("reader\n")
        (directory / "password").write_text(password + "\n")
        auth = {"usernameFile": str(directory / "user"), "passwordFile": str(directory / "password")}
        return Server(**{"url": self.url, "ca_file": str(self.directory / "cert.pem"), "basic_auth": auth, **more})

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def ask(settings: Server) -> list[Series]:
    async def run() -> list[Series]:
        server = PrometheusServer("guarded", settings)
        try:
            return await server.query("vector(1)")
        finally:
            await server.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = Guarded(tmp_path_factory.mktemp("guarded"))
    yield server
    server.stop()


def refused(settings: Server) -> QueryError:
    with pytest.raises(QueryError) as error:
        ask(settings)
    assert "password" not in error.value.message
    return error.value


def test_without_its_certificate_authority_or_with_a_wrong_password_nothing_is_read(
    guarded: Guarded, tmp_path: Path
) -> None:
    guarded.admit("first-password")
    assert refused(guarded.settings(tmp_path, "first-password", ca_file="")).reason is MetricsIssue.UNREACHABLE
    error = refused(guarded.settings(tmp_path, "second-password"))
    assert error.reason is MetricsIssue.BAD_ANSWER
    assert "401" in error.message


def test_a_password_is_rotated_without_a_restart(guarded: Guarded, tmp_path: Path) -> None:
    guarded.admit("first-password")

    async def run() -> None:
        server = PrometheusServer("guarded", guarded.settings(tmp_path, "first-password"))
        assert (await server.query("vector(1)"))[0].value == 1
        guarded.admit("second-password")
        with pytest.raises(QueryError, match="401"):
            await server.query("vector(1)")
        (tmp_path / "password").write_text("second-password\n")
        assert (await server.query("vector(2)"))[0].value == 2
        await server.close()

    asyncio.run(run())


def test_a_certificate_authority_is_rotated_without_a_restart(guarded: Guarded, tmp_path: Path) -> None:
    guarded.admit("first-password")
    bundle = tmp_path / "ca.pem"
    bundle.write_text((guarded.directory / "cert.pem").read_text())

    async def run() -> None:
        settings = guarded.settings(tmp_path, "first-password", ca_file=str(bundle))
        server = PrometheusServer("guarded", settings)
        assert (await server.query("vector(1)"))[0].value == 1
        certify(guarded.directory)
        bundle.write_text((guarded.directory / "cert.pem").read_text())
        assert (await server.query("vector(2)"))[0].value == 2
        await server.close()

    asyncio.run(run())


@pytest.fixture
def bearer_proxy(guarded: Guarded, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A TLS proxy that passes on what comes with the token of a file, as an OAuth proxy in front of Prometheus does."""
    guarded.admit("first-password")
    token = tmp_path / "expected-token"
    upstream_context = ssl.create_default_context(cafile=str(guarded.directory / "cert.pem"))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = 403, b"no"
            if self.headers.get("Authorization") == f"Bearer {token.read_text()}":
                request = urllib.request.Request(guarded.url + self.path, sent, method="POST")
                request.add_header("Authorization", "Basic cmVhZGVyOmZpcnN0LXBhc3N3b3Jk")
                with urllib.request.urlopen(request, context=upstream_context) as answer:
                    status, content = answer.status, answer.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(guarded.directory / "cert.pem", guarded.directory / "key.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", token
    server.shutdown()
    server.server_close()


def test_a_bearer_token_is_rotated_without_a_restart(
    guarded: Guarded, bearer_proxy: tuple[str, Path], tmp_path: Path
) -> None:
    url, expected = bearer_proxy
    ours = tmp_path / "token"
    settings = Server(url=url, ca_file=str(guarded.directory / "cert.pem"), bearer_token_file=str(ours))

    async def run() -> None:
        server = PrometheusServer("guarded", settings)
        for number, token in enumerate(("one", "two"), 1):
            expected.write_text(token)
            if number > 1:
                with pytest.raises(QueryError, match="403"):
                    await server.query("vector(1)")
            ours.write_text(token + "\n")
            assert (await server.query(f"vector({number})"))[0].value == number
        await server.close()

    asyncio.run(run())


def test_a_prometheus_under_a_path_prefix_that_wants_a_certificate_of_the_client(tmp_path: Path) -> None:
    own, another = tmp_path / "own", tmp_path / "another"
    for directory in (own, another, tmp_path / "server"):
        directory.mkdir()
    certify(own)
    certify(another)
    server = Guarded(tmp_path / "server", prefix="/team/prometheus", client_authority=own / "cert.pem")
    try:
        files = tmp_path / "files"
        assert ask(server.settings(files, "first-password"))[0].value == 1
        assert (
            refused(server.settings(files, "first-password", cert_file="", key_file="")).reason
            is MetricsIssue.UNREACHABLE
        )
        foreign = {"cert_file": str(another / "cert.pem"), "key_file": str(another / "key.pem")}
        assert refused(server.settings(files, "first-password", **foreign)).reason is MetricsIssue.UNREACHABLE
        elsewhere = server.url.removesuffix("/prometheus")
        assert "404" in refused(server.settings(files, "first-password", url=elsewhere)).message
    finally:
        server.stop()
