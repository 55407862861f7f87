"""An HTTP proxy between an operator and the real API server: it records what passes, and does to it what networks and servers do.

`FaultyApi(kubeconfig, directory)` listens on a free port of the loopback address. Give its `kubeconfig` to the operator under test,
and talk to the API server itself from the test. A request with a bearer token is passed on as it is, any other one with the client
certificate of the kubeconfig.

    with FaultyApi(api.kubeconfig, tmp_path) as faulty:
        operator.start(faulty.kubeconfig)
        with faulty.rule(Swallow(("DELETED",)), path="/greenworkerpools"):
            ...  # the watch misses every deletion
            faulty.end_watches("/greenworkerpools")

The faults: `Answer` (410, 409, 429, 500… in place of the API server), `Hold` (a slow network), `Lose` (done, but nobody hears of it),
`Swallow` (a watch that misses events, or says nothing at all) and `Expire` (a watch that begins with 410).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import threading
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import yaml
from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """Answered by the proxy: the API server never sees the request."""

    status: int
    message: str = "said by the test"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """Passed on after so long, or as soon as the rule is removed, unless the client has hung up by then."""

    seconds: float


@dataclass(frozen=True)
class Lose:
    """Carried out by the API server; the connection breaks before the answer."""


@dataclass(frozen=True)
class Swallow:
    """Events of a watch that do not arrive: those of these types, or with none named all of them and the bookmarks too."""

    types: tuple[str, ...] = ()
    only_open: bool = False
    """Only in watches that are open already: a connection that died without a word."""


@dataclass(frozen=True)
class Expire:
    """A watch is opened, and says at once that its resourceVersion is too old."""


Fault = Answer | Hold | Lose | Swallow | Expire


@dataclass
class Seen:
    """One request of the operator."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    at: float
    """Monotonic seconds at which it came."""
    passed_at: float | None = None
    """Monotonic seconds at which it was passed on to the API server; None: never."""
    status: int | None = None
    """Of the answer; None: none yet, or none ever."""

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


class Rule:
    """What happens to which requests, until it is removed or has happened `times` times. A context manager that removes it."""

    def __init__(
        self,
        faulty: FaultyApi,
        fault: Fault,
        *,
        method: str,
        path: str,
        query: Mapping[str, str],
        watch: bool | None,
        times: int,
    ) -> None:
        self._faulty = faulty
        self.fault = fault
        self.at = monotonic()
        self.happened = 0
        self._method = method
        self._path = re.compile(path)
        self._query = query
        self._watch = watch
        self._times = times

    def concerns(self, seen: Seen) -> bool:
        if self._times and self.happened >= self._times:
            return False
        same_kind = self._watch is None or self._watch == seen.is_watch
        same_kind = same_kind and self._query.items() <= seen.query.items()
        return same_kind and self._method in ("", seen.method) and bool(self._path.search(seen.path))

    def remove(self) -> None:
        with contextlib.suppress(ValueError):
            self._faulty.rules.remove(self)

    def __enter__(self) -> Rule:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


_HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding", "accept-encoding"})


class FaultyApi:
    """The proxy. It runs in a thread of its own; everything public may be called from any thread."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._upstream = cluster["server"].rstrip("/")
        self._authority = _pem(kubeconfig, cluster, "certificate-authority").decode()
        self._certificate = directory / "faulty-client.pem"
        self._certificate.touch(mode=0o600)
        self._certificate.write_bytes(
            _pem(kubeconfig, user, "client-certificate") + b"\n" + _pem(kubeconfig, user, "client-key")
        )
        self.rules: list[Rule] = []
        self.requests: list[Seen] = []
        self.server = ""
        self._watches: dict[asyncio.Task[Any], Seen] = {}
        self._loop = asyncio.new_event_loop()
        self._up, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._thread.start()
        assert self._up.wait(10), "the proxy did not start"
        self.kubeconfig = directory / "faulty.kubeconfig"
        self._write_kubeconfig(config)

    def close(self) -> None:
        """Breaks every connection."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def __enter__(self) -> FaultyApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rule(
        self,
        fault: Fault,
        *,
        path: str = "",
        method: str = "",
        query: Mapping[str, str] | None = None,
        watch: bool | None = None,
        times: int = 0,
    ) -> Rule:
        """From now on `fault` happens to requests whose path matches the regular expression.

        `query`: parameters that they have among others. `watch`: only to watches, or only to others. `times`: after so
        many it ends by itself; 0: never.
        """
        made = Rule(self, fault, method=method, path=path, query=query or {}, watch=watch, times=times)
        self.rules.append(made)
        return made

    def end_watches(self, path: str = "") -> None:
        """Breaks the open watches whose path matches."""

        def end() -> None:
            for task, seen in list(self._watches.items()):
                if re.search(path, seen.path):
                    task.cancel()

        self._loop.call_soon_threadsafe(end)

    def seen(self, *, method: str = "", path: str = "", watch: bool | None = None) -> list[Seen]:
        """The requests so far that match, in order."""
        return [
            one
            for one in list(self.requests)
            if method in ("", one.method) and re.search(path, one.path) and (watch is None or watch == one.is_watch)
        ]

    def _write_kubeconfig(self, config: dict[str, Any]) -> None:
        """Its server is the proxy; a token in it stays."""
        user = {key: value for key, value in config["users"][0]["user"].items() if key == "token"}
        clusters = [{**config["clusters"][0], "cluster": {"server": self.server}}]
        users = [{**config["users"][0], "user": user}]
        self.kubeconfig.write_text(yaml.safe_dump({**config, "clusters": clusters, "users": users}))
        self.kubeconfig.chmod(0o600)

    async def _run(self) -> None:
        anonymously, by_certificate = (ssl.create_default_context(cadata=self._authority) for _ in range(2))
        by_certificate.load_cert_chain(self._certificate)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=by_certificate)) as trusted,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=anonymously)) as anonymous,
        ):
            app = web.Application(client_max_size=2**26)

            async def serve(request: web.Request) -> web.StreamResponse:
                return await self._serve(request, anonymous if "Authorization" in request.headers else trusted)

            app.router.add_route("*", "/{path:.*}", serve)
            # A client that hangs up ends its request here too, as the API server does.
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.server = f"http://{host}:{port}"
            self._up.set()
            await self._stop.wait()
            for task in list(self._watches):
                task.cancel()
            await runner.cleanup()

    async def _serve(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        payload = await request.read()
        seen = Seen(request.method, request.path, dict(request.query), _parsed(payload), monotonic())
        self.requests.append(seen)
        for rule in [rule for rule in self.rules if rule.concerns(seen)]:
            if isinstance(rule.fault, Answer):
                rule.happened += 1
                seen.status = rule.fault.status
                return web.json_response(
                    _status(rule.fault.status, rule.fault.message),
                    status=rule.fault.status,
                    headers=dict(rule.fault.headers),
                )
            if isinstance(rule.fault, Hold):
                rule.happened += 1
                until = monotonic() + rule.fault.seconds
                while rule in self.rules and monotonic() < until:  # noqa: ASYNC110 - a test's thread removes it
                    await asyncio.sleep(0.01)
            if isinstance(rule.fault, Expire) and seen.is_watch:
                rule.happened += 1
                seen.status = 200
                return web.json_response({"type": "ERROR", "object": _status(410, "too old resource version")})
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        seen.passed_at = monotonic()
        async with session.request(
            request.method, self._upstream + request.raw_path, headers=headers, data=payload or None,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:  # fmt: skip
            if seen.is_watch and answer.status == 200:
                return await self._pass_watch(request, answer, seen)
            found = await answer.read()
            for rule in [rule for rule in self.rules if isinstance(rule.fault, Lose) and rule.concerns(seen)]:
                rule.happened += 1
                assert request.transport is not None
                request.transport.abort()
            seen.status = answer.status
            kept = {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}
            return web.Response(status=answer.status, body=found, headers=kept)

    async def _pass_watch(self, request: web.Request, answer: aiohttp.ClientResponse, seen: Seen) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        seen.status = 200
        task = asyncio.current_task()
        assert task is not None
        self._watches[task] = seen
        try:
            async for line in _lines(answer):
                kind = json.loads(line)["type"]
                if (rule := self._fault_of(seen, kind)) is None:
                    await response.write(line)
                    continue
                rule.happened += 1
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
        except (aiohttp.ClientError, ConnectionError):
            pass
        finally:
            del self._watches[task]
        return response

    def _fault_of(self, seen: Seen, kind: str) -> Rule | None:
        for rule in self.rules:
            if not isinstance(rule.fault, Swallow) or (rule.fault.only_open and seen.at > rule.at):
                continue
            if (not rule.fault.types or kind in rule.fault.types) and rule.concerns(seen):
                return rule
        return None


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines, of any length."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload


def _status(code: int, message: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message}


def _pem(kubeconfig: Path, where: dict[str, Any], name: str) -> bytes:
    """The bytes of a certificate or key, which stand in the kubeconfig or in a file beside it."""
    return (kubeconfig.parent / where[name]).read_bytes() if name in where else b64decode(where[f"{name}-data"])


__all__ = ["Answer", "Expire", "FaultyApi", "Hold", "Lose", "Rule", "Seen", "Swallow"]
