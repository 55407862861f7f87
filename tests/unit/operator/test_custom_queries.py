"""A query that a pool brings itself holds up nobody: not the questions for everybody, not other tenants' queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from greenfleet.api import GreenWorkerPool
from greenfleet.api.pool import parse_pool
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.collect import Depths
from greenfleet.prometheus.custom_queries import AT_ONCE, OF_NAMESPACE_AT_ONCE, Answer, CustomQueries
from greenfleet.prometheus.poller import Poller, source_of
from greenfleet.prometheus.series import QueryError
from greenfleet.settings import Prometheus, Server
from tests.unit.operator.objects import body
from tests.unit.operator.test_prometheus_client import serving

TICK_SECONDS = 0.5


def pool(namespace: str, query: str) -> GreenWorkerPool:
    return parse_pool(body(f"own-{query}", namespace=namespace, scaling={"prometheus": {"query": query}}))


def test_a_slow_query_of_one_pool_delays_no_answer_for_the_others() -> None:
    """The round waited for all of them, so that one slow query held every pool of the server for its time-out."""
    slow = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if "slow" in str((await request.post())["query"]):
            await slow.wait()
        result = [{"metric": {}, "value": [100.0, "7"]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

    async def run() -> None:
        pools = [pool("evil", "slow"), pool("shop", "quick"), parse_pool(body("plain"))]
        async with serving(handle) as url:
            settings = Prometheus(servers={"default": Server(url=url)}, allow_query=True)
            server = PrometheusServer("default", Server(url=url))
            poller = Poller({"default": server}, settings, lambda _: 0, tick_seconds=TICK_SECONDS)
            answers = await asyncio.wait_for(poller.ask("default", pools), 10)
            assert source_of(pools[0]) not in answers.depths, "not known yet is no outage: nobody looks at its pool"
            quick, plain = (answers.depths[source_of(one)] for one in pools[1:])
            assert isinstance(quick, Depths)
            assert [depth.sample.ready for depth in quick.of([""], "")] == [7]
            assert isinstance(plain, Depths)
            slow.set()
            answers = await poller.ask("default", pools)
            assert isinstance(answers.depths[source_of(pools[0])], Depths), "it is taken when it is there"
            await server.close()

    asyncio.run(run())


def test_a_query_that_yields_many_series_is_refused_and_nothing_of_it_is_kept() -> None:
    """`x) or ({a!=""}` ends the sum early: each series would be kept for as long as the pool lives."""

    async def handle(_: web.Request) -> web.Response:
        result = [{"metric": {"queue": f"q{number}"}, "value": [100.0, "7"]} for number in range(1000)]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

    async def run() -> None:
        crafted = pool("evil", "crafted")
        async with serving(handle) as url:
            settings = Prometheus(servers={"default": Server(url=url)}, allow_query=True)
            server = PrometheusServer("default", Server(url=url))
            poller = Poller({"default": server}, settings, lambda _: 0, tick_seconds=10.0)
            answers = await asyncio.wait_for(poller.ask("default", [crafted]), 10)
            refused = answers.depths[source_of(crafted)]
            assert isinstance(refused, QueryError)
            assert refused.reason is MetricsIssue.BAD_ANSWER
            assert "more than one series" in refused.message
            await server.close()

    asyncio.run(run())


def test_a_broken_query_of_one_pool_is_no_failure_of_the_administrators_server() -> None:
    """The alert GreenfleetQueriesFail counts by server, and whoever writes pools could let it fire."""

    async def handle(request: web.Request) -> web.Response:
        if "broken" in str((await request.post())["query"]):
            return web.json_response({"status": "error", "errorType": "bad_data"}, status=400)
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": []}})

    async def run() -> None:
        metrics = OperatorMetrics()
        async with serving(handle) as url:
            settings = Prometheus(servers={"default": Server(url=url)}, allow_query=True)
            server = PrometheusServer("default", Server(url=url), metrics.observe_query)
            poller = Poller({"default": server}, settings, lambda _: 0, tick_seconds=10.0)
            await asyncio.wait_for(poller.ask("default", [pool("evil", "broken"), parse_pool(body("plain"))]), 10)
            await server.close()
        values = {
            sample.name: sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.labels.get("server") == "default" and sample.name.endswith(("_total", "_count"))
        }
        assert values == {
            "greenfleet_query_duration_seconds_count": 2,
            "greenfleet_pool_query_duration_seconds_count": 1,
            "greenfleet_pool_query_failures_total": 1,
        }, "two of the operator's own: workers, and depths"

    asyncio.run(run())


async def _with(
    ask_one: Callable[[str, GreenWorkerPool], Awaitable[Answer]], work: Callable[[CustomQueries], Any]
) -> None:
    await work(CustomQueries(ask_one, TICK_SECONDS))


def test_one_namespace_has_few_queries_under_way_and_another_ones_is_asked_beside_them() -> None:
    under_way: list[str] = []
    most = 0

    async def ask_one(_: str, asked: GreenWorkerPool) -> Answer:
        nonlocal most
        under_way.append(asked.namespace)
        most = max(most, under_way.count("evil"))
        if asked.namespace == "evil":
            await asyncio.sleep(60)
        return Depths()

    async def work(own: CustomQueries) -> None:
        queries = {source_of(one): one for one in (*(pool("evil", f"q{n}") for n in range(50)), pool("shop", "q"))}
        own.ask("default", queries)
        answers = await own.answers("default")
        assert answers.pop("query:shop:q") == Depths()
        assert all(isinstance(answer, QueryError) for answer in answers.values())
        assert most == OF_NAMESPACE_AT_ONCE
        own.ask("default", {})
        assert await own.answers("default") == {}, "what no pool asks for any more is forgotten"

    asyncio.run(_with(ask_one, work))


def test_all_namespaces_together_have_no_more_under_way_than_half_of_what_prometheus_does_at_once() -> None:
    count = most = 0

    async def ask_one(_: str, asked: GreenWorkerPool) -> Answer:
        nonlocal count, most
        count += 1
        most = max(most, count)
        await asyncio.sleep(0.001)
        count -= 1
        return Depths()

    async def work(own: CustomQueries) -> None:
        queries = {source_of(one): one for one in (pool(f"n{n}", f"q{q}") for n in range(20) for q in range(5))}
        for _ in range(5):
            own.ask("default", queries)
            answers = await own.answers("default")
        assert all(answer == Depths() for answer in answers.values())
        assert most == AT_ONCE

    asyncio.run(_with(ask_one, work))


def test_a_query_of_the_same_words_in_another_namespace_is_another_query() -> None:
    assert source_of(pool("evil", "q")) != source_of(pool("shop", "q"))
