"""An answer that does not come in time: because of one namespace, which is left out of it, or because of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from greenfleet.api.pool import parse_pool
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.collect import Depths, Workers
from greenfleet.prometheus.crowded import USUAL_CHARACTERS, too_many_for_their_number
from greenfleet.prometheus.poller import WORKERS, Answers, Poller
from greenfleet.prometheus.series import QueryError
from greenfleet.prometheus.sources import GREENFLEET
from greenfleet.settings import Prometheus, Server
from tests.unit.operator.objects import body
from tests.unit.operator.test_prometheus_client import serving

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COUNT = "count by (namespace)"


def series(namespace: str, label: str = "") -> dict[str, object]:
    metric = {"__name__": "greenworker_threads_limit", "namespace": namespace, "pool": f"{namespace}/feeds", "a": label}
    return {"metric": metric, "values": [[100.0, "5"]]}


def answer(*found: dict[str, object], kind: str = "matrix") -> web.Response:
    return web.json_response({"status": "success", "data": {"resultType": kind, "result": found}})


async def never() -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


def ask(handle: Handler) -> Answers:
    async def run() -> Answers:
        pools = [parse_pool(body("feeds", namespace=namespace)) for namespace in ("evil", "shop")]
        async with serving(handle) as url:
            server = PrometheusServer("default", Server(url=url, timeout="1s"))
            try:
                poller = Poller({"default": server}, Prometheus(), lambda _: 5, tick_seconds=2.0)
                return await poller.ask("default", pools)
            finally:
                await server.close()

    return asyncio.run(run())


async def query_of(request: web.Request) -> str:
    return str((await request.post())["query"])


def test_an_answer_that_one_namespace_makes_late_comes_without_it() -> None:
    """The namespaces that such an answer begins with are known when it breaks off: one is far too large."""

    async def handle(request: web.Request) -> web.StreamResponse:
        query = await query_of(request)
        if "greenworker" not in query or 'namespace!~"evil"' in query:
            return answer(series("shop"))
        response = web.StreamResponse()
        await response.prepare(request)
        large = ",".join([json.dumps(series("evil", "x" * 900_000))] * 5)
        await response.write(f'{{"status":"success","data":{{"resultType":"matrix","result":[{large},'.encode())
        return await never()

    answers = ask(handle)
    assert answers.crowded[WORKERS] == {"evil"}
    assert isinstance(answers.workers, Workers)
    assert answers.crowded[GREENFLEET] == frozenset()


def test_an_answer_of_which_nothing_comes_is_late_because_of_whoever_has_too_many_series() -> None:
    """Prometheus says nothing before it has the whole answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        query = await query_of(request)
        if query.startswith(COUNT):
            counts = {"evil": "20000", "shop": "75"}
            return answer(
                *({"metric": {"namespace": name}, "value": [1, count]} for name, count in counts.items()), kind="vector"
            )
        return answer(series("shop")) if 'namespace!~"evil"' in query else await never()

    answers = ask(handle)
    assert answers.crowded[WORKERS] == answers.crowded[GREENFLEET] == {"evil"}
    assert isinstance(answers.workers, Workers)
    assert isinstance(answers.depths[GREENFLEET], Depths)


@pytest.mark.parametrize("counts", [{"evil": "80", "shop": "70"}, {"evil": "20000", "shop": "70"}, {}, None])
def test_a_server_that_is_slow_by_itself_leaves_nobody_out(counts: dict[str, str] | None) -> None:
    """Also where it is as slow without the one that has many series."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if counts is None or not (await query_of(request)).startswith(COUNT):
            return await never()
        return answer(
            *({"metric": {"namespace": name}, "value": [1, count]} for name, count in counts.items()), kind="vector"
        )

    answers = ask(handle)
    assert answers.crowded[WORKERS] == answers.crowded[GREENFLEET] == frozenset()
    assert isinstance(answers.workers, QueryError)
    assert answers.workers.reason is MetricsIssue.UNREACHABLE


def test_a_large_namespace_with_many_workers_is_not_to_blame() -> None:
    sizes = {"large": 900 * USUAL_CHARACTERS, "small": 9 * USUAL_CHARACTERS}
    assert too_many_for_their_number(sizes, {"large": 900, "small": 1}, USUAL_CHARACTERS) == {"small"}
    assert not too_many_for_their_number(sizes, {"large": 900, "small": 9}, USUAL_CHARACTERS)
