"""One door to the API server: dict bodies, bounded concurrency, typed errors, counted requests, and a fence for writes.

Built on `kubernetes.aio` for configuration, authentication (with token rotation) and TLS. The generated per-kind
methods are not used: they deserialize into models that drop fields they do not know, which an operator must not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

_log = logging.getLogger(__name__)

Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE = 500
_METADATA_PAGE = 100
"""Less, for all pools are listed so every few seconds. Their managedFields are long, and two lists are in memory at a
time: of 500 pools with 3 kB each they take 27 MiB once they are parsed, of 100 pools 6 (tracemalloc).
"""
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST_TIMEOUT_SECONDS = 30
SILENCE_SECONDS = 70.0
"""A watch in which not even a bookmark arrives for so long is opened anew. API servers send a bookmark a minute."""
_WATCH_SECONDS = 290
"""The API server ends a watch after 30–60 minutes by itself; ending it sooner keeps connections spread over servers."""


class ApiError(Exception):
    """The API server refused a request.

    - NotFoundError: 404
    - ConflictError: 409, somebody else was first; OtherObjectError: the object that was meant by its uid is gone
    - GoneError: 410, a resourceVersion is too old to watch from
    - InvalidError: 400 and 422, what was sent can never be accepted
    - ForbiddenError: 401 and 403
    - TransientError: 429, 5xx, and no answer at all: try again later
    """

    def __init__(self, message: str, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ApiError):
    """404."""


class ConflictError(ApiError):
    """409."""


class OtherObjectError(ConflictError):
    """409 or 422 for a uid: there is no such object, or another one has its name by now."""


class GoneError(ApiError):
    """410."""


class InvalidError(ApiError):
    """400 and 422."""


class ForbiddenError(ApiError):
    """401 and 403."""


class TransientError(ApiError):
    """429, 5xx, and no answer at all."""


class UnusableConfigError(ApiError):
    """There is no way to an API server: no kubeconfig, or none that can be read."""


class NotLeaderError(ApiError):
    """This replica may not write (any more); nothing was sent."""


_ERRORS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


_WRONG_SHAPE = "failed to create typed patch object"
"""Server-side apply of an unknown field or a wrong type: what was sent is wrong, but the API server says 500 (1.36)."""


_DENIED = re.compile(r"ValidatingAdmissionPolicy .* denied request|admission webhook .* denied the request")
"""A policy, ours or the organisation's: what was sent is refused, and not for lack of a right, though the API
server says 403.
"""


_OTHER_UID = re.compile(r"UID in (the )?precondition|uid mismatch")
"""In a 409: the object is another one, or there is none (1.36). Any other 409 does not say so."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: Object | None = None
    content_type: str = "application/json"
    accept: str = "application/json"


class Client:
    """Requests to one API server.

    `write_seconds` is asked before every request that changes something: for how long it may take, 0 for not at all.
    Those that say `fenced=False` (the Lease itself) are not asked about. `observe` is called for every finished
    request: verb, resource and HTTP status (0: no answer).

    Slots bound the requests under way, not the connections: a watch holds one for ever, and there may be any number of
    them. The Lease waits for no slot, and has a session of its own. What has low priority (a status, its Events) gets a
    quarter of the slots: when a thousand pools have news at once, every other request waits behind a few of them only.
    """

    def __init__(
        self,
        configuration: kubernetes_client.Configuration,
        *,
        concurrency: int = 16,
        write_seconds: Callable[[], float] = lambda: _REQUEST_TIMEOUT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        observe: Callable[[str, str, int], None] = lambda verb, resource, status: None,
    ) -> None:
        configuration.connection_pool_maxsize = 0  # no limit
        self._api = kubernetes_client.ApiClient(configuration)
        self._urgent_api = kubernetes_client.ApiClient(configuration)
        self._slots = asyncio.Semaphore(concurrency)
        self._low_priority_slots = asyncio.Semaphore(max(1, concurrency // 4))
        self._write_seconds = write_seconds
        self._silence_seconds = silence_seconds
        self._observe = observe
        self._writing: set[asyncio.Task[Any]] = set()

    async def stop_writing(self) -> None:
        """Ends the writes that are under way, with the tasks that wait for them: for a replica that gives the Lease
        back, and then ends.
        """
        writing = list(self._writing)
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()
        await self._urgent_api.close()

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, urgent: bool = False, metadata_only: bool = False
    ) -> Object:
        """The object or list at `path`. `urgent` does not wait behind other requests: the Lease must not starve.

        `metadata_only` is for lists: their items come without spec and status.
        """
        accept = _METADATA_ONLY if metadata_only else "application/json"
        return await self._ask(_Request("GET", path, query or {}, accept=accept), urgent=urgent)

    async def pages(
        self, path: str, query: Mapping[str, str] | None = None, *, metadata_only: bool = False
    ) -> AsyncIterator[Object]:
        """A whole collection, one list of at most `_PAGE` objects after the other; with `metadata_only` without their
        spec and status, and `_METADATA_PAGE` at most.
        """
        asked = {**(query or {}), "limit": str(_METADATA_PAGE if metadata_only else _PAGE)}
        while True:
            page = await self.get(path, asked, metadata_only=metadata_only)
            items, metadata = page.get("items") or [], page.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise TransientError(f"the API server answered GET {path} with something that is no list")
            yield page
            token = metadata.get("continue")
            if not token:
                return
            asked["continue"] = token

    async def create(self, path: str, body: Object, *, fenced: bool = True, low_priority: bool = False) -> Object:
        """Creates an object in the collection at `path`."""
        return await self._change(_Request("POST", path, {}, body), fenced=fenced, low_priority=low_priority)

    async def replace(self, path: str, body: Object, *, fenced: bool = True) -> Object:
        """Replaces an object; a resourceVersion inside makes it conditional."""
        return await self._change(_Request("PUT", path, {}, body), fenced=fenced)

    async def merge_patch(self, path: str, body: Object) -> Object:
        """Patches an object or subresource with a JSON merge patch (RFC 7386)."""
        return await self._change(_Request("PATCH", path, {}, body, MERGE_PATCH))

    async def strategic_merge_patch(self, path: str, body: Object) -> Object:
        """Patches an object of Kubernetes' own or a subresource; items of a list are found by their name."""
        return await self._change(_Request("PATCH", path, {}, body, STRATEGIC_MERGE_PATCH))

    async def apply(
        self, path: str, body: Object, manager: str, *, force: bool = True, low_priority: bool = False
    ) -> Object:
        """Server-side apply by `manager`; unknown fields are an error. With `force` it takes over fields of other
        managers.

        A uid in `body` makes it OtherObjectError unless the object is that very one: nothing is created then.
        """
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        return await self._change(_Request("PATCH", path, query, body, APPLY), low_priority=low_priority)

    async def peek(self, path: str) -> Object | None:
        """An object that may be patched and not read: an empty patch, which is not even stored, answers with it. None:
        there is none.
        """
        try:
            return await self._change(_Request("PATCH", path, {"dryRun": "All"}, {}, MERGE_PATCH))
        except NotFoundError:
            return None

    async def delete(self, path: str, uid: str) -> None:
        """Deletes this very object and, in the background, what it owns. Absent, or another one of its name, is
        fine.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._change(_Request("DELETE", path, {}, options))
        except (NotFoundError, OtherObjectError):
            return

    async def _change(self, request: _Request, *, fenced: bool = True, low_priority: bool = False) -> Object:
        async with self._low_priority_slots if low_priority else contextlib.nullcontext():
            return await self._ask(request, fenced=fenced, urgent=not fenced)

    async def _ask(self, request: _Request, *, fenced: bool = False, urgent: bool = False) -> Object:
        async with contextlib.nullcontext() if urgent else self._slots:
            # Asked last: the wait for a slot may have outlived the Lease.
            seconds = min(_REQUEST_TIMEOUT_SECONDS, self._write_seconds()) if fenced else _REQUEST_TIMEOUT_SECONDS
            if seconds <= 0:
                raise NotLeaderError("this replica does not hold the Lease: nothing was written")
            with self._noted() if fenced else contextlib.nullcontext():
                async with self._send(request, seconds, self._urgent_api if urgent else self._api) as response:
                    return _object(await response.read() or b"{}", f"{request.method} {request.path}")

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """While a write is under way, its task can be stopped."""
        task = asyncio.current_task()
        assert task is not None
        self._writing.add(task)
        try:
            yield
        finally:
            self._writing.discard(task)

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[tuple[str, Object]]:
        """Events of a collection, `(type, object)`, until the server ends the watch or falls silent. Raises GoneError
        for an old resourceVersion.
        """
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        async with self._send(_Request("GET", path, query), _WATCH_SECONDS + 30, self._api) as response:
            async for line in self._lines(response):
                event = _object(line, f"WATCH {path}")
                kind, item = event.get("type"), event.get("object")
                if not isinstance(kind, str) or not isinstance(item, dict):
                    raise TransientError(f"the API server answered WATCH {path} with something that is no event")
                if kind == "ERROR":
                    raise _ERRORS.get(item.get("code", 0), TransientError)(item.get("message", ""), item.get("code", 0))
                yield kind, item

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Until the end, or until nothing has come for too long: the connection may be dead, and nothing says so.

        A line may be longer than aiohttp's own bound for one: an object has up to 1.5 MB in etcd, and JSON writes a
        character with up to six.
        """
        begun: list[bytes] = []
        while piece := await self._next_piece(response):
            *whole, rest = piece.split(b"\n")
            for line in whole:
                yield b"".join([*begun, line])
                begun = []
            begun.append(rest)

    async def _next_piece(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(self._silence_seconds):
                return await response.content.readany()
        except TimeoutError:
            _log.warning("the watch %s is silent: it is opened anew", response.url.path)
            return b""

    @contextlib.asynccontextmanager
    async def _send(
        self, request: _Request, total_seconds: float, api: kubernetes_client.ApiClient
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        verb = "WATCH" if "watch" in request.query else "DRYRUN" if "dryRun" in request.query else request.method
        status = 0
        try:
            _, url, headers, payload, _ = await api.param_serialize(
                method=request.method,
                resource_path=request.path,
                query_params=list(request.query.items()),
                header_params={"Accept": request.accept, "Content-Type": request.content_type},
                body=request.body,
                auth_settings=["BearerToken"],
            )
            answer = await api.rest_client.request(
                request.method, url, headers=headers, body=payload, _request_timeout=total_seconds
            )
            response: aiohttp.ClientResponse = answer.response
            status = response.status
            try:
                if status >= 400:
                    raise await _error(response)
                yield response
            finally:
                response.release()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(
                f"the API server did not answer {verb} {request.path}: {type(error).__name__}"
            ) from error
        finally:
            self._observe(verb, _resource(request.path), status)


def _object(text: bytes, of: str) -> Object:
    """What stands between may answer for the API server: with a page, or with nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TransientError(f"the API server answered {of} with something that is no object")
    return found


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    text = await response.text()
    try:
        answer = json.loads(text)
        message = str(answer.get("message") or text)
        causes = (answer.get("details") or {}).get("causes") or ()
        fields = {cause.get("field") for cause in causes}
    except (ValueError, AttributeError, TypeError, RecursionError):
        message, fields = text, set()
    retry_after = response.headers.get("Retry-After", "")
    kind = _ERRORS.get(response.status, TransientError)
    if response.status == 500 and message.startswith(_WRONG_SHAPE):
        kind = InvalidError
    if response.status == 403 and _DENIED.search(message):
        kind = InvalidError
    if (response.status == 409 and _OTHER_UID.search(message)) or fields == {"metadata.uid"}:
        kind = OtherObjectError
    return kind(message[:2000], response.status, float(retry_after) if retry_after.isdigit() else None)


def _resource(path: str) -> str:
    """`deployments` or `pods/status` of a path: few values, for a metric's label."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    return "/".join(parts[:1] + parts[2:3])


async def connect(kubeconfig: str | None = None, **options: Any) -> Client:
    """A client for `kubeconfig`, else for the cluster this pod runs in, else for the user's default kubeconfig.

    Raises UnusableConfigError.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig is not None:
            await kubernetes_config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        else:
            try:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            except kubernetes_config.ConfigException:
                await kubernetes_config.load_kube_config(client_configuration=configuration)
        return Client(configuration, **options)
    except Exception as error:  # its parts raise whatever they like: YAML's errors, OSError, KeyError, TLS's
        where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnusableConfigError(
            f"the kubeconfig {where} cannot be used: {said}: mend it, or name another one with KUBECONFIG or "
            "--kubeconfig"
        ) from error


def current_namespace(kubeconfig: str | None = None) -> str:
    """The pod's own namespace, else that of the kubeconfig's current context, else `default`."""
    try:
        if kubeconfig is None:
            return _POD_NAMESPACE.read_text(encoding="ascii").strip()
    except OSError:
        pass
    try:
        _, context = kubernetes_config.list_kube_config_contexts(config_file=kubeconfig)
        return str(context["context"].get("namespace") or "default")
    except Exception:  # as above; whoever connects next says what is wrong with it
        return "default"
