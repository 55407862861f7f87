"""An HTTP proxy between an operator and the real API server: it records what passes, and does to it what networks and
servers do.

`FaultyApi(kubeconfig, directory)` listens on a free port of the loopback address. Give its `kubeconfig` to the operator
under test, and talk to the API server itself from the test. A request with a bearer token is passed on as it is, any
other one with the client certificate of the kubeconfig.

    with FaultyApi(api.kubeconfig, tmp_path) as faulty:
        operator.start(faulty.kubeconfig)
        with faulty.rule(Swallow(("DELETED",)), path="/greenworkerpools"):
            ...  # the watch misses every deletion
            faulty.end_watches("/greenworkerpools")

The faults: `Answer` (410, 409, 429, 500… in place of the API server), `Hold` (a slow network), `Lose` (done, but the
connection breaks before the answer), `Mute` (done, and never answered), `Swallow` (a watch that misses events, or says
nothing at all), `Expire` (a watch that begins with 410), `Cut` (something happens at this very request, such as a
SIGKILL of who sent it), `Garble` (a watch whose events come late, twice, or behind those of other objects) and `Recall`
(what the API server said before, in place of what it says now).

A rule is about all requests that match. `faulty.judge` is asked about each request by itself, and answers with a fault
or None.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import ssl
import threading
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
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
class Mute:
    """Carried out by the API server; the connection stays, and the answer never comes."""


@dataclass(frozen=True)
class Swallow:
    """Events of a watch that do not arrive: those of these types, or with none named all of them and the
    bookmarks too.
    """

    types: tuple[str, ...] = ()
    only_open: bool = False
    """Only in watches that are open already: a connection that died without a word."""


@dataclass(frozen=True)
class Expire:
    """A watch is opened, and says at once that its resourceVersion is too old."""


@dataclass(frozen=True)
class Cut:
    """`done()` is called in the proxy's thread, and the connection breaks: before the API server gets the request,
    or after it has answered.
    """

    done: Callable[[], None]
    after: bool


@dataclass(frozen=True)
class Garble:
    """Events of a watch arrive `seconds` late, each `times` times, and in any order but for those of one object."""

    seconds: float
    times: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Recall:
    """An older answer is given: a list from a server that is behind."""

    body: bytes


Fault = Answer | Hold | Lose | Mute | Swallow | Expire | Cut | Garble | Recall


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
    answered_at: float | None = None
    """Monotonic seconds at which the API server had answered; None: not yet, or never asked."""
    target: str = ""
    """Path and query as they were sent."""
    accepted: bool = False
    """A write that the API server has carried out, whether the operator knows or not."""
    changed: bool = False
    """A write that was accepted and made another version of its object than the proxy had seen."""

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


class Rule:
    """What happens to which requests, until it is removed or has happened `times` times. A context manager that removes
    it.
    """

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


_BEAT_SECONDS = 0.05
"""How often the proxy looks whether it stood still."""
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
        self.judge: Callable[[Seen], Fault | None] = lambda seen: None
        """Asked once about each request, in the proxy's thread."""
        self.lists: set[str] = set()
        """Path and query of every list of a whole collection so far."""
        self.stalls: list[tuple[float, float]] = []
        """When the proxy stood still, because the machine did: the monotonic second at which it went on, and for how
        many it had. What came meanwhile is seen that much later.
        """
        self._versions: dict[str, str] = {}
        self._server: web.Server | None = None
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

    def await_hung_up(self, seconds: float = 20.0) -> None:
        """Until no client is connected, and whatever a client that has ended had sent is in `requests`: nothing of it
        comes after this. TimeoutError after `seconds`.
        """

        async def hung_up() -> None:
            await asyncio.sleep(0.05)  # what waits to be accepted is connected by then
            while self._server is not None and self._server.connections:
                await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(hung_up(), seconds), self._loop).result(seconds + 1)

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

    async def _watch_itself(self) -> None:
        while True:
            began = monotonic()
            await asyncio.sleep(_BEAT_SECONDS)
            if (late := monotonic() - began - _BEAT_SECONDS) > _BEAT_SECONDS:
                self.stalls.append((monotonic(), late))

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
            self._server = runner.server
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.server = f"http://{host}:{port}"
            self._up.set()
            beat = asyncio.create_task(self._watch_itself())
            await self._stop.wait()
            beat.cancel()
            for task in list(self._watches):
                task.cancel()
            await runner.cleanup()

    async def _serve(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        payload = await request.read()
        seen = Seen(request.method, request.path, dict(request.query), _parsed(payload), monotonic())
        seen.target = request.raw_path
        self.requests.append(seen)
        fault = self.judge(seen)
        if fault is not None and (said := await _answered(fault, request, seen)) is not None:
            return said
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
                return await self._pass_watch(request, answer, seen, fault if isinstance(fault, Garble) else None)
            found = await answer.read()
            self._note(seen, answer.status, found)
            if isinstance(fault, Cut):
                fault.done()
            if isinstance(fault, Cut | Lose):
                _hang_up(request)
            if isinstance(fault, Mute):
                await asyncio.Event().wait()  # until the operator gives it up
            for rule in [rule for rule in self.rules if isinstance(rule.fault, Lose) and rule.concerns(seen)]:
                rule.happened += 1
                assert request.transport is not None
                request.transport.abort()
            seen.status = answer.status
            kept = {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}
            return web.Response(status=answer.status, body=found, headers=kept)

    def _note(self, seen: Seen, status: int, found: bytes) -> None:
        """What an answer tells the proxy: versions of what was written, and lists."""
        seen.answered_at = monotonic()
        if not seen.is_write:
            if status == 200 and "fieldSelector" not in seen.query and b'List"' in found[:500]:
                self.lists.add(seen.target)
            return
        if status >= 300 or "dryRun" in seen.query:
            return
        seen.accepted = True
        written = _parsed(found)
        version = (written.get("metadata") or {}).get("resourceVersion") if isinstance(written, dict) else None
        path = seen.path.removesuffix("/status").removesuffix("/resize")
        seen.changed = seen.method == "DELETE" or version is None or self._versions.get(path) != version
        if version is not None:
            self._versions[path] = version

    async def _pass_watch(
        self, request: web.Request, answer: aiohttp.ClientResponse, seen: Seen, garble: Garble | None = None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        seen.status = 200
        task = asyncio.current_task()
        assert task is not None
        self._watches[task] = seen
        try:
            async for line in _lines(answer) if garble is None else _garbled(_lines(answer), garble):
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


async def _garbled(lines: AsyncIterator[bytes], how: Garble) -> AsyncIterator[bytes]:
    """All that arrives within `how.seconds` comes in a batch after it, shuffled; events of one object keep
    their order.
    """
    chance = random.Random(how.seed)
    arrived: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def collect() -> None:
        async for line in lines:
            arrived.put_nowait(line)
        arrived.put_nowait(None)

    collecting = asyncio.ensure_future(collect())
    try:
        while (first := await arrived.get()) is not None:
            await asyncio.sleep(how.seconds)
            batch = [first]
            while not arrived.empty() and arrived._queue[0] is not None:  # type: ignore[attr-defined]
                batch.append(arrived.get_nowait() or b"")
            of_object: dict[str, list[bytes]] = {}
            for line in batch:
                of_object.setdefault(json.loads(line)["object"]["metadata"].get("name", ""), []).append(line)
            turns = [name for name, some in of_object.items() for _ in some]
            chance.shuffle(turns)
            for name in turns:
                line = of_object[name].pop(0)
                for _ in range(how.times):
                    yield line
    finally:
        collecting.cancel()


async def _answered(fault: Fault, request: web.Request, seen: Seen) -> web.StreamResponse | None:
    """What the proxy says by itself to a request that was judged; None: it is passed on."""
    match fault:
        case Cut(done, after=False):
            done()
            _hang_up(request)
        case Answer(status, message, headers):
            seen.status = status
            return web.json_response(_status(status, message), status=status, headers=dict(headers))
        case Expire() if seen.is_watch:
            return web.json_response({"type": "ERROR", "object": _status(410, "too old resource version")})
        case Recall(body):
            return web.Response(body=body, headers={"Content-Type": "application/json"})
        case Hold(seconds):
            await asyncio.sleep(seconds)
    return None


def _hang_up(request: web.Request) -> None:
    """Breaks the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


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


__all__ = [
    "Answer",
    "Cut",
    "Expire",
    "FaultyApi",
    "Garble",
    "Hold",
    "Lose",
    "Mute",
    "Recall",
    "Rule",
    "Seen",
    "Swallow",
]
