"""The built-in query sources against the real thing: real exporters, a real Prometheus, and what the operator reads of
them.

No API server is needed for that: the query, the client and the reading of the answer are the operator's own.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from celery import Celery
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from charts.gates.parts import programs, python_tool
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.collect import Depths, TargetDepth, read_depths
from greenfleet.prometheus.series import Series
from greenfleet.prometheus.sources import BUILT_IN, DepthQuery, greenfleet_depth, selected_depth
from greenfleet.settings import Server, Settings
from tests.integration.operator.harness import REPOSITORY, Prometheus, eventually, http_status
from tests.integration.worker.harness import RabbitMQ, Redis
from tests.ports import free_port

BROKER = "shop/broker/url"
WINDOW = 16.0


def elsewhere(name: str) -> DepthQuery:
    """A built-in source whose exporters run in namespaces that the administrator named."""
    named = BUILT_IN[name].model_copy(update={"namespaces": ["monitoring", "rabbitmq"]})
    return selected_depth(named, WINDOW)


def depths(prometheus: Prometheus, query: DepthQuery) -> Depths:
    """What the operator's scaling loop knows after one query."""

    async def ask() -> Depths:
        server = PrometheusServer("default", Server(url=prometheus.url, scrape_interval="1s"))
        try:
            return read_depths(await server.query(query.expression), query, verify_namespace=True)
        finally:
            await server.close()

    return asyncio.run(ask())


def ready(prometheus: Prometheus, query: DepthQuery, queue: str, broker: str = "") -> list[float]:
    """The depths of one queue, one for each target that speaks of it; every one with the time of its scrape."""
    return [depth.sample.ready for depth in depths(prometheus, query).of((broker,), queue)]


def await_ready(prometheus: Prometheus, query: DepthQuery, queue: str, wanted: float, broker: str = "") -> None:
    eventually(
        lambda: ready(prometheus, query, queue, broker) == [wanted],
        f"{queue} has {wanted:g} messages",
        40,
        lambda: str(depths(prometheus, query)),
    )


def publish(url: str, queue: str, count: int) -> None:
    app = Celery("producer", broker=url, set_as_current=False)
    try:
        for number in range(count):
            app.send_task("hub_app.fetch", (number, 0.1), queue=queue, ignore_result=True)
    finally:
        app.close()


Starter = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """`start(port, *command, **environment)`: an exporter as a process of its own, ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(port: int, *command: str, **environment: str) -> int:
        log = tmp_path / f"exporter-{port}.log"
        processes.append(
            subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=log.open("ab"), stderr=subprocess.STDOUT
            )
        )
        eventually(
            lambda: http_status(f"http://127.0.0.1:{port}/metrics") == 200, "the exporter answers", 60, log.read_text
        )
        return port

    yield run
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.fixture
def own_prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path / "prometheus")
    yield server
    server.stop()


def test_our_own_exporter_tells_depth_and_that_the_broker_is_up(
    redis: Redis, own_prometheus: Prometheus, start: Starter, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    url.write_text(redis.url)
    port = free_port()
    start(
        port,
        *(sys.executable, "-m", "greenworker.exporter"),
        GREENWORKER_BROKER=BROKER,
        GREENWORKER_BROKER_URL_FILE=str(url),
        GREENWORKER_QUEUES=json.dumps([{"queue": "own-feeds"}, {"queue": "own-none"}]),
        GREENWORKER_METRICS_PORT=str(port),
    )
    own_prometheus.add("ours", port, {"namespace": "shop"})
    publish(redis.url, "own-feeds", 7)
    await_ready(own_prometheus, greenfleet_depth(WINDOW), "own-feeds", 7, BROKER)
    assert ready(own_prometheus, greenfleet_depth(WINDOW), "own-none", BROKER) == [0], (
        "a healthy broker knows no such queue"
    )
    assert not depths(own_prometheus, greenfleet_depth(WINDOW)).down


def test_celery_exporter_tells_the_depth_of_its_queues(
    redis: Redis, own_prometheus: Prometheus, start: Starter
) -> None:
    python = python_tool(REPOSITORY / "requirements" / "celery-exporter.lock")
    publish(redis.url, "ce-feeds", 5)  # before it starts: it measures every 30 s
    publish(redis.url, "ce-mail", 2)
    port = free_port()
    start(
        port,
        *(str(python), "-m", "celery_prometheus_exporter", "--broker", redis.url, "--addr", f"127.0.0.1:{port}"),
        *("--queue-list", "ce-feeds", "ce-mail"),
    )
    own_prometheus.add("celery-exporter", port, {"namespace": "monitoring"})
    query = elsewhere("celery-exporter")
    await_ready(own_prometheus, query, "ce-feeds", 5)
    await_ready(own_prometheus, query, "ce-mail", 2)
    assert ready(own_prometheus, query, "unheard-of") == [], "what nobody measures is missing, not empty"


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, int]]:
    """A node with its own Prometheus plugin on a port of its own."""
    directory = tmp_path_factory.mktemp("rabbitmq")
    port = free_port()
    node = RabbitMQ(directory, plugins=("rabbitmq_prometheus",), settings=f"prometheus.tcp.port = {port}\n")
    yield node, port
    node.stop()


def test_rabbitmqs_own_plugin_tells_the_depth_of_every_queue(
    rabbitmq: tuple[RabbitMQ, int], own_prometheus: Prometheus
) -> None:
    node, port = rabbitmq
    publish(node.url, "rabbit-feeds", 6)
    publish(node.url, "rabbit-mail", 1)
    query = elsewhere("rabbitmq")
    own_prometheus.add("rabbitmq", port, {"namespace": "rabbitmq", "__metrics_path__": "/metrics/per-object"})
    await_ready(own_prometheus, query, "rabbit-feeds", 6)
    await_ready(own_prometheus, query, "rabbit-mail", 1)


def test_rabbitmqs_sum_over_all_queues_is_not_taken_for_the_depth_of_one(
    rabbitmq: tuple[RabbitMQ, int], own_prometheus: Prometheus
) -> None:
    node, port = rabbitmq
    publish(node.url, "rabbit-summed", 3)
    query = elsewhere("rabbitmq")
    own_prometheus.add("rabbitmq", port, {"namespace": "rabbitmq"})  # /metrics: aggregated, without the label `queue`
    eventually(lambda: depths(own_prometheus, query).queues, "the plugin was scraped", 40)
    assert ready(own_prometheus, query, "rabbit-summed") == []


def redis_exporter() -> str | None:
    """The program, where somebody has built it: `go install github.com/oliver006/redis_exporter@latest`."""
    return shutil.which("redis_exporter", path=f"{os.environ.get('PATH', '')}:{Path.home() / 'go' / 'bin'}")


@pytest.mark.slow
@pytest.mark.skipif(
    redis_exporter() is None, reason="needs `go install github.com/oliver006/redis_exporter@latest`, a minute's build"
)
def test_redis_exporter_tells_the_length_of_a_list(redis: Redis, own_prometheus: Prometheus, start: Starter) -> None:
    port = free_port()
    start(
        port,
        *(redis_exporter() or "", "-redis.addr", redis.url, "-web.listen-address", f"127.0.0.1:{port}"),
        *("-check-single-keys", "re-feeds"),
    )
    own_prometheus.add("redis-exporter", port, {"namespace": "monitoring"})
    query = elsewhere("redis-exporter")
    publish(redis.url, "re-feeds", 4)
    await_ready(own_prometheus, query, "re-feeds", 4)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert b"redis_up 1" in answer.read()


def documented(word: str) -> Settings:
    """The configuration of `docs/operator.md` that holds *word*, as the operator reads it."""
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "operator.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if word in block]
    return Settings.model_validate(yaml.safe_load(block))


def test_the_documented_source_tells_the_depth_of_an_sqs_queue(own_prometheus: Prometheus) -> None:
    """Series as YACE names them. What CloudWatch does not know is NaN, which is no depth of zero."""
    source = documented("queueLabel: dimension_QueueName").prometheus.source("sqs")
    assert source is not None
    registry = CollectorRegistry()
    labels = ("account_id", "dimension_QueueName", "name", "region")
    visible = Gauge("aws_sqs_approximate_number_of_messages_visible_average", "Help", labels, registry=registry)
    for queue, value in (("orders", 42.0), ("mail", 0.0), ("unknown", float("nan"))):
        visible.labels("123456789012", queue, f"arn:aws:sqs:eu-west-1:123456789012:{queue}", "eu-west-1").set(value)
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    try:
        own_prometheus.add("yace", port, {"namespace": "monitoring"})
        query = selected_depth(source, WINDOW)
        await_ready(own_prometheus, query, "orders", 42)
        assert ready(own_prometheus, query, "mail") == [0]
        [unknown] = ready(own_prometheus, query, "unknown")
        assert math.isnan(unknown), "which is BadValue"
        assert ready(own_prometheus, query, "unheard-of") == []
    finally:
        server.shutdown()
        thread.join()


class VictoriaMetrics:
    """A real single-node VictoriaMetrics with its defaults, which scrapes one target."""

    def __init__(self, directory: Path, target: int) -> None:
        directory.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        scrape = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "greenfleet",
                    "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": {"namespace": "shop"}}],
                }
            ],
        }
        (directory / "scrape.yaml").write_text(json.dumps(scrape))
        command: list[str | Path] = [programs("victoria-metrics")[0], f"-storageDataPath={directory / 'data'}"]
        command += [f"-httpListenAddr=127.0.0.1:{self.port}", f"-promscrape.config={directory / 'scrape.yaml'}"]
        command += ["-memory.allowedBytes=128MB"]
        self.process = subprocess.Popen(command, stdout=(directory / "log").open("ab"), stderr=subprocess.STDOUT)
        eventually(lambda: http_status(f"{self.url}/health") == 200, "VictoriaMetrics answers", 30)

    def read(self, expression: str) -> list[Series]:
        """What the operator's client reads of it."""

        async def ask() -> list[Series]:
            server = PrometheusServer("default", Server(url=self.url, scrape_interval="1s"))
            try:
                return await server.query(expression)
            finally:
                await server.close()

        return asyncio.run(ask())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def test_victoriametrics_with_its_default_latency_offset_is_as_young_as_prometheus(
    redis: Redis, start: Starter, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    url.write_text(redis.url)
    port = free_port()
    start(
        port,
        *(sys.executable, "-m", "greenworker.exporter"),
        GREENWORKER_BROKER=BROKER,
        GREENWORKER_BROKER_URL_FILE=str(url),
        GREENWORKER_QUEUES=json.dumps([{"queue": "vm-feeds"}]),
        GREENWORKER_METRICS_PORT=str(port),
    )
    victoria = VictoriaMetrics(tmp_path / "victoria", port)
    try:
        query = greenfleet_depth(WINDOW)

        def found() -> list[TargetDepth]:
            return list(
                read_depths(victoria.read(query.expression), query, verify_namespace=True).of((BROKER,), "vm-feeds")
            )

        publish(redis.url, "vm-feeds", 7)
        eventually(lambda: [depth.sample.ready for depth in found()] == [7], "the depth is 7", 20)
        age = time.time() - found()[0].sample.at
        assert age < stale_after_seconds(1.0), "an age beyond this would be StaleSample"
        eventually(lambda: [one.value for one in victoria.read(query.waiting)] == [7], "what waits is seen at once", 10)
    finally:
        victoria.stop()


def test_a_scrape_interval_that_is_longer_than_the_configuration_says_is_noticed(
    redis: Redis, start: Starter, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    url.write_text(redis.url)
    port = free_port()
    start(
        port,
        *(sys.executable, "-m", "greenworker.exporter"),
        GREENWORKER_BROKER=BROKER,
        GREENWORKER_BROKER_URL_FILE=str(url),
        GREENWORKER_QUEUES=json.dumps([{"queue": "seldom"}]),
        GREENWORKER_METRICS_PORT=str(port),
    )
    prometheus = Prometheus(tmp_path / "prometheus", scrape_interval="5s")
    prometheus.add("exporter", port, {"namespace": "shop"})

    async def problems() -> tuple[str, str]:
        wrong = PrometheusServer("default", Server(url=prometheus.url, scrape_interval="2s"))
        right = PrometheusServer("default", Server(url=prometheus.url, scrape_interval="5s"))
        expression = greenfleet_depth(17.0).expression
        try:
            for _ in range(80):
                await wrong.query(expression)
                await right.query(expression)
                if wrong.scrapes.problem("default"):
                    break
                await asyncio.sleep(1)
            return wrong.scrapes.problem("default"), right.scrapes.problem("default")
        finally:
            await wrong.close()
            await right.close()

    try:
        wrong, right = asyncio.run(problems())
    finally:
        prometheus.stop()
    assert "set it to 5s" in wrong
    assert right == ""
