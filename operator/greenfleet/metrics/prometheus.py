"""Instant queries against one Prometheus server, with limits on time and size.

Every failure is a `QueryError` with a reason that fits into a condition: the caller holds, it never reads a failure as zero.
Credentials come from files that are read again whenever they change, so that rotation needs no restart.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from greenfleet.api import duration_seconds
from greenfleet.scaling.types import Blindness
from greenfleet.settings import Server

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer larger than this is refused unread: 2,000 pools need about 4 MB."""


@dataclass(frozen=True, slots=True)
class Series:
    """One sample of an instant vector."""

    labels: dict[str, str]
    value: float


class QueryError(Exception):
    """A query gave no usable answer. `message` has no number that moves, for it lands in a condition."""

    def __init__(self, reason: Blindness, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class PrometheusServer:
    """One server that the administrator named. `observe(server, seconds, failure)` is told of every query; failure "" is success."""

    def __init__(
        self,
        name: str,
        settings: Server,
        observe: Callable[[str, float, str], None] = lambda server, seconds, failure: None,
    ) -> None:
        self.name = name
        self.scrape_interval_seconds = duration_seconds(settings.scrape_interval)
        self._settings = settings
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[float, ssl.SSLContext] | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def query(self, expression: str) -> list[Series]:
        """The instant vector that `expression` yields now. Raises QueryError."""
        started = asyncio.get_running_loop().time()
        failure = ""
        try:
            return _vector(self.name, await self._fetch(expression))
        except QueryError as error:
            failure = str(error.reason)
            raise
        finally:
            self._observe(self.name, asyncio.get_running_loop().time() - started, failure)

    async def _fetch(self, expression: str) -> bytes:
        settings = self._settings
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=duration_seconds(settings.timeout))
            )
        try:
            async with self._session.post(
                f"{settings.url.rstrip('/')}/api/v1/query",
                data={"query": expression, "timeout": settings.timeout},
                headers=self._headers(),
                ssl=self._context(),
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    await response.read()
                    raise self._bad(f"answered with HTTP status {response.status}")
                body = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(body) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES)):
                    body += more
                if len(body) > MAX_ANSWER_BYTES:
                    response.close()
                    raise self._bad("answered with more than 64 MiB")
                return body
        except TimeoutError:
            raise QueryError(Blindness.UNREACHABLE, f"Prometheus {self.name!r} did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            text = f"Prometheus {self.name!r} cannot be reached ({type(error).__name__})"
            raise QueryError(Blindness.UNREACHABLE, text) from None

    def _bad(self, what: str) -> QueryError:
        return QueryError(Blindness.BAD_ANSWER, f"Prometheus {self.name!r} {what}")

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        if settings.bearer_token_file:
            return {"Authorization": f"Bearer {self._secret(settings.bearer_token_file)}"}
        if settings.basic_auth.username_file:
            user = self._secret(settings.basic_auth.username_file)
            password = self._secret(settings.basic_auth.password_file)
            return {"Authorization": aiohttp.encode_basic_auth(user, password)}
        return {}

    def _secret(self, path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            text = f"the credentials for Prometheus {self.name!r} cannot be read ({error.strerror})"
            raise QueryError(Blindness.UNREACHABLE, text) from None

    def _context(self) -> ssl.SSLContext | bool:
        settings = self._settings
        if not settings.url.startswith("https:"):
            return True
        if settings.insecure_skip_verify:
            return False
        if not settings.ca_file:
            return True
        try:
            changed = Path(settings.ca_file).stat().st_mtime
            if self._tls is None or self._tls[0] != changed:
                self._tls = (changed, ssl.create_default_context(cafile=settings.ca_file))
        except OSError as error:
            text = f"the CA file for Prometheus {self.name!r} cannot be used ({error.strerror})"
            raise QueryError(Blindness.UNREACHABLE, text) from None
        return self._tls[1]


def _vector(server: str, body: bytes) -> list[Series]:
    """The samples of an answer of Prometheus' HTTP API. Raises QueryError for anything else."""
    try:
        answer: Any = json.loads(body)
        if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
            raise ValueError
        return [Series(_labels(item["metric"]), _number(item["value"][1])) for item in answer["data"]["result"]]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        text = f"Prometheus {server!r} did not answer with an instant vector"
        raise QueryError(Blindness.BAD_ANSWER, text) from None


def _labels(metric: Any) -> dict[str, str]:
    if not isinstance(metric, dict) or not all(isinstance(value, str) for value in metric.values()):
        raise TypeError
    return metric


def _number(text: str) -> float:
    """A sample's value; `NaN`, `+Inf` and `-Inf` come as such."""
    return {"+Inf": math.inf, "-Inf": -math.inf, "NaN": math.nan}.get(text) or float(text)
