"""The client, the Lease and the watched copies, before a server that does what bad days bring."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiohttp import web
from kubernetes.aio import client as kubernetes_client

from greenfleet.k8s.client import Client, NotLeaderError, TransientError
from greenfleet.k8s.lease import Lease, Term
from greenfleet.k8s.reflector import Reflector
from tests.unit.operator.objects import Object
from tests.unit.operator.test_prometheus_client import serving

PATH = "/apis/apps/v1/deployments"


@dataclass
class Server:
    """An API server of one collection."""

    items: list[Object] = field(default_factory=list)
    list_status: int = 200
    watch_lasts: bool = True
    watches: list[str] = field(default_factory=list)
    """The resourceVersion that each watch began with."""
    lists: int = 0
    writes: int = 0
    """Each hangs."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            self.writes += 1
            await asyncio.sleep(60)
        if request.query.get("watch") == "true":
            self.watches.append(request.query["resourceVersion"])
            response = web.StreamResponse()
            await response.prepare(request)
            if len(self.watches) == 1 and self.items:
                await response.write(
                    json.dumps({"type": "MODIFIED", "object": version(self.items[0], "8")}).encode() + b"\n"
                )
            if self.watch_lasts:
                await asyncio.sleep(60)
            return response
        self.lists += 1
        body: Object = {"metadata": {"resourceVersion": "7"}, "items": self.items, "message": "said by the test"}
        return web.json_response(body, status=self.list_status)


def version(item: Object, number: str) -> Object:
    return {**item, "metadata": {**item["metadata"], "resourceVersion": number}}


def with_client(server: Server, use: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with serving(server.handle) as url:
            client = Client(kubernetes_client.Configuration(host=url), **options)
            try:
                await use(client)
            finally:
                await client.close()

    asyncio.run(asyncio.wait_for(run(), 30))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - plain state of the server
        await asyncio.sleep(0.01)


def reflector(client: Client, told: list[Object | None]) -> Reflector:
    return Reflector(client, PATH, "a=b", lambda old, new: told.append(new))


def test_a_silent_watch_is_opened_anew_from_where_it_was() -> None:
    feeds = version({"metadata": {"name": "feeds", "namespace": "shop"}}, "3")
    server, told = Server([feeds]), cast("list[Object | None]", [])

    async def use(client: Client) -> None:
        task = asyncio.create_task(reflector(client, told).run())
        await until(lambda: len(server.watches) >= 2)
        task.cancel()

    with_client(server, use, silence_seconds=0.3)
    assert server.watches[:2] == ["7", "8"]
    assert server.lists == 1
    assert [item["metadata"]["resourceVersion"] for item in told if item] == ["3", "8"]


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(Server(list_status=410), id="a list that answers 410"),
        pytest.param(Server(list_status=429), id="a list that answers 429"),
        pytest.param(Server(watch_lasts=False), id="a watch that ends at once"),
    ],
)
def test_what_fails_again_and_again_is_asked_for_less_and_less_often(server: Server) -> None:
    async def use(client: Client) -> None:
        task = asyncio.create_task(reflector(client, []).run())
        await asyncio.sleep(2.5)
        task.cancel()

    with_client(server, use)
    assert 2 <= server.lists + len(server.watches) <= 8


def test_watches_take_no_connection_from_anybody_however_many_there_are() -> None:
    server = Server()

    async def use(client: Client) -> None:
        watches = [asyncio.create_task(reflector(client, []).run()) for _ in range(60)]
        await until(lambda: len(server.watches) == 60)
        assert (await client.get(PATH))["items"] == []
        assert (await client.get(PATH, urgent=True))["items"] == []
        for watch in watches:
            watch.cancel()

    with_client(server, use, concurrency=2)


def test_a_thousand_statuses_keep_no_other_request_waiting() -> None:
    """They come at once where Prometheus ends, or where a thousand pools are made."""
    server = Server()

    async def use(client: Client) -> None:
        statuses = [asyncio.create_task(client.apply(PATH, {}, "status", low_priority=True)) for _ in range(1000)]
        await until(lambda: server.writes)
        assert (await client.get(PATH))["items"] == []
        for status in statuses:
            status.cancel()

    with_client(server, use, concurrency=4)
    assert server.writes == 1


def test_a_write_takes_no_longer_than_what_is_left_of_the_lease() -> None:
    server = Server()

    async def use(client: Client) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(TransientError):
                await client.create(PATH, {})

    with_client(server, use, write_seconds=lambda: 0.3)
    assert server.writes == 1


def test_nothing_is_sent_where_nothing_is_left_of_the_lease() -> None:
    server = Server()

    async def use(client: Client) -> None:
        with pytest.raises(NotLeaderError):
            await client.create(PATH, {})

    with_client(server, use, write_seconds=lambda: 0.0)
    assert server.writes == 0


def test_a_lease_is_given_back_only_when_no_write_is_under_way() -> None:
    server = Server()

    async def use(client: Client) -> None:
        writes = [asyncio.create_task(client.create(PATH, {})) for _ in range(3)]
        await until(lambda: server.writes == 3)
        await client.stop_writing()
        assert all(write.cancelled() for write in writes)

    with_client(server, use)


class Leases:
    """An API server's Lease, as `Client` shows it."""

    def __init__(self) -> None:
        self.lease: Object = {
            "metadata": {"resourceVersion": "1"},
            "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15},
        }

    async def get(self, path: str, *, urgent: bool) -> Object:
        assert urgent, "the Lease waits for nobody"
        return self.lease

    async def replace(self, path: str, body: Object, *, fenced: bool) -> Object:
        assert not fenced
        self.renewed(body["spec"]["holderIdentity"])
        return self.lease

    def renewed(self, holder: str) -> None:
        number = int(self.lease["metadata"]["resourceVersion"]) + 1
        self.lease = {
            "metadata": {"resourceVersion": str(number)},
            "spec": {**self.lease["spec"], "holderIdentity": holder},
        }


def test_a_standby_knows_whether_somebody_leads_and_what_a_leader_may_still_write() -> None:
    now, api = 1000.0, Leases()
    term = Term(15, lambda: now)
    lease = Lease(cast("Any", api), term, namespace="n", name="greenfleet", identity="me")
    assert not lease.is_led(), "nothing is known yet"

    async def look(at: float) -> tuple[bool, float, float]:
        nonlocal now
        now = at
        await lease._try()
        return lease.is_led(), lease.leaderless_seconds(), term.write_seconds()

    async def run() -> None:
        nonlocal now
        assert await look(1001) == (True, 0, 0), "another one holds it"
        api.renewed("other")
        assert await look(1010) == (True, 0, 0)
        now = 1041
        assert (lease.is_led(), lease.leaderless_seconds()) == (False, 1), "not renewed for twice its duration"
        assert await look(1042) == (True, 0, 15), "taken over"
        now = 1051
        assert term.write_seconds() == 6
        now = 1052.5
        assert (term.is_held(), term.write_seconds()) == (False, 0), "no write begins so late"

    asyncio.run(run())


FEEDS = version({"metadata": {"name": "feeds", "namespace": "shop"}}, "3")


@dataclass
class Nonsense:
    """An API server, or what stands before it, whose first list or watch says anything; the next ones are as they
    should be.
    """

    first_list: bytes | None = None
    first_watch: bytes | None = None
    lists: int = 0
    watches: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") == "true"
        self.watches, self.lists = self.watches + watching, self.lists + (not watching)
        if not watching:
            whole: Object = {"metadata": {"resourceVersion": "7"}, "items": [FEEDS]}
            text = self.first_list if self.first_list is not None and self.lists == 1 else json.dumps(whole).encode()
            return web.Response(body=text, content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        if self.watches == 1 and self.first_watch is not None:
            await response.write(self.first_watch)
            return response
        await response.write(json.dumps({"type": "MODIFIED", "object": version(FEEDS, "9")}).encode() + b"\n")
        await asyncio.sleep(60)
        return response


@pytest.mark.parametrize(
    "said", [b"<html>login</html>", b"", b"[]", b"null", b"{}", b'{"metadata": {}}', b'{"items": 5}', b"\xff\xfe"]
)
@pytest.mark.parametrize("where", ["first_list", "first_watch"])
def test_an_answer_that_is_none_is_asked_for_again(where: str, said: bytes) -> None:
    """A proxy's page, a cut line: any of it ended the process, for its reader expected nothing but an API server."""
    server, told = Nonsense(**{where: said + b"\n"}), cast("list[Object | None]", [])

    async def use(client: Client) -> None:
        task = asyncio.create_task(reflector(client, told).run())
        await until(lambda: task.done() or (told and told[-1] and told[-1]["metadata"]["resourceVersion"] == "9"))
        assert not task.done(), task.exception()
        task.cancel()

    with_client(cast("Any", server), use)


def test_a_line_of_a_watch_may_be_longer_than_any_buffer_and_a_cut_one_is_none() -> None:
    large = version({"metadata": {"name": "feeds", "namespace": "shop", "annotations": {"a": "x" * 9_000_000}}}, "8")
    line = json.dumps({"type": "MODIFIED", "object": large}).encode() + b"\n"
    server, told = Nonsense(first_watch=line + line[:1000]), cast("list[Object | None]", [])

    async def use(client: Client) -> None:
        task = asyncio.create_task(reflector(client, told).run())
        await until(lambda: task.done() or len(told) == 3)
        assert not task.done(), task.exception()
        task.cancel()

    with_client(cast("Any", server), use)
    assert [item["metadata"]["resourceVersion"] for item in told if item] == ["3", "8", "9"]
    assert server.lists == 1, "nothing has to be asked for anew"


def test_one_object_that_confuses_whoever_is_told_of_it_ends_nothing() -> None:
    told: list[str] = []

    async def use(client: Client) -> None:
        def confused(old: Object | None, new: Object | None) -> None:
            del old
            assert new is not None
            told.append(new["metadata"]["resourceVersion"])
            raise KeyError(new["metadata"]["name"])

        task = asyncio.create_task(Reflector(client, PATH, "a=b", confused).run())
        await until(lambda: task.done() or len(told) == 2)
        assert not task.done(), task.exception()
        task.cancel()

    with_client(cast("Any", Nonsense()), use)
    assert told == ["3", "9"]


@pytest.mark.parametrize("said", [b"<html>login</html>", b"{}", b"[]", b'{"metadata": null}'])
@pytest.mark.parametrize("status", [200, 403, 500])
def test_whatever_is_answered_for_the_lease_its_task_goes_on(status: int, said: bytes) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.Response(body=said, status=status, content_type="application/json")

    async def run() -> None:
        async with serving(handle) as url:
            client = Client(kubernetes_client.Configuration(host=url))
            term = Term(0.6)
            lease = Lease(client, term, namespace="a", name="b", identity="c")
            task = asyncio.create_task(lease.run())
            await until(lambda: task.done() or len(asked) > 3)
            assert not task.done(), task.exception()
            assert not term.is_held()
            task.cancel()
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 20))
