"""What one tenant's pods export costs nobody else their metrics: a real Prometheus scrapes honest and hostile targets.

No API server is needed for that: the queries, the client and the reading of the answers are the operator's own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from greenfleet.api.pool import parse_pool
from greenfleet.autoscaling.model import MetricsIssue, Problem
from greenfleet.controller.sampling import depths_of
from greenfleet.manifests.names import Role
from greenfleet.prometheus import client
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.collect import Depths, Workers
from greenfleet.prometheus.poller import WORKERS, Answers, Poller
from greenfleet.prometheus.sources import DEPTH_PARTS, WORKER_PARTS
from greenfleet.settings import Prometheus as Settings
from greenfleet.settings import Server, Source
from tests.integration.operator.harness import Prometheus, eventually
from tests.unit.operator.objects import body

GREENFLEET, ELSEWHERE = "greenfleet", "elsewhere"
LABELS = (
    "series",
    "task",
    "state",
    "reason",
    "le",
    "quantile",
    "pod",
    "instance",
    "job",
    "vhost",
    "broker2",
    "namespace",
)
"""Labels in which two series of a hostile target differ: what a query could set, match on, aggregate over or
relabel.
"""


class Targets:
    """One HTTP server, one path for each target."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = pages.get(self.path, "").encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    made = Targets()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield server
    server.stop()


def exported(namespace: str, queue: str = "feeds", depth: int = 7, more: str = "") -> str:
    """What an exporter and a worker of a namespace say, on one page. `more` are labels of every series."""
    lines = []
    for name in DEPTH_PARTS:
        about = "" if name.endswith("_up") else f',queue="{queue}"'
        value = {"greenfleet_queue_up": 1, "greenfleet_queue_messages_unacked": 2}.get(name, depth)
        lines.append(f'{name}{{broker="{namespace}/broker/url"{about}{more}}} {value}')
    for name in WORKER_PARTS:
        about = f'pool="{namespace}/feeds",role="eventlet",worker="feeds-1"'
        lines.append(f"{name}{{{about}{more}}} 5")
    lines.append(f'my_depth{{queue="{queue}"{more}}} {depth}')
    return "\n".join(lines) + "\n"


def pool(namespace: str, source: str = GREENFLEET) -> dict[str, Any]:
    return body(f"feeds-{source}", namespace=namespace, queues=["feeds"], scaling={"prometheus": {"source": source}})


def poller(server: PrometheusServer, settings: Settings) -> Poller:
    """In a cluster without workers."""
    return Poller({"default": server}, settings, lambda pool: 0, tick_seconds=1.0)


async def _ask(url: str, namespaces: tuple[str, ...]) -> Answers:
    pools = [parse_pool(pool(namespace, source)) for namespace in namespaces for source in (GREENFLEET, ELSEWHERE)]
    server = PrometheusServer("default", Server(url=url, scrape_interval="1s"))
    try:
        mine = Source(selector="my_depth", namespaces=["monitoring"])
        return await poller(server, Settings(sources={ELSEWHERE: mine})).ask("default", pools)
    finally:
        await server.close()


async def _depth(url: str, body: dict[str, Any], sources: dict[str, Source]) -> tuple[list[float], list[Problem]]:
    found, settings = parse_pool(body), Settings(sources=sources)
    server = PrometheusServer("default", Server(url=url, scrape_interval="1s"))
    try:
        answers = await poller(server, settings).ask("default", [found])
        samples, problems = depths_of(found, Role.EVENTLET, answers, settings)
        return [sample.ready for sample in samples], list(problems)
    finally:
        await server.close()


def depth(prometheus: Prometheus, body: dict[str, Any], **sources: Source) -> tuple[list[float], list[Problem]]:
    """What an operator with these sources knows about the depth of a pool's queues, and why not."""
    return asyncio.run(_depth(prometheus.url, body, sources))


def ask(prometheus: Prometheus, *namespaces: str) -> Answers:
    """What the scaling loop of an operator with pools in these namespaces knows after one round."""
    return asyncio.run(_ask(prometheus.url, namespaces))


def knows(answers: Answers, namespace: str) -> tuple[float, float] | None:
    """Depth and green threads of a namespace's pool; None if either is not known."""
    depths, workers = answers.depths[GREENFLEET], answers.workers
    if not isinstance(depths, Depths) or not isinstance(workers, Workers):
        return None
    found = depths.of((f"{namespace}/broker/url",), "feeds")
    fleet = workers.by_fleet.get((f"{namespace}/feeds", "eventlet"), ())
    return (found[0].sample.ready, fleet[0].sample.threads_limit) if len(found) == len(fleet) == 1 else None


def spoil(name: str) -> str:
    """Pages that a hostile pod could serve."""
    honest = exported("evil")
    match name:
        case "not a number":
            return "\n".join(f"{line.rsplit(' ', 1)[0]} NaN" for line in honest.splitlines()) + "\n"
        case "infinite":
            return "\n".join(f"{line.rsplit(' ', 1)[0]} +Inf" for line in honest.splitlines()) + "\n"
        case "odd text":
            odd = r'x="\"},{[]}\\ \n \"values\":[[1,\"2\"]]"'
            return exported("evil", more=f",{odd}")
        case "a name of another's":
            return exported("shop", depth=0)
        case label:
            return exported("evil", more=f',{label}="a"') + exported("evil", more=f',{label}="b"')


HOSTILE = [*LABELS, "not a number", "infinite", "odd text", "a name of another's"]


def test_whatever_labels_and_values_one_tenants_pods_export_the_others_metrics_arrive(
    targets: Targets, shared: Prometheus
) -> None:
    targets.pages["/shop"] = exported("shop")
    shared.add("shop", targets.port, {"namespace": "shop", "pod": "p", "__metrics_path__": "/shop"})
    eventually(lambda: knows(ask(shared, "shop", "evil"), "shop") == (7, 5), "the honest tenant is known", 40)
    for number, name in enumerate(HOSTILE):
        targets.pages[f"/evil-{number}"] = spoil(name)
        labels = {"namespace": "evil", "pod": f"evil-{number}", "__metrics_path__": f"/evil-{number}"}
        shared.add(f"evil-{number}", targets.port, labels)
    seen = f'count(count by (pod) ({{__name__=~"greenfleet_queue_up",pod=~"evil.*"}})) == {len(HOSTILE)}'
    eventually(lambda: instant(shared, seen), "every hostile target was scraped", 40)
    answers = ask(shared, "shop", "evil")
    for number in range(len(HOSTILE)):
        shared.remove(f"evil-{number}")
    assert knows(answers, "shop") == (7, 5)
    assert not any(answers.crowded.values())
    other = answers.depths[ELSEWHERE]
    assert isinstance(other, Depths), other
    assert [depth.sample.ready for depth in other.of(("", "shop"), "feeds")] == [7], "a source that names no broker too"


def test_a_tenant_whose_series_are_there_twice_has_no_metrics_for_it(targets: Targets, shared: Prometheus) -> None:
    """Two series that differ in one label, which no pod of ours exports, make no mixture: there is no sample,
    or two.
    """
    for label in LABELS:
        namespace = f"twice-{label}"
        half = exported(namespace, more=f',{label}="a"').splitlines()[::2]
        other = exported(namespace, depth=900, more=f',{label}="b"').splitlines()
        targets.pages[f"/{namespace}"] = "\n".join([*half, *other]) + "\n"
        shared.add(namespace, targets.port, {"namespace": namespace, "__metrics_path__": f"/{namespace}"})
    seen = f'count(count by (namespace) (greenfleet_queue_up{{namespace=~"twice.*"}})) == {len(LABELS)}'
    eventually(lambda: instant(shared, seen), "all were scraped", 40)
    answers = ask(shared, *(f"twice-{label}" for label in LABELS))
    assert isinstance(answers.depths[GREENFLEET], Depths)
    for label in LABELS:
        shared.remove(f"twice-{label}")
        depths = answers.depths[GREENFLEET].of((f"twice-{label}/broker/url",), "feeds")
        assert {depth.sample.ready for depth in depths} == {7, 900}, label


def test_a_tenant_whose_series_are_too_many_is_left_out_and_the_others_metrics_arrive(
    targets: Targets, shared: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 800_000)
    targets.pages["/quiet"] = exported("quiet")
    targets.pages["/loud"] = exported("loud") + "".join(
        f'greenworker_task_risk{{pool="loud/feeds",role="eventlet",worker="feeds-1",reason="{n}"}} 1\n'
        for n in range(5000)
    )
    targets.pages["/long"] = exported("long", more=f',a="{"x" * 900_000}"')
    for namespace in ("quiet", "loud", "long"):
        shared.add(namespace, targets.port, {"namespace": namespace, "__metrics_path__": f"/{namespace}"})
    seen = 'count(count by (namespace) (greenfleet_queue_up{namespace=~"quiet|loud|long"})) == 3'
    eventually(lambda: instant(shared, seen), "all were scraped", 40)
    answers = ask(shared, "quiet", "loud", "long")
    assert knows(answers, "quiet") == (7, 5)
    assert answers.crowded[WORKERS] == {"loud", "long"}
    assert answers.crowded[GREENFLEET] == {"long"}
    for namespace in ("loud", "long"):
        shared.remove(namespace)


def test_a_queue_of_one_name_in_two_virtual_hosts_is_not_taken_for_one(targets: Targets, shared: Prometheus) -> None:
    targets.pages["/rabbitmq"] = (
        'rabbitmq_queue_messages_ready{queue="feeds",vhost="staging"} 3\n'
        'rabbitmq_queue_messages_ready{queue="feeds",vhost="production"} 9\n'
    )
    shared.add("rabbitmq", targets.port, {"namespace": "rabbitmq", "__metrics_path__": "/rabbitmq"})
    named = Source(selector="rabbitmq_queue_messages_ready", namespaces=["rabbitmq"])
    eventually(lambda: depth(shared, pool("shop", "rabbitmq"), rabbitmq=named) != ([], []), "it was scraped", 40)
    samples, [problem] = depth(shared, pool("shop", "rabbitmq"), rabbitmq=named)
    assert not samples
    assert problem.reason is MetricsIssue.CONTRADICTION
    assert "vhost" in problem.message
    one = Source(selector='rabbitmq_queue_messages_ready{vhost="production"}', namespaces=["rabbitmq"])
    assert depth(shared, pool("shop", "production"), production=one) == ([9], [])


def test_an_exporter_that_nobody_named_speaks_for_its_own_namespace_and_the_others_hear_why(
    targets: Targets, shared: Prometheus
) -> None:
    targets.pages["/orders"] = 'rabbitmq_queue_messages_ready{queue="orders"} 4\n'
    shared.add("orders", targets.port, {"namespace": "evil", "__metrics_path__": "/orders"})

    def said(namespace: str) -> tuple[list[float], list[Problem]]:
        return depth(shared, body("orders", namespace=namespace, queues=["orders"], scaling=scaling))

    scaling = {"prometheus": {"source": "rabbitmq"}}
    eventually(lambda: said("evil") == ([4], []), "it was scraped", 40)
    samples, [problem] = said("shop")
    assert not samples
    assert problem.reason is MetricsIssue.NO_SAMPLE
    assert "prometheus.sources.rabbitmq.namespaces" in problem.message
    assert "evil" not in problem.message


def instant(prometheus: Prometheus, expression: str) -> list[Any]:
    async def query() -> list[Any]:
        server = PrometheusServer("default", Server(url=prometheus.url))
        try:
            return await server.query(expression)
        finally:
            await server.close()

    return asyncio.run(query())
