"""The Prometheus client against a real HTTP server that misbehaves in ways that a real Prometheus cannot be made to.

Every fault is a QueryError with a reason: nothing is ever read as zero.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.prometheus import client as prometheus
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.scrape_interval import NewestSamples
from greenfleet.prometheus.series import AnswerTooLargeError, QueryError, Series
from greenfleet.settings import Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector(*values: str, labels: dict[str, str] | None = None) -> bytes:
    result = [{"metric": labels or {"queue": "feeds"}, "value": [1.0, value]} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> Any:
    """The handler on a free port of loopback; yields the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def ask(handler: Handler, expression: str = "up", tls: ssl.SSLContext | None = None, **settings: Any) -> list[Series]:
    """One query against a server with that handler."""

    async def run() -> list[Series]:
        async with serving(handler, tls) as url:
            server = PrometheusServer("main", Server(url=url, **{"timeout": "2s", **settings}))
            try:
                return await server.query(expression)
            finally:
                await server.close()

    return asyncio.run(run())


def answering(body: bytes, status: int = 200, **options: Any) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, **options)

    return handle


def refused(handler: Handler, **settings: Any) -> QueryError:
    with pytest.raises(QueryError) as error:
        ask(handler, **settings)
    assert "'main'" in error.value.message
    return error.value


def test_a_vector_is_read_with_its_labels_and_the_query_is_sent_as_it_is() -> None:
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path} {(await request.post())['query']}")
        return web.Response(body=vector("3", "4.5"))

    expression = 'a{b="ü\\"&%+"} or c'
    assert ask(handle, expression) == [Series({"queue": "feeds"}, 3.0, 1.0), Series({"queue": "feeds"}, 4.5, 1.0)]
    assert seen == [f"POST /api/v1/query {expression}"]


def test_an_empty_vector_is_no_samples_and_no_error() -> None:
    assert ask(answering(vector())) == []


def test_values_that_are_no_numbers_arrive_as_what_they_are_for_the_autoscaler_to_judge() -> None:
    values = [series.value for series in ask(answering(vector("NaN", "+Inf", "-Inf", "-3", "1e400")))]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, -3.0, math.inf]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"3",
        b'"success"',
        b"{}",
        b"[" * 100_000,
        b'{"status": "error", "errorType": "timeout", "error": "query timed out"}',
        b'{"status": "success"}',
        b'{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": []}]}}',
        b'{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": 3}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [] }',
        b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "0"]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": null}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": []}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "many"]}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, null]}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": null, "value": [1, "1"]}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {"a": 1}, "value": [1, "1"]}]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": ["a"], "value": [1, "1"]}]}}',
        vector("1")[:-5],
    ],
    ids=lambda body: body[:60].decode("latin-1"),
)
def test_an_answer_that_is_no_vector_is_a_bad_answer(body: bytes) -> None:
    assert refused(answering(body)).reason is MetricsIssue.BAD_ANSWER


ODD = {"queue": 'a"b\\c]}, {"metric"', "namespace": "ü\U0001f600", "text": '"result":[{"metric":{}}]'}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_an_answer_is_the_same_however_it_is_cut_into_pieces(size: int) -> None:
    series = [{"metric": ODD, "values": [[1.5, "3"], [2.5, "4"]]}, {"metric": {}, "values": [[1, "NaN"]]}] * 3
    whole = {"status": "success", "data": {"resultType": "matrix", "result": series}, "infos": ["PromQL info: x"]}
    for text in (json.dumps(whole, indent=1), json.dumps(whole, separators=(",", ":"), ensure_ascii=False)):
        found: list[Series] = []
        answer = prometheus._Answer("main", found.append, NewestSamples())
        body = text.encode()
        for start in range(0, len(body), size):
            answer.add(body[start : start + size])
        answer.end()
        assert found[::2] == [Series(ODD, 4.0, 2.5)] * 3, "the newest sample of each"
        assert len(found) == 6


def test_a_native_histogram_where_a_number_should_be_costs_nothing_but_itself() -> None:
    odd = [{"metric": {}, "histogram": [1, {"count": "1"}]}, {"metric": {}, "histograms": [[1, {"count": "1"}]]}]
    fine = {"metric": {"queue": "feeds"}, "value": [1, "3"]}
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": [*odd, fine]}}).encode()
    assert ask(answering(body)) == [Series({"queue": "feeds"}, 3.0, 1.0)]


@pytest.mark.parametrize(
    ("remarks", "partial"),
    [
        ({"warnings": ["receive series from Addr: store-1: context deadline exceeded"]}, True),
        ({"warnings": ["PromQL info: metric might not be a counter", "No StoreAPIs matched"]}, True),
        ({"isPartial": True}, True),
        ({"warnings": [], "infos": ["anything"], "isPartial": False}, False),
        ({"warnings": ["PromQL info: metric might not be a counter"]}, False),
        ({"warnings": ["PromQL warning: encountered a mix of histograms and floats"]}, False),
    ],
)
def test_a_partial_answer_is_no_answer_and_a_remark_on_data_is_none_of_it(
    remarks: dict[str, Any], partial: bool
) -> None:
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}, **remarks}).encode()
    if not partial:
        assert ask(answering(body)) == []
        return
    error = refused(answering(body))
    assert error.reason is MetricsIssue.PARTIAL_ANSWER
    assert "store-1" not in error.message, "an address of the server's own"


def test_others_have_their_turn_while_a_large_answer_is_read_and_none_of_it_is_kept() -> None:
    reader = Path(__file__).with_name("large_answer.py")
    done = subprocess.run([sys.executable, str(reader)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["taken"] == found["series"]
    assert found["turns"] >= found["bytes"] // 65536
    assert found["peak"] < found["bytes"] / 10, "the answer is never in memory as a whole, neither as text nor parsed"


@pytest.mark.parametrize("label", ["a", "z"])
def test_one_endless_series_is_not_kept_either_and_its_namespace_is_named(label: str) -> None:
    """The labels of a series come in the order of their names: what is to blame may come first or last."""
    metric = json.dumps({label: "x" * (8 * prometheus.MAX_SERIES_BYTES), "namespace": "evil"}, sort_keys=True)
    body = f'{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{metric},'.encode()
    answer = prometheus._Answer("main", lambda _: None, NewestSamples())
    with pytest.raises(AnswerTooLargeError) as error:
        for start in range(0, len(body), 65536):
            answer.add(body[start : start + 65536])
            assert len(answer._text) <= 2 * prometheus.MAX_SERIES_BYTES
    assert error.value.namespace == "evil"
    assert "a series longer than 1 MiB" in error.value.message
    assert "more than" not in error.value.message, "the whole answer is not too large"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 502, 503])
def test_an_http_error_is_a_bad_answer_with_its_status(status: int) -> None:
    error = refused(answering(vector("0"), status))
    assert error.reason is MetricsIssue.BAD_ANSWER
    assert str(status) in error.message


SERVER = "prometheus.servers.main"


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (302, f": correct {SERVER}.url, because a redirect is not followed"),
        (401, f": correct {SERVER}.bearerTokenFile, basicAuth or headers, or the server's own rules"),
        (403, f": correct {SERVER}.bearerTokenFile, basicAuth or headers, or the server's own rules"),
        (404, f": correct the path of {SERVER}.url"),
        (422, ""),
        (503, ""),
    ],
)
def test_a_status_that_the_administrator_can_change_names_the_setting(status: int, fix: str) -> None:
    error = refused(answering(vector("0"), status))
    assert error.message == f"Prometheus 'main' answered with HTTP status {status}{fix}"


@pytest.mark.parametrize("status", [400, 422])
def test_an_expression_that_a_pool_brought_and_prometheus_cannot_read_is_named(status: int) -> None:
    async def run() -> str:
        async with serving(answering(b"parse error", status)) as url:
            server = PrometheusServer("main", Server(url=url))
            with pytest.raises(QueryError) as error:
                await server.read("sum(up{)", lambda _: None, of_a_pool=True)
            await server.close()
            return error.value.message

    assert asyncio.run(run()).endswith(f"HTTP status {status}: correct scaling.prometheus.query")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_to_wherever_it_points(status: int) -> None:
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        followed.append(request.path)
        return web.Response(body=vector("0"))

    async def run() -> None:
        async with (
            serving(elsewhere) as target,
            serving(answering(b"", status, headers={"Location": f"{target}/secret"})) as url,
        ):
            server = PrometheusServer("main", Server(url=url, timeout="2s"))
            with pytest.raises(QueryError) as error:
                await server.query("up")
            assert error.value.reason is MetricsIssue.BAD_ANSWER
            await server.close()

    asyncio.run(run())
    assert followed == []


def test_a_huge_answer_is_refused_before_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_ANSWER_BYTES", 256 * 1024)
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    assert refused(endless, timeout="20s").reason is MetricsIssue.BAD_ANSWER
    assert sent < 64 * 1024 * 1024


def test_a_compressed_bomb_counts_with_its_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_ANSWER_BYTES", 256 * 1024)
    bomb = gzip.compress(b" " * (32 * 1024 * 1024))
    error = refused(answering(bomb, headers={"Content-Encoding": "gzip"}))
    assert error.reason in (MetricsIssue.BAD_ANSWER, MetricsIssue.UNREACHABLE)


def test_a_server_that_never_answers_is_given_up_at_the_timeout() -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    error = refused(hang, timeout="100ms")
    assert error.reason is MetricsIssue.UNREACHABLE
    assert "in time" in error.message


def test_a_server_that_trickles_is_given_up_at_the_timeout() -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    assert refused(trickle, timeout="200ms").reason is MetricsIssue.UNREACHABLE


def test_a_connection_that_breaks_in_the_middle_is_unreachable() -> None:
    async def tear(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"status"')
        assert request.transport is not None
        request.transport.abort()
        return response

    assert refused(tear).reason is MetricsIssue.UNREACHABLE


def test_nobody_listening_is_unreachable_and_the_address_is_not_in_the_message() -> None:
    async def run() -> QueryError:
        async with serving(answering(b"")) as url:
            pass
        server = PrometheusServer("main", Server(url=url))
        try:
            with pytest.raises(QueryError) as error:
                await server.query("up")
            return error.value
        finally:
            await server.close()

    error = asyncio.run(run())
    assert error.reason is MetricsIssue.UNREACHABLE
    assert "127.0.0.1" not in error.message


def test_every_query_is_counted_with_its_reason() -> None:
    seen: list[tuple[str, str]] = []

    async def run() -> None:
        async with serving(answering(b"no")) as url:
            server = PrometheusServer(
                "main", Server(url=url), lambda name, seconds, failure, of_a_pool: seen.append((name, failure))
            )
            with pytest.raises(QueryError):
                await server.query("up")
            await server.close()
        async with serving(answering(vector("1"))) as url:
            server = PrometheusServer(
                "main", Server(url=url), lambda name, seconds, failure, of_a_pool: seen.append((name, failure))
            )
            await server.query("up")
            await server.close()

    asyncio.run(run())
    assert seen == [("main", "PrometheusBadAnswer"), ("main", "")]


def test_a_bearer_token_is_read_again_when_it_was_rotated(tmp_path: Path) -> None:
    token = tmp_path / "token"
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=vector())

    async def run() -> None:
        async with serving(handle) as url:
            server = PrometheusServer("main", Server(url=url, bearer_token_file=str(token)))
            for value in ("one\n", "two\n"):
                token.write_text(value)
                await server.query("up")
            token.unlink()
            with pytest.raises(QueryError, match="credentials") as error:
                await server.query("up")
            assert error.value.reason is MetricsIssue.UNREACHABLE
            await server.close()

    asyncio.run(run())
    assert seen == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("kind", ["bearer", "basic"])
def test_a_tenants_header_stays_beside_credentials(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    files = {
        "bearer": {"bearerTokenFile": str(secret)},
        "basic": {"basicAuth": {"usernameFile": str(secret), "passwordFile": str(secret)}},
    }[kind]
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        kind, _, _ = request.headers.get("Authorization", "").partition(" ")
        seen.append((request.headers.get("X-Scope-OrgID"), kind.lower()))
        return web.Response(body=vector("3"))

    assert ask(handle, "up", headers={"X-Scope-OrgID": "team-a"}, **files)[0].value == 3
    assert seen == [("team-a", kind)]


def test_basic_authentication_comes_from_files(tmp_path: Path) -> None:
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("reader\n")
    password.write_text("s3cr:et\n")

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Basic cmVhZGVyOnMzY3I6ZXQ="
        return web.Response(body=vector("1"))

    auth = {"usernameFile": str(user), "passwordFile": str(password)}
    assert len(ask(handle, basic_auth=auth)) == 1


@pytest.mark.parametrize(
    ("field", "content", "parts"),
    [
        ("bearerTokenFile", "t\xf6ken".encode("latin-1"), ["not UTF-8", "write it as UTF-8"]),
        ("basicAuth.usernameFile", "us\xe9r".encode("latin-1"), ["not UTF-8", "write it as UTF-8"]),
        ("basicAuth.passwordFile", "p\xe4ss".encode("latin-1"), ["not UTF-8", "write it as UTF-8"]),
        ("basicAuth.usernameFile", b"team:reader", ["a colon", "without one"]),
        ("bearerTokenFile", b"one\ntwo", ["control characters", "write one line"]),
        ("bearerTokenFile", b"one\0two", ["control characters", "write one line"]),
        ("bearerTokenFile", None, ["No such file", "mount it, or correct the path"]),
        ("basicAuth.passwordFile", None, ["No such file", "mount it, or correct the path"]),
    ],
)
def test_credentials_that_cannot_be_sent_are_named_with_their_file(
    tmp_path: Path, field: str, content: bytes | None, parts: list[str]
) -> None:
    fine, file = tmp_path / "fine", tmp_path / "file"
    fine.write_text("reader")
    if content is not None:
        file.write_bytes(content)
    group, _, name = field.partition(".")
    both = {"usernameFile": str(fine), "passwordFile": str(fine)}
    settings: dict[str, Any] = {group: {**both, name: str(file)} if name else str(file)}

    async def handle(request: web.Request) -> web.StreamResponse:
        raise AssertionError("nothing is sent")

    with pytest.raises(QueryError) as error:
        ask(handle, **settings)
    assert error.value.reason is MetricsIssue.UNREACHABLE
    assert error.value.message.startswith(f"prometheus.servers.main.{field} is {str(file)!r}")
    for part in parts:
        assert part in error.value.message


def test_a_request_that_cannot_be_made_is_a_failure_of_its_server_alone() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise AssertionError("nothing is sent")

    with pytest.raises(QueryError, match="cannot be asked") as error:
        ask(handle, bearer_token_file="/no\0path")
    assert error.value.reason is MetricsIssue.UNREACHABLE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"],
            *["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


def test_an_unknown_certificate_is_refused_unless_its_authority_is_named(certificate: tuple[Path, Path]) -> None:
    key, public = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(public, key)
    handler = answering(vector("1"))
    assert refused(handler, tls=tls).reason is MetricsIssue.UNREACHABLE
    assert len(ask(handler, tls=tls, ca_file=str(public))) == 1
    assert len(ask(handler, tls=tls, insecure_skip_verify=True)) == 1


@pytest.mark.parametrize(
    ("field", "content", "parts"),
    [
        ("caFile", None, ["that file cannot be read (No such file", "mount it, or correct the path"]),
        ("caFile", "not a certificate", ["that file is no bundle of certificates", "write them in PEM"]),
        ("certFile", None, ["that file cannot be read (No such file", "mount it, or correct the path"]),
        ("certFile", "not a certificate", ["that file and keyFile are no pair", "write a certificate and its key"]),
        ("keyFile", None, ["that file cannot be read (No such file", "mount it, or correct the path"]),
    ],
)
def test_a_file_for_tls_that_cannot_be_used_is_named_with_its_setting(
    field: str, content: str | None, parts: list[str], tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    key, public = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(public, key)
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    fine = {"caFile": str(public), "certFile": str(public), "keyFile": str(key)}
    with pytest.raises(QueryError) as error:
        ask(answering(vector("1")), tls=tls, **{**fine, field: str(file)})
    assert error.value.reason is MetricsIssue.UNREACHABLE
    assert error.value.message.startswith(f"{SERVER}.{field} is {str(file)!r}")
    for part in parts:
        assert part in error.value.message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, "3"], [2, "NaN"]], (3.0, 1.0)),
        ([[1, "3"], [2, "NaN"], [3, "4"]], (4.0, 3.0)),
    ],
)
def test_a_staleness_marker_of_victoriametrics_is_no_value(values: list[Any], expected: tuple[float, float]) -> None:
    result = [{"metric": {"queue": "feeds"}, "values": values}]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
    assert [(series.value, series.at) for series in ask(answering(body))] == [expected]


def test_a_gauge_that_stays_nan_is_nan() -> None:
    result = [{"metric": {}, "values": [[1, "3"], [2, "NaN"], [3, "NaN"]]}]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
    assert math.isnan(ask(answering(body))[0].value)


def test_a_path_prefix_headers_and_parameters_are_sent_with_each_query() -> None:
    seen: list[tuple[str, str | None, str]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        tenant = request.headers.get("X-Scope-OrgID")
        seen.append((request.path, tenant, request.query.get("partial_response", "")))
        return web.Response(body=vector("3") if tenant == "team-a" else b"no org id", status=200 if tenant else 401)

    async def run(**settings: Any) -> list[Series]:
        async with serving(handle) as url:
            server = PrometheusServer("main", Server(url=f"{url}/prometheus/", **settings))
            try:
                return await server.query("up")
            finally:
                await server.close()

    with pytest.raises(QueryError, match="401"):
        asyncio.run(run())
    more = {"headers": {"X-Scope-OrgID": "team-a"}, "query_parameters": {"partial_response": "false"}}
    assert asyncio.run(run(**more))[0].value == 3
    assert seen == [("/prometheus/api/v1/query", None, ""), ("/prometheus/api/v1/query", "team-a", "false")]
