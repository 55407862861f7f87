"""Instant queries against one Prometheus server, with limits on time and size.

Every failure is a `QueryError` with a reason that fits into a condition: the caller holds, it never reads a failure as
zero. An answer is read and handed on series by series, in pieces between which everything else in the process runs on.
Credentials come from files that are read again whenever they change, so that rotation needs no restart.

Why not a client library: those on the package index hold a whole answer in memory before they show a series of it,
block their thread, and have no bound on its size, which whoever exports series decides.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from greenfleet.api import duration_seconds
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.prometheus.scrape_interval import NewestSamples, ScrapeInterval
from greenfleet.prometheus.series import AnswerTooLargeError, LateAnswerError, QueryError, Series
from greenfleet.settings import Server

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Nobody reads more of an answer than this. 1,000 idle pools need about 2 MB, 1,000 workers about 10 MB."""
MAX_SERIES_BYTES = 1024 * 1024
"""The longest text of one series, in characters. Prometheus itself sets no limit on the length of a label."""
_PIECE_BYTES = 64 * 1024
"""So much is parsed before others have their turn: some 2 ms."""
_PARAMETERS = {"nocache": "1"}
"""Without it VictoriaMetrics evaluates an instant query as of 30 s ago (`-search.latencyOffset`). Others ignore it."""
_RESULT = re.compile(r'"result"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")
_LONGEST_NAMESPACE = 100
"""Characters of `"namespace":"…"`, with room to spare."""
_NAMESPACE = re.compile(r'"namespace"\s*:\s*"([^"\\]*)"')


class Observe(Protocol):
    """Is called for every query; failure "" is success."""

    def __call__(self, server: str, seconds: float, failure: str, *, of_a_pool: bool) -> None: ...


def _observe_nothing(server: str, seconds: float, failure: str, *, of_a_pool: bool) -> None:
    """Nobody counts."""


class PrometheusServer:
    """One server that the administrator named."""

    def __init__(
        self,
        name: str,
        settings: Server,
        observe: Observe = _observe_nothing,
    ) -> None:
        self.name = name
        self.scrape_interval_seconds = duration_seconds(settings.scrape_interval)
        self._settings = settings
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[tuple[float, ...], ssl.SSLContext] | None = None
        self.scrapes = ScrapeInterval(self.scrape_interval_seconds)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def query(self, expression: str) -> list[Series]:
        """All series that `expression` yields now, each with its newest sample. Raises QueryError."""
        found: list[Series] = []
        await self.read(expression, found.append)
        return found

    async def read(self, expression: str, take: Callable[[Series], None], *, of_a_pool: bool = False) -> None:
        """Hands every series that `expression` yields now to `take`, one by one. Raises QueryError, after which nothing
        that was taken counts. *of_a_pool*: a pool brought it; it says nothing about the scrape interval of all.
        """
        started = asyncio.get_running_loop().time()
        failure = ""
        newest = NewestSamples()
        try:
            await self._read(expression, _Answer(self.name, take, newest), of_a_pool=of_a_pool)
            if not of_a_pool:
                self.scrapes.observe(newest.result())
        except QueryError as error:
            failure = str(error.reason)
            raise
        finally:
            seconds = asyncio.get_running_loop().time() - started
            self._observe(self.name, seconds, failure, of_a_pool=of_a_pool)

    async def _read(self, expression: str, answer: _Answer, *, of_a_pool: bool) -> None:
        settings = self._settings
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=duration_seconds(settings.timeout))
            )
        try:
            async with self._session.post(
                f"{settings.url.rstrip('/')}/api/v1/query",
                params={**_PARAMETERS, **settings.query_parameters},
                data={"query": expression, "timeout": settings.timeout},
                headers=self._headers(),
                ssl=self._context(),
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    fix = _fix_of_status(response.status, f"prometheus.servers.{self.name}", of_a_pool=of_a_pool)
                    text = f"Prometheus {self.name!r} answered with HTTP status {response.status}{fix}"
                    raise QueryError(MetricsIssue.BAD_ANSWER, text)
                while piece := await response.content.read(_PIECE_BYTES):
                    answer.add(piece)
                    await asyncio.sleep(0)
                answer.end()
        except TimeoutError:
            raise LateAnswerError(f"Prometheus {self.name!r} did not answer in time", answer.sizes()) from None
        except (aiohttp.ClientError, OSError) as error:
            text = f"Prometheus {self.name!r} cannot be reached ({type(error).__name__})"
            raise QueryError(MetricsIssue.UNREACHABLE, text) from None
        except ValueError as error:  # no request can be made of its settings
            text = (
                f"prometheus.servers.{self.name} cannot be asked as it is configured ({type(error).__name__}): "
                "correct its url, headers and files"
            )
            raise QueryError(MetricsIssue.UNREACHABLE, text) from None

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        if settings.bearer_token_file:
            token = self._secret("bearerTokenFile", settings.bearer_token_file)
            if not token.isprintable():
                raise self._bad_secret(
                    "bearerTokenFile", settings.bearer_token_file, "has control characters", "write one line of text"
                )
            return settings.headers | {"Authorization": f"Bearer {token}"}
        if settings.basic_auth.username_file:
            user = self._secret("basicAuth.usernameFile", settings.basic_auth.username_file)
            password = self._secret("basicAuth.passwordFile", settings.basic_auth.password_file)
            if ":" in user:
                raise self._bad_secret(
                    "basicAuth.usernameFile",
                    settings.basic_auth.username_file,
                    "has a colon, which ends the name of a user",
                    "use a name without one",
                )
            return settings.headers | {"Authorization": aiohttp.encode_basic_auth(user, password)}
        return settings.headers

    def _secret(self, field: str, path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
            raise self._bad_secret(field, path, what, "mount it, or correct the path") from None
        except UnicodeDecodeError:
            raise self._bad_secret(field, path, "is not UTF-8", "write it as UTF-8") from None

    def _bad_secret(self, field: str, path: str, what: str, fix: str) -> QueryError:
        return self._bad_file(field, path, f"that file with credentials {what}", fix)

    def _bad_file(self, field: str, path: str, what: str, fix: str) -> QueryError:
        text = f"prometheus.servers.{self.name}.{field} is {path!r}, and {what}: {fix}"
        return QueryError(MetricsIssue.UNREACHABLE, text)

    def _context(self) -> ssl.SSLContext | bool:
        """What aiohttp takes as `ssl`: True is the image's own authorities, False is no check at all. Raises
        QueryError.
        """
        settings = self._settings
        if not settings.url.startswith("https:"):
            return True
        files = {"caFile": settings.ca_file, "certFile": settings.cert_file, "keyFile": settings.key_file}
        changed = tuple(self._changed_at(field, path) for field, path in files.items() if path)
        if not changed:
            return not settings.insecure_skip_verify
        if self._tls is None or self._tls[0] != changed:
            self._tls = (changed, self._made_context())
        return self._tls[1]

    def _changed_at(self, field: str, path: str) -> float:
        """Unix time of the last change of a file that can be read. Raises QueryError."""
        try:
            with Path(path).open("rb") as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError as error:
            what = f"that file cannot be read ({error.strerror})"
            raise self._bad_file(field, path, what, "mount it, or correct the path") from None

    def _made_context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError:  # ssl.SSLError is one
            what = "that file is no bundle of certificates"
            raise self._bad_file("caFile", settings.ca_file, what, "write them in PEM") from None
        if settings.insecure_skip_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if settings.cert_file:
            try:
                context.load_cert_chain(settings.cert_file, settings.key_file)
            except OSError:
                what = "that file and keyFile are no pair"
                fix = "write a certificate and its key, in PEM and without a password"
                raise self._bad_file("certFile", settings.cert_file, what, fix) from None
        return context


def _fix_of_status(status: int, server: str, *, of_a_pool: bool) -> str:
    """What to do about an HTTP status, after a colon; "" where the number says enough. *server*: its place in the
    operator's configuration.
    """
    if status < 400:
        return f": correct {server}.url, because a redirect is not followed"
    if status in (401, 403):  # Mimir answers 401 to a request without a tenant
        return f": correct {server}.bearerTokenFile, basicAuth or headers, or the server's own rules"
    if status == 404:
        return f": correct the path of {server}.url"
    if status in (400, 422) and of_a_pool:  # Prometheus: an expression with an error, or one that cannot be evaluated
        return ": correct scaling.prometheus.query"
    return ""


class _Answer:
    """An answer of Prometheus' HTTP API while it comes in.

    The result is taken apart series by series; what stands around it is put together again and judged at the end.
    """

    def __init__(self, server: str, take: Callable[[Series], None], newest: NewestSamples) -> None:
        self._server = server
        self._take = take
        self._newest = newest
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._decoder = json.JSONDecoder()
        self._text = ""
        """What has not been parsed yet."""
        self._head = ""
        """What came before the result."""
        self._in_result = False
        self._after_result = False
        self._skips = False
        """Whether it, or one of its series, is too large already, and only the namespace to blame is looked for."""
        self._size = 0
        self._sizes: defaultdict[str, int] = defaultdict(int)
        """Characters by the namespace that they are about."""

    def sizes(self) -> Mapping[str, int]:
        """Characters so far, by the namespace that they are about."""
        return dict(self._sizes)

    def add(self, piece: bytes) -> None:
        """Raises QueryError."""
        self._size += len(piece)
        if self._size > MAX_ANSWER_BYTES and not self._skips:
            largest = max(self._sizes, key=self._sizes.__getitem__, default="")
            if len(self._text) <= self._sizes[largest]:
                raise self._too_large(largest, self._sizes)
            self._skips = True
        try:
            text = self._decode(piece)
            if self._skips:
                self._skip(text)
            else:
                self._parse(text)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise self._bad() from None

    def end(self) -> None:
        """Nothing more comes. Raises QueryError."""
        try:
            if self._skips:
                raise self._too_large("")
            if not self._after_result:
                raise ValueError
            around: Any = json.loads(f"{self._head}[]{self._text}")
            if around["status"] != "success" or around["data"]["resultType"] not in ("vector", "matrix"):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._bad() from None
        if is_partial(around):
            text = (
                f"Prometheus {self._server!r} answered with a part of what it knows: look which of its stores (Thanos) "
                "or storage nodes (VictoriaMetrics) it does not reach"
            )
            raise QueryError(MetricsIssue.PARTIAL_ANSWER, text)

    def _parse(self, text: str) -> None:
        self._text += text
        if not self._in_result:
            found = _RESULT.search(self._text)
            if found is None:
                if len(self._text) > _PIECE_BYTES:
                    raise ValueError
                return
            self._head, self._text = self._text[: found.end() - 1], self._text[found.end() :]
            self._in_result = True
        elif self._after_result:
            if len(self._text) > MAX_SERIES_BYTES:
                raise ValueError
            return
        elif "}" not in text and "]" not in text:  # no series ends here
            self._check_length()
            return
        position = 0
        while (start := _BETWEEN.match(self._text, position).end()) < len(self._text):  # type: ignore[union-attr]
            position = start
            if self._text[position] == "]":
                self._after_result, position = True, position + 1
                break
            try:
                item, end = self._decoder.raw_decode(self._text, position)
            except json.JSONDecodeError:
                break  # the rest of it is still to come, or it is no JSON: the end tells
            self._read_item(item, end - position)
            position = end
        self._text = self._text[position:]
        self._check_length()

    def _check_length(self) -> None:
        if len(self._text) > MAX_SERIES_BYTES:
            self._skips = True
            self._skip("")

    def _skip(self, text: str) -> None:
        """Within a series that is too long. Nothing of it is kept; all that matters is whose it is."""
        self._text += text
        if found := _NAMESPACE.search(self._text):
            raise self._too_large(found[1])
        self._text = self._text[-_LONGEST_NAMESPACE:]

    def _read_item(self, item: Any, size: int) -> None:
        metric = item["metric"]
        if not isinstance(metric, dict):
            raise TypeError
        self._sizes[metric.get("namespace", "")] += size
        values = _without_staleness_marker(item["values"]) if "values" in item else []
        sample: Any = values[-1] if "values" in item else item.get("value")
        if sample is None and ("histogram" in item or "histograms" in item):
            return  # a native histogram where a number should be: its own pool misses it, and nobody else
        series = Series(_labels(metric), float(sample[1]), float(sample[0]))  # NaN, +Inf and -Inf, too
        if values:
            before = values[-2][0] if len(values) > 1 else None
            self._newest.take(series.labels, series.at, None if before is None else float(before))
        self._take(series)

    def _bad(self) -> QueryError:
        text = f"Prometheus {self._server!r} did not answer with series"
        return QueryError(MetricsIssue.BAD_ANSWER, text)

    def _too_large(self, namespace: str, sizes: Mapping[str, int] | None = None) -> AnswerTooLargeError:
        mib = 1024 * 1024
        what = f"a series longer than {MAX_SERIES_BYTES // mib} MiB"
        if self._size > MAX_ANSWER_BYTES:
            what = f"more than {MAX_ANSWER_BYTES // mib} MiB"
        return AnswerTooLargeError(f"Prometheus {self._server!r} answered with {what}", namespace, sizes or {})


def _without_staleness_marker(values: list[Any]) -> list[Any]:
    """VictoriaMetrics writes the end of a series, which Prometheus leaves out, as one NaN after the last sample. A
    gauge that is NaN says so again at the next scrape.
    """
    is_marker = len(values) > 1 and values[-1][1] == "NaN" and values[-2][1] != "NaN"
    return values[:-1] if is_marker else values


def is_partial(answer: Mapping[str, Any]) -> bool:
    """Whether an answer leaves out something that its server could not reach: Thanos warns, VictoriaMetrics has a field
    for it.

    Remarks of PromQL on an expression or on data (`PromQL info: …`, `PromQL warning: …`) are about what is there.
    """
    warnings = answer.get("warnings") or ()
    return answer.get("isPartial") is True or any(not str(one).startswith("PromQL ") for one in warnings)


def _labels(metric: dict[Any, Any]) -> dict[str, str]:
    if not set(map(type, metric.values())) <= {str}:
        raise TypeError
    return metric
